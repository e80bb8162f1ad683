"""The documents of the project: their code blocks, commands, links and headings, and a place to run what they show."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg_jax import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "configs/*.md", "experiments/results/*.md")
    for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
CLASSES = ("background", "cat", "dog", "cow")
SIZE = (40, 48)
# Runs of these documents take seconds.
SMALL = [
    "--config.steps=2", "--config.augment.crop=(32, 32)", '--config.model={"name": "unet", "widths": (8, 8)}',
    "--config.eval.every=2", "--config.eval.batch_size=2", "--config.eval.max_images=2",
    "--config.log.tensorboard=False", "--config.data.data_dir=built", "--config.data.threads=1",
]  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A document without its code blocks."""
    return BLOCK.sub("", path.read_text())


def blocks(path: Path, *languages: str) -> list[str]:
    return [source for language, source in BLOCK.findall(path.read_text()) if language in languages]


def commands(source: str) -> Iterator[list[str]]:
    """The words of every command of a shell block; && is between two."""
    for line in source.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


def semiseg_commands(path: Path) -> list[list[str]]:
    """The arguments of every `semiseg` command in the shell blocks, also behind what launches it."""
    found = []
    for source in blocks(path, "bash"):
        for words in commands(source):
            if words[0].endswith("semiseg"):
                found.append(words[1:])
    return found


class Nothing(dict):
    """What a verb gives that was not called."""

    def __missing__(self, key):
        return 0

    def __getattr__(self, name):
        return 0


def record_verbs(patch: pytest.MonkeyPatch, read_config) -> list[tuple[str, tuple]]:
    """From now on commands do nothing; the list gets what each verb would have been called with."""
    called: list[tuple[str, tuple]] = []

    def recorder(name):
        def verb(*args, **options):
            called.append((name, args))
            return Nothing()

        return verb

    for node in ast.walk(ast.parse(Path(cli.__file__).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("semiseg_jax.verbs"):
            for alias in node.names:
                patch.setattr(importlib.import_module(node.module), alias.name, recorder(alias.name))
    patch.setattr(importlib.import_module("semiseg_jax.verbs.workdir"), "read_config", read_config)
    return called


def make_place(root: Path) -> None:
    """The files that documents speak of: a dataset folder DIR with labels of every kind, and photos."""
    folder = root / "DIR"
    for name in ("images", "masks", "scribbles", "splits"):
        (folder / name).mkdir(parents=True)
    ids = [f"im{number}" for number in range(9)]
    boxes = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES) if i]}
    points, tags = {}, {}
    for number, id in enumerate(ids):
        kind, box = 1 + number % 3, (12, 8 + number, 18, 16)
        image, mask, scribble = _drawn(kind, box)
        Image.fromarray(image).save(folder / "images" / f"{id}.png")
        if number not in (4, 5):  # two images of the training split have none
            Image.fromarray(mask).save(folder / "masks" / f"{id}.png")
        Image.fromarray(scribble).save(folder / "scribbles" / f"{id}.png")
        points[id], tags[id] = [[18, 20, kind], [3, 3, 0]], [kind]
        boxes["images"].append({"id": number, "file_name": f"{id}.png"})
        boxes["annotations"].append({"image_id": number, "bbox": box, "category_id": kind})
    texts = {
        "dataset.json": json.dumps({"classes": CLASSES}), "points.json": json.dumps(points),
        "tags.json": json.dumps(tags), "boxes.json": json.dumps(boxes),
        "splits/train.txt": "\n".join(ids[:6]), "splits/val.txt": "\n".join(ids[6:]),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name in ("photos", "more", "PHOTOS"):
        (root / name).mkdir()
        for number in range(2):
            Image.fromarray(_drawn(1, (12, 8 + number, 18, 16))[0]).save(root / name / f"{number}.jpg")


def _drawn(kind: int, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image of a bright rectangle, its mask and its scribbles."""
    x, y, width, height = box
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + height, x : x + width] = kind
    image = np.where(mask[..., None] > 0, 40 + 60 * kind, 30) + np.random.default_rng(0).integers(0, 20, (*SIZE, 3))
    scribble = np.full(SIZE, 255, np.uint8)
    scribble[2, 4:40], scribble[y + 4, x + 2 : x + 12] = 0, kind
    return image.astype(np.uint8), mask, scribble


def anchors(path: Path) -> set[str]:
    """Of the headings of a document, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
