"""COCO's run lengths of a mask: pixels off and on by turns, column by column, as numbers or as a compressed text."""

from collections.abc import Mapping
from typing import Any

import numpy as np

MOST_PIXELS = 200_000_000
_LONGEST = 7  # characters of a number: 35 bits, more than any image has pixels


def read(runs: Any) -> tuple[np.ndarray, tuple[int, int]]:
    """{"size": [H, W], "counts": numbers or text} -> lengths [N] and (H, W).

    Raises:
      ValueError: if they are not the lengths of an image of that size.
    """
    if not isinstance(runs, Mapping) or not {"size", "counts"} <= set(runs):
        raise ValueError("run lengths must have `size` and `counts`")
    size, counts = runs["size"], runs["counts"]
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise ValueError(f"the size of run lengths is {str(size)[:40]}, but must be [height, width]")
    pixels = size[0] * size[1]
    if pixels > MOST_PIXELS:
        raise ValueError(f"run lengths for an image of {size} are refused: it has over {MOST_PIXELS:,} pixels")
    if isinstance(counts, str):
        lengths = np.asarray(_uncompressed(counts), np.int64)
    elif isinstance(counts, list) and all(type(n) is int and 0 <= n <= pixels for n in counts):
        lengths = np.asarray(counts, np.int64)
    else:
        raise ValueError(f"`counts` of run lengths must be a text or a list of numbers from 0 to {pixels}")
    if (lengths < 0).any() or lengths.sum() != pixels:
        raise ValueError(f"run lengths of {lengths.sum()} pixels do not fit their size {list(size)}")
    return lengths, (size[0], size[1])


def draw(lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H,W] bool of lengths that `read` gave."""
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size[1], size[0]).T


def _uncompressed(text: str) -> list[int]:
    """Run lengths of a text: five bits a character from "0" on, lowest first; 32 says that the number goes on.

    Numbers are signed, and from the fourth on they are differences to the last number but one.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * _LONGEST:
            raise ValueError("the text of run lengths is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        if not 0 <= lengths[-1] <= MOST_PIXELS:
            raise ValueError("the text of run lengths is damaged")
        value = shift = 0
    if shift:
        raise ValueError("the text of run lengths ends within a number")
    return lengths
