"""Files of label maps: class indices, or the colours of classes."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from semiseg_jax.data.records import why_unreadable
from semiseg_jax.data.types import IGNORE

Size = tuple[int, int]
Color = tuple[int, ...]
_SHOWN = 5


class FolderError(ValueError):
    """What is wrong with the files of a dataset, every problem on a line of its own."""


def moved_colors(files: Iterable[tuple[Path, Mapping[int, Color]]], remedy: str) -> str:
    """What is wrong with palette files that show one colour for different indices: each has an order of its own.

    `files` are paths and their `own_colors`. "" where all agree.
    """
    first: dict[Color, tuple[int, Path]] = {}
    for path, colors in files:
        for index, color in colors.items():
            known, other = first.setdefault(color, (index, path))
            if known != index:
                return (
                    f"the colour {color} is the index {known} in {other} but {index} in {path}: their palettes are in "
                    f"another order; {remedy}"
                )
    return ""


def own_colors(palette: Mapping[int, Color], values: Collection[int]) -> dict[int, Color]:
    """The colours of the indices that a file holds, as far as no other index of its palette has them."""
    times = Counter(palette.values())
    return {index: color for index, color in palette.items() if index in values and times[color] == 1}


def palette_of(file: Image.Image) -> dict[int, Color]:
    """The colour of each index, of a file that has a palette."""
    table = (file.getpalette() or []) if file.mode == "P" else []
    return dict(enumerate(zip(table[::3], table[1::3], table[2::3], strict=False)))


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as file:
            array = np.asarray(file)
        with path.open("rb") as bits:
            stretch = stretch_of(bits.read(26))
        return array // stretch if stretch > 1 else array
    except Image.DecompressionBombError:
        raise FolderError(f"{path}: has more pixels than Pillow reads; make image and mask smaller") from None
    except Exception as error:
        reason = why_unreadable(path, error) if path.is_symlink() else "not a readable PNG"
        raise FolderError(f"{path}: {reason}") from None


def stretch_of(header: bytes) -> int:
    """By what readers multiply the values of a file: grey PNGs of 2 and 4 bits a pixel are stretched to 0 to 255."""
    is_grey = header[:4] == b"\x89PNG" and header[25:26] == b"\0"
    return {2: 85, 4: 17}.get(header[24], 1) if is_grey else 1


def _classes_of(path: Path, array: np.ndarray, num_classes: int, colors: Sequence[Sequence[int]]) -> np.ndarray:
    """[H,W,C] colours -> [H,W] uint8 classes."""
    channels = array.shape[-1]
    if not colors or channels not in (3, 4) or array.dtype != np.uint8:
        hint = "" if colors or channels not in (3, 4) else "; `colors` of dataset.json may say what colours stand for"
        raise FolderError(f"{path}: has {channels} channels but must hold one class index a pixel{hint}")
    if channels == 4 and (array[..., 3] < 255).any():
        raise FolderError(f"{path}: is transparent in places; a mask must say what each pixel is")
    shifts = np.array([1 << 16, 1 << 8, 1])
    codes, known = array[..., :3] @ shifts, np.asarray(colors) @ shifts
    if len(np.unique(known)) < len(known):
        raise FolderError(f"{path}: is in colours, but in `colors` of dataset.json one stands for two classes")
    order = np.argsort(known)
    place = order[np.clip(np.searchsorted(known[order], codes), 0, len(known) - 1)]
    strange = np.unique(codes[known[place] != codes])
    if len(strange):
        shown = ", ".join(str([code >> 16, code >> 8 & 255, code & 255]) for code in strange[:_SHOWN].tolist())
        raise FolderError(f"{path}: has colours that are not among `colors` of dataset.json: {shown}")
    return np.where(place < num_classes, place, IGNORE).astype(np.uint8)


def values_of(mask: np.ndarray) -> np.ndarray:
    """The different values of a map, in order; those of bytes without a copy."""
    if mask.dtype != np.uint8:
        return np.unique(mask)
    return np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]))


def read_index_map(
    path: Path,
    size: Size,
    num_classes: int,
    *,
    table: np.ndarray | None = None,
    ignore_label: int = IGNORE,
    colors: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """A file of class indices as [H,W] uint8 with 255 where there is no label; palette files give their indices.

    `table` [256] says which class each value of the file stands for; else values are classes, `ignore_label` none.
    With `colors` of the classes, a file may show these instead; further colours then mean pixels to ignore.
    """
    array = _read(path)
    if array.shape[:2] != tuple(size):
        raise FolderError(f"{path}: is {array.shape[1]}x{array.shape[0]} but its image is {size[1]}x{size[0]}")
    if array.ndim != 2:
        return _classes_of(path, array, num_classes, colors)
    if array.dtype != np.uint8:
        array = array.astype(np.int64)
    values = values_of(array)
    if table is None:
        strange = np.setdiff1d(values, [*range(num_classes), ignore_label])
        if len(strange):
            raise FolderError(
                f"{path}: has values {strange[:8].tolist()} but the classes are 0..{num_classes - 1} "
                f"and ignore_label is {ignore_label}"
            )
        out = array.astype(np.uint8)
        out[array == ignore_label] = IGNORE
        return out
    strange = values[(values < 0) | (values >= len(table))]
    if len(strange):
        raise FolderError(f"{path}: has values {strange[:8].tolist()} that stand for no class")
    return table[array]
