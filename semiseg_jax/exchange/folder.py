"""From drawings to a dataset folder, whose layout stands in `data/folder.py`."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from semiseg_jax.data.layout import default_colors
from semiseg_jax.data.records import IMAGE_SUFFIXES
from semiseg_jax.data.threads import in_order
from semiseg_jax.data.types import IGNORE
from semiseg_jax.exchange.drawings import Drawing, Drawings, LabelFileError, Size

BACKGROUND = "background"
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written, by class and kind."""

    output: Path
    images: int
    unlabelled: int
    classes: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]  # class: areas, boxes, points, strokes, tags, pixels
    left_out: Sequence[str]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        kinds = [kind for kind in KINDS if any(self.counts[name].get(kind) for name in self.classes)]
        pixels = sum(self.counts[name].get("pixels", 0) for name in self.classes)
        width = max(map(len, self.classes))
        lines = [f"{self.output}: {self.images} images, {self.unlabelled} of them without any label"]
        lines.append(f"  {'class':{width}}" + "".join(f"{kind:>9}" for kind in kinds) + f"{'pixels':>9}" * bool(pixels))
        for name in self.classes:
            share = f"{self.counts[name].get('pixels', 0) / pixels:>9.2%}" if pixels else ""
            cells = "".join(f"{self.counts[name].get(kind, 0):>9}" for kind in kinds)
            lines.append(f"  {name:{width}}{cells}{share}")
        notes = [f"note: {text}" for text in self.notes]
        return "\n".join([*lines, *notes, *(f"left out: {text}" for text in self.left_out)])


KINDS = ("areas", "boxes", "points", "strokes", "tags")


@dataclasses.dataclass(frozen=True)
class _Written:
    """What one image adds to the files of all."""

    id: str
    counts: Counter[tuple[str, str]]
    points: list[list[int]]
    boxes: list[tuple[list[float], int, bool]] | None
    tags: list[int] | None
    size: Size


def write_folder(
    drawings: Drawings, images: Path, output: Path, *, link: bool = False, classes: Sequence[str] = ()
) -> Report:
    """Writes a dataset folder with all images below `images` and what was drawn on them.

    Args:
      drawings: of a tool's files.
      images: the folder that holds the images, at any depth.
      output: the folder to write; it must be absent or empty.
      link: link images instead of copying them.
      classes: their names in order; by default background, then those of the tool.

    Raises:
      LabelFileError: with every problem; nothing is then written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LabelFileError(f"{output} is there already and not empty; nothing is overwritten")
    names = _class_names(drawings, classes)
    found = find_images(images, drawings.label_files)
    drawn = _assigned(drawings.drawings, found, images)
    with _appearing(output) as folder:
        for name in ("images", "masks", "scribbles"):
            (folder / name).mkdir()
        jobs = [(id, path, drawn.get(id)) for id, path in found.items()]
        problems: list[str] = []
        written: list[_Written] = []
        bar = tqdm(jobs, desc="importing", unit="image", leave=False, disable=None)
        for result in in_order(lambda job: _try(job, folder, names, link), bar):
            if isinstance(result, str):
                problems.append(result)
            else:
                written.append(result)
        if problems:
            more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            shown = "\n  ".join(problems[:_SHOWN])
            raise LabelFileError(f"{len(problems)} problem(s), nothing was written:\n  {shown}{more}")
        _write_json_files(folder, names, written, drawn, drawings.colors)
        for name in ("masks", "scribbles"):
            with contextlib.suppress(OSError):  # which is not empty
                (folder / name).rmdir()
    totals: dict[str, Counter[str]] = {name: Counter() for name in names}
    for item in written:
        for (name, kind), count in item.counts.items():
            totals[name][kind] += count
    bare = sum(not item.counts and item.boxes is None and item.tags is None for item in written)
    return Report(output, len(written), bare, names, totals, drawings.left_out, drawings.notes)


def find_images(root: Path, without: Collection[Path] = ()) -> dict[str, Path]:
    """{ID: path} of all images below a folder; folders below it become part of the id."""
    found: dict[str, Path] = {}
    left = set(without)
    for path in image_files(root):
        id = "_".join(path.relative_to(root).with_suffix("").parts)
        if path in left:
            continue
        if id in found:
            raise LabelFileError(f"{found[id]} and {path} would have the same id, {id}; rename one of them")
        found[id] = path
    if not found:
        raise LabelFileError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def image_files(root: Path) -> list[Path]:
    """All images below a folder, in order."""
    if not root.is_dir():
        raise LabelFileError(f"{root}: there is no such folder of images")
    found = []
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        paths = [Path(folder, name) for name in sorted(files) if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    return found


def _class_names(drawings: Drawings, asked: Sequence[str]) -> list[str]:
    used = drawings.all_classes()
    names = list(asked) if asked else [BACKGROUND, *(name for name in used if name != BACKGROUND)]
    unknown = [name for name in used if name not in names]
    if unknown:
        raise LabelFileError(f"the labels name {unknown[0]!r}, which is not among --classes: {', '.join(names)}")
    if len(set(names)) < len(names) or not 2 <= len(names) <= 254:
        raise LabelFileError(f"there must be 2 to 254 different classes, but they are {', '.join(names)}")
    return names


def _assigned(drawings: Sequence[Drawing], found: Mapping[str, Path], root: Path) -> dict[str, Drawing]:
    """{ID: drawing}. A drawing belongs to the image whose path ends most like the one that it names."""
    by_name: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    folders = {part for path in found.values() for part in path.relative_to(root).parts[:-1]}
    for id, path in found.items():
        parts = path.relative_to(root).parts
        for name in {path.name, _plain(path.name), path.stem}:  # some tools leave out the suffix
            by_name.setdefault(name, []).append(((*parts[:-1], name), id))
    assigned: dict[str, Drawing] = {}
    problems = []
    for drawing in drawings:
        for image in (drawing.image, drawing.other_name):
            parts = PurePosixPath(image.replace("\\", "/")).parts
            if candidates := by_name.get(parts[-1] if parts else "", []):
                break
        exact = [(own, id) for own, id in candidates if found[id].name == parts[-1]]
        candidates = exact or candidates
        if len(parts) > 1 and parts[-2] in folders:  # another folder's image of that name is not meant
            candidates = [(own, id) for own, id in candidates if own[-2:-1] == parts[-2:-1]]
        best = max((_common_end(own, parts) for own, _ in candidates), default=0)
        ids = [id for own, id in candidates if _common_end(own, parts) == best]
        if len(ids) != 1:
            what = f"{len(ids)} images of that name are" if ids else "no image of that name is"
            problems.append(f"{drawing.source}: is about {drawing.image!r}, but {what} below {root}")
        elif ids[0] in assigned:
            problems.append(f"{drawing.source} and {assigned[ids[0]].source} are both about {found[ids[0]]}")
        else:
            assigned[ids[0]] = drawing
    if problems:
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise LabelFileError("\n  ".join(["labels and images do not fit:", *problems[:_SHOWN]]) + more)
    return assigned


def _plain(name: str) -> str:
    """A file's name as servers keep it that allow neither spaces nor signs in names."""
    return re.sub(r"[^-\w.]", "", name.replace(" ", "_"))


def _common_end(own: Sequence[str], other: Sequence[str]) -> float:
    """How many parts, from the last on, are the same; a little more if that is the whole of `own`."""
    count = 0
    for a, b in zip(reversed(own), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count + 0.5 * (count == len(own))


def _try(job: tuple[str, Path, Drawing | None], folder: Path, names: Sequence[str], link: bool) -> _Written | str:
    try:
        return _write_image(*job, folder, names, link)
    except LabelFileError as error:
        return str(error)


def _write_image(
    id: str, path: Path, drawing: Drawing | None, folder: Path, names: Sequence[str], link: bool
) -> _Written:
    size = image_size(path)
    target = folder / "images" / f"{id}{path.suffix}"
    if link:
        target.symlink_to(path.absolute())
    else:
        shutil.copyfile(path, target)
    counts: Counter[tuple[str, str]] = Counter()
    if drawing is None:
        return _Written(id, counts, [], None, None, size)
    if drawing.size is not None and tuple(drawing.size) != size:
        raise LabelFileError(
            f"{drawing.source}: was drawn on an image of {drawing.size[1]}x{drawing.size[0]} pixels, but {path} is "
            f"{size[1]}x{size[0]}"
        )
    _check_places(drawing, size)
    if drawing.areas or drawing.complete:
        mask = paint(drawing, size, names)
        cv2.imwrite(str(folder / "masks" / f"{id}.png"), mask)
        for klass, pixels in enumerate(np.bincount(mask.ravel(), minlength=len(names))[: len(names)]):
            counts[names[klass], "pixels"] += int(pixels)
    if drawing.strokes:
        cv2.imwrite(str(folder / "scribbles" / f"{id}.png"), draw_strokes(drawing, size, names))
    for kind, things in (("areas", drawing.areas), ("boxes", drawing.boxes), ("points", drawing.points),
                         ("strokes", drawing.strokes)):  # fmt: skip
        for thing in things:
            if thing.label is not None:
                counts[thing.label, kind] += 1
    for tag in drawing.tags or ():
        counts[tag, "tags"] += 1
    index = names.index
    points = [[min(int(p.y), size[0] - 1), min(int(p.x), size[1] - 1), index(p.label)] for p in drawing.points]
    boxes = [([b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0], index(b.label), b.ignore) for b in drawing.boxes]
    tags = None if drawing.tags is None else sorted({index(tag) for tag in drawing.tags})
    return _Written(id, counts, points, boxes or None, tags, size)


def _check_places(drawing: Drawing, size: Size) -> None:
    height, width = size
    for box in drawing.boxes:
        if not (box.y0 < box.y1 and box.x0 < box.x1):
            raise LabelFileError(f"{drawing.source}: a box of {box.label!r} on {drawing.image} has no area")
        if box.y0 < -1 or box.x0 < -1 or box.y1 > height + 1 or box.x1 > width + 1:
            raise LabelFileError(f"{drawing.source}: a box of {box.label!r} lies outside of {drawing.image}")
    for point in drawing.points:
        if not (0 <= point.y <= height and 0 <= point.x <= width):
            raise LabelFileError(f"{drawing.source}: a point of {point.label!r} lies outside of {drawing.image}")


def paint(drawing: Drawing, size: Size, names: Sequence[str]) -> np.ndarray:
    """[H,W] uint8 class indices; later areas cover earlier ones."""
    base = names.index(BACKGROUND) if drawing.complete and BACKGROUND in names else IGNORE
    mask = np.full(size, base, np.uint8)
    for area in drawing.areas:
        mask[area.pixels(size)] = IGNORE if area.label is None else names.index(area.label)
    return mask


def draw_strokes(drawing: Drawing, size: Size, names: Sequence[str]) -> np.ndarray:
    """[H,W] uint8 class indices along the strokes, 255 elsewhere."""
    drawn = np.full(size, IGNORE, np.uint8)
    for stroke in drawing.strokes:
        corners = np.floor(np.asarray(stroke.places, np.float64))[:, ::-1].astype(np.int32)
        corners = np.repeat(corners, 2, axis=0) if len(corners) == 1 else corners  # a dot
        cv2.polylines(drawn, [corners], False, names.index(stroke.label), max(1, round(stroke.width)))
    return drawn


def image_size(path: Path) -> Size:
    """Height and width as people see the image, turned upright by its EXIF tag."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception:
        raise LabelFileError(f"{path}: not a readable image") from None
    return (width, height) if turned else (height, width)


def _write_json_files(
    folder: Path,
    names: Sequence[str],
    written: Sequence[_Written],
    drawn: Mapping[str, Drawing],
    known_colors: Mapping[str, Sequence[int]],
) -> None:
    def write(name: str, content: Any) -> None:
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")

    colors = [
        list(known_colors.get(name, color)) for name, color in zip(names, default_colors(len(names)), strict=True)
    ]
    write("dataset.json", {"classes": list(names), "ignore_label": IGNORE, "colors": colors})
    if points := {item.id: item.points for item in written if item.points}:
        write("points.json", points)
    if tags := {item.id: item.tags for item in written if item.tags is not None}:
        write("tags.json", tags)
    if boxed := [item for item in written if item.boxes is not None]:
        write("boxes.json", {
            "images": [
                {"id": number, "file_name": f"{item.id}.png", "height": item.size[0], "width": item.size[1]}
                for number, item in enumerate(boxed)
            ],
            "annotations": [
                {"image_id": number, "bbox": bbox, "category_id": klass, "iscrowd": int(ignore)}
                for number, item in enumerate(boxed) for bbox, klass, ignore in item.boxes or ()
            ],
            "categories": [{"id": klass, "name": name} for klass, name in enumerate(names)],
        })  # fmt: skip
    splits: dict[str, list[str]] = {}
    if any(drawing.split for drawing in drawn.values()):  # images that no split names are for training
        for item in written:
            split = drawn[item.id].split if item.id in drawn else ""
            splits.setdefault(split or "train", []).append(item.id)
    odd = [split for split in splits if not split.replace("-", "").replace("_", "").isalnum()]
    if odd:
        raise LabelFileError(f"a split is called {odd[0]!r}, but its name must be of letters, digits, - and _")
    for split, ids in splits.items():
        (folder / "splits").mkdir(exist_ok=True)
        (folder / "splits" / f"{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A folder to write to that is `output` in the end, if nothing fails."""
    output = output.resolve()
    building = output.with_name(f"{output.name}.incomplete.{uuid.uuid4().hex[:8]}")
    building.mkdir(parents=True)
    try:
        yield building
        if output.is_dir():  # an empty one, in which a shell may stand
            for path in building.iterdir():
                path.rename(output / path.name)
        else:
            building.rename(output)
    finally:
        shutil.rmtree(building, ignore_errors=True)
