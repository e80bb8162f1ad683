"""Images that are nearly the same: resized, recompressed or a little brighter copies of each other."""

from collections.abc import Sequence

import cv2
import numpy as np

CLOSE = 4  # of 128 bits


def looks(image: np.ndarray) -> np.ndarray:
    """[128] bool: whether it gets brighter from one of 8x8 cells to the next, sideways and downwards."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    small = cv2.resize(grey, (9, 9), interpolation=cv2.INTER_AREA).astype(np.float32)
    sideways, downwards = np.diff(small, axis=1)[:8], np.diff(small, axis=0)[:, :8]
    return np.concatenate([sideways.ravel(), downwards.ravel()]) > 0


def alike(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Places of images of two lists that look the same; images without any structure look like nothing."""
    if not len(one) or not len(other):
        return []
    first, second = np.stack(one).astype(np.float32), np.stack(other).astype(np.float32)
    differ = first.sum(1)[:, None] + second.sum(1)[None] - 2 * first @ second.T
    structured = (first.sum(1) > 8)[:, None] & (second.sum(1) > 8)[None]
    return [(int(a), int(b)) for a, b in np.argwhere((differ <= CLOSE) & structured)]
