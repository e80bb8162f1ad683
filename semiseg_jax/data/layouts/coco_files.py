"""Reads the annotation files of COCO: boxes, polygons, run lengths and panoptic maps."""

import json
import operator
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semiseg_jax.data import run_lengths
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Size
from semiseg_jax.data.layouts.pairs import check_size
from semiseg_jax.data.types import IGNORE

Row = dict[str, Any]  # a segment: category_id, bbox, iscrowd, and `segmentation` or, of panoptic files, `id`
_FINER = 5  # odd
_FRACTION_BITS = 4  # of corners of polygons


class Annotations:
    """An annotation file, instances or panoptic, that is parsed when it is first asked for."""

    def __init__(self, path: Path):
        self.path = path
        self._content: tuple[list[Row], dict[str, tuple[Size, list[Row]]]] | None = None
        self._problem = ""  # why it cannot be read; it is not tried again for each image
        self._lock = threading.Lock()

    def categories(self) -> list[Row]:
        """Rows with `id` and `name`, by id."""
        return self._parsed()[0]

    def segments(self, id: str, size: Size | None = None) -> list[Row]:
        """The segments of an image, given by the name of its file; of what it has to be of this size, if any."""
        images = self._parsed()[1]
        if id not in images:
            raise FolderError(f"{self.path}: has no image {id!r}")
        listed, rows = images[id]
        if size is not None:
            check_size(Path(f"{self.path}: {id}"), listed, size)
        return rows

    def forget(self) -> None:
        """Frees the memory of what was parsed; it is parsed again if need be."""
        self._content = None

    def _parsed(self) -> tuple[list[Row], dict[str, tuple[Size, list[Row]]]]:
        with self._lock:
            if self._problem:
                raise FolderError(self._problem)
            if self._content is None:
                self._content = self._parse()
            return self._content

    def _parse(self) -> tuple[list[Row], dict[str, tuple[Size, list[Row]]]]:
        try:
            with self.path.open("rb") as file:
                content = json.load(file)
            by_number: dict[int, list[Row]] = {row["id"]: [] for row in content["images"]}
            images = {
                Path(row["file_name"]).stem: ((row["height"], row["width"]), by_number[row["id"]])
                for row in content["images"]
            }
            for row in content["annotations"]:
                by_number[row["image_id"]] += row.get("segments_info", [row])
            return sorted(content["categories"], key=operator.itemgetter("id")), images
        except (OSError, KeyError, TypeError, ValueError) as error:
            self._problem = f"{self.path}: not COCO (images, annotations, categories): {error!r}"
            raise FolderError(self._problem) from None


def read_boxes(rows: Sequence[Row], classes: Mapping[int, int], size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [M,4] y0, x0, y1, x1 and classes [M] of the categories in `classes`; crowds are regions to ignore."""
    kept, labels = [], []
    for row in rows:
        if row["category_id"] not in classes:
            continue
        x, y, width, height = row["bbox"]
        box = (max(y, 0), max(x, 0), min(y + height, size[0]), min(x + width, size[1]))
        if box[0] < box[2] and box[1] < box[3]:
            kept.append(box)
            labels.append(IGNORE if row.get("iscrowd") else classes[row["category_id"]])
    return np.asarray(kept, np.float32).reshape(-1, 4), np.asarray(labels, np.int32)


def read_panoptic(path: Path, rows: Sequence[Row], table: np.ndarray, size: Size) -> np.ndarray:
    """A panoptic map, whose colours are numbers R + 256 G + 65536 B of segments, as [H,W] uint8 classes.

    `table` says the class of each category; 0 is no segment and becomes 255.
    """
    array = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if array is None:
        raise FolderError(f"{path}: not a readable PNG")
    check_size(path, array.shape[:2], size)
    numbers = array.astype(np.int32) @ np.array([65536, 256, 1], np.int32)  # OpenCV gives B, G, R
    pairs = sorted([(0, IGNORE), *((row["id"], int(table[row["category_id"]])) for row in rows)])
    known = np.array([number for number, _ in pairs])
    places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
    strange = known[places] != numbers
    if strange.any():
        raise FolderError(f"{path}: segment {numbers[strange][0]} is not among those of its annotations")
    return np.array([klass for _, klass in pairs], np.uint8)[places]


def draw_instances(where: str, rows: Sequence[Row], table: np.ndarray, size: Size) -> np.ndarray:
    """[H,W] uint8: instances on background 0, small ones over large ones."""
    mask = np.zeros(size, np.uint8)
    for row in sorted(rows, key=lambda row: -float(row.get("area") or row["bbox"][2] * row["bbox"][3])):
        klass = int(table[row["category_id"]])
        shape = row["segmentation"]
        if isinstance(shape, Mapping):
            mask[decode_runs(where, shape, size)] = klass
            continue
        for corners in shape:
            if corners:
                _fill(mask, np.asarray(corners, np.float64).reshape(-1, 2), klass)
    return mask


def _fill(mask: np.ndarray, corners: np.ndarray, klass: int) -> None:
    """Fills pixels whose middle lies in a polygon of corners x, y, where (0, 0) is the corner of the first pixel.

    OpenCV fills every pixel that the outline touches, too: it draws on a finer grid, of which the middles are taken.
    """
    height, width = mask.shape
    low = np.clip(np.floor(corners.min(0)), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(corners.max(0)), 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    fine = np.zeros(((high - low)[::-1] * _FINER), np.uint8)
    points = ((corners - low) * _FINER - 0.5) * 2**_FRACTION_BITS
    cv2.fillPoly(fine, [np.rint(points).astype(np.int32)], 1, shift=_FRACTION_BITS)
    inside = fine[_FINER // 2 :: _FINER, _FINER // 2 :: _FINER]
    mask[low[1] : high[1], low[0] : high[0]][inside > 0] = klass


def decode_runs(where: str, runs: Mapping[str, Any], size: Size) -> np.ndarray:
    """[H,W] bool of run lengths."""
    try:
        lengths, own = run_lengths.read(runs)
    except ValueError as error:
        raise FolderError(f"{where}: {error}") from None
    if own != tuple(size):
        raise FolderError(f"{where}: run lengths for {list(own)} do not fit its image {list(size)}")
    return run_lengths.draw(lengths, own)
