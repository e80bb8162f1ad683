"""What is written for annotation tools: regions of images, the most uncertain image first."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semiseg_jax.exchange.drawings import Size
from semiseg_jax.exchange.outlines import Region


@dataclasses.dataclass(frozen=True)
class ExportedImage:
    file: Path  # absolute
    name: str  # below the folder that holds all images, with /
    size: Size
    confidence: float  # mean over pixels of the largest probability
    regions: Sequence[Region]
    dropped: int  # regions that were too small


@dataclasses.dataclass(frozen=True)
class Export:
    classes: Sequence[str]
    colors: Sequence[Sequence[int]]
    background: int | None
    root: Path  # the folder that holds all images, at any depth
    images: Sequence[ExportedImage]  # in the order in which people should see them
    image_prefix: str = ""  # what a server puts before the names of images


def score_of(region: Region) -> dict[str, float]:
    """The field `score` of a region, if it is known how sure the model is of it."""
    return {} if region.score is None else {"score": round(region.score, 4)}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_order(path: Path, images: Sequence[ExportedImage]) -> None:
    """A table of the images, the most uncertain one first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "mean_confidence", "regions"])
        table.writerows([image.name, f"{image.confidence:.5f}", len(image.regions)] for image in images)
