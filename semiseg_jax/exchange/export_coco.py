"""`coco`: one file of images, annotations and categories.

A region is a polygon, or a run-length encoding that is not compressed where it has holes. `images` stand in the order
of their mean confidence, which each of them has; so has each region as its `score`. Category ids are 1 for the first
class, and so on.
"""

from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.exchange.drawings import Size, fill
from semiseg_jax.exchange.exported import Export, score_of, write_json
from semiseg_jax.exchange.outlines import Region

FILE = "annotations.json"


def write(export: Export, output: Path) -> Path:
    """-> the file that was written."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(export.images, 1):
        height, width = image.size
        images.append({
            "id": number, "file_name": image.name, "height": height, "width": width,
            "mean_confidence": round(image.confidence, 5),
        })  # fmt: skip
        for region in image.regions:
            top, left, bottom, right = _edges(region)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": region.klass + 1, "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": region.pixels,
                "segmentation": _segmentation(region, image.size), **score_of(region),
            })  # fmt: skip
    categories = [
        {"id": klass + 1, "name": name, "supercategory": ""}
        for klass, name in enumerate(export.classes)
        if klass != export.background
    ]
    path = output / FILE
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return path


def _edges(region: Region) -> list[int]:
    outer = region.rings[0]
    return [*outer.min(0).tolist(), *outer.max(0).tolist()]


def _segmentation(region: Region, size: Size) -> Any:
    if len(region.rings) == 1:
        return [region.rings[0][:, ::-1].ravel().tolist()]  # x, y, x, y, ...
    top, left, bottom, right = _edges(region)
    mask = fill([ring - (top, left) for ring in region.rings], (bottom - top, right - left))
    return {"size": list(size), "counts": run_lengths(mask, (top, left), size)}


def run_lengths(mask: np.ndarray, corner: tuple[int, int], size: Size) -> list[int]:
    """Of a mask that lies at `corner` of an image: how many pixels are outside, inside, outside, ..., by columns."""
    x, y = np.nonzero(mask.T)
    if not len(x):
        return [size[0] * size[1]]
    place = (x + corner[1]) * size[0] + y + corner[0]
    gaps = np.flatnonzero(np.diff(place) > 1)
    starts, ends = place[np.append(0, gaps + 1)], place[np.append(gaps, -1)] + 1
    bounds = np.concatenate([[0], np.stack([starts, ends], 1).ravel(), [size[0] * size[1]]])
    counts: list[int] = np.diff(bounds).tolist()
    return counts if counts[-1] else counts[:-1]
