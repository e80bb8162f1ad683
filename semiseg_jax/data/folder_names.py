"""What lies in a dataset folder and is not read: by its name and by what was probably meant."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semiseg_jax.data.records import IMAGE_SUFFIXES

READ = ("dataset.json", "images", "masks", "scribbles", "points.json", "boxes.json", "tags.json", "splits")
KEYS = ("classes", "ignore_label", "colors", "background")
_REMARKS = ("name", "source", "license", "licence", "notes", "description", "version", "url", "citation", "authors",
            "year")  # fmt: skip
_MEANT: Mapping[str, Sequence[str]] = {
    "masks": ("labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth", "segmentation",
              "segmentations", "segmentationclass", "targets"),
    "images": ("img", "imgs", "photos", "jpegimages", "pictures"),
    "splits": ("imagesets", "lists"),
    "boxes.json": ("annotations.json", "coco.json", "instances.json", "_annotations.coco.json"),
}  # fmt: skip
_SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "trainval", "all")
_OF_TOOLS = (".json", ".xml")
_IMPORT = "labels of annotation tools come in by `semiseg import-labels`"
_OTHER_IMAGES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".dng", ".raw", ".cr2", ".nef", ".arw", ".psd",
                 ".svg")  # fmt: skip


def unused(root: Path) -> tuple[list[str], list[str]]:
    """-> problems, where images or splits would be left out, and remarks about what else is not read."""
    problems, remarks = _of_images(root / "images")
    others = []
    has_splits = any((root / "splits").glob("*.txt"))
    for path in _seen(root):
        name = path.name + "/" * path.is_dir()
        if path.name in READ:
            continue
        if path.is_file() and path.stem.lower() in _SPLITS and path.suffix.lower() in (".txt", ".csv"):
            text = f"{path}: is not read; did you mean splits/{path.stem}.txt, with an id a line?"
            (remarks if has_splits else problems).append(text)
        elif path.is_dir() and any(inside.suffix.lower() in _OF_TOOLS for inside in _seen(path)):
            remarks.append(f"{root}: {name} is not read; {_IMPORT}")
        elif meant := _meant(path.name):
            there = " It is there as well." if (root / meant).exists() else ""
            remarks.append(f"{root}: {name} is not read; did you mean {meant}{'/' * path.is_dir()}?{there}")
        elif path.is_dir() or path.suffix.lower() in (".json", ".xml", ".csv", ".tsv"):
            others.append(name)
    for path in _seen(root / "splits"):
        if path.suffix.lower() not in (".txt", ".md"):
            text = f"{path}: is not read; splits are files splits/NAME.txt with an id a line"
            (remarks if has_splits else problems).append(text)
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        remarks.append(f"{root}: not read: {', '.join(others[:5])}{more}")
    return problems, remarks


def unknown_keys(meta: Mapping[str, Any]) -> list[str]:
    """Keys of dataset.json that mean nothing, each with what was probably meant."""
    texts = []
    for key in meta:
        if key not in KEYS and key not in _REMARKS:
            near = difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0.5)
            texts.append(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return [f"{text} (the keys are {', '.join(KEYS)}; for people: {', '.join(_REMARKS)})" for text in texts]


def meta_problems(meta: Mapping[str, Any]) -> list[str]:
    """What is wrong with the content of dataset.json, whose `classes` is a list of 2 to 254."""
    classes = meta["classes"]
    problems = unknown_keys(meta)
    if strange := [name for name in classes if not isinstance(name, str) or not name.strip()]:
        problems.append(f"`classes` must be names, but one is {json.dumps(strange[0])}")
    elif len(set(classes)) < len(classes):
        problems.append(f"`classes` lists {max(classes, key=classes.count)!r} twice")
    background = meta.get("background")
    if background is not None and not _is_index(background, len(classes)):
        problems.append(f"`background` is {json.dumps(background)} but must be the index of a class, "
                        f"0..{len(classes) - 1}, or null for none")  # fmt: skip
    if "ignore_label" in meta and not _is_index(meta["ignore_label"], 256):
        problems.append(f"`ignore_label` is {json.dumps(meta['ignore_label'])} but must be a value from 0 to 255 that "
                        "masks may have; without any, leave it out")  # fmt: skip
    colors = meta.get("colors") or []
    if not isinstance(colors, list) or (colors and len(colors) < len(classes)):
        count = len(colors) if isinstance(colors, list) else "no list of"
        problems.append(f"{count} colors for {len(classes)} classes")
    elif strange := [color for color in colors if not _is_color(color)]:
        problems.append(f"`colors` must be [red, green, blue] from 0 to 255, but one is {json.dumps(strange[0])}")
    return problems


def _is_index(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def _is_color(color: Any) -> bool:
    return isinstance(color, list) and len(color) == 3 and all(_is_index(value, 256) for value in color)


def _of_images(folder: Path) -> tuple[list[str], list[str]]:
    problems: list[str] = []
    remarks: list[str] = []
    files: dict[str, list[str]] = {}
    for path in _seen(folder):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES:
            continue
        if path.is_dir():
            inner = sum(inside.suffix.lower() in IMAGE_SUFFIXES for inside in path.rglob("*"))
            if inner:
                problems.append(f"{path}: holds {inner} images that are not read; they must lie in {folder} itself")
        else:
            files.setdefault(suffix, []).append(path.name)
    for suffix, names in files.items():
        what = f"{folder}: {len(names)} {suffix or 'nameless'} files are not read, the first is {names[0]}"
        if suffix in _OTHER_IMAGES:
            problems.append(f"{what}; convert them to {', '.join(IMAGE_SUFFIXES[:3])}")
        elif suffix in _OF_TOOLS:
            remarks.append(f"{what}; {_IMPORT}")
        else:
            remarks.append(what)
    return problems, remarks


def _meant(name: str) -> str:
    for meant, others in _MEANT.items():
        if name.lower() in others:
            return meant
    kind = Path(name).suffix.lower()
    stems = {Path(known).stem: known for known in READ if Path(known).suffix == kind}
    near = difflib.get_close_matches(Path(name).stem.lower(), stems, n=1, cutoff=0.75)
    return stems[near[0]] if near else ""


def _seen(folder: Path) -> Iterable[Path]:
    """What people see in a folder: nothing that is hidden, such as ._X.jpg of macOS."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if not name.startswith(".")]
