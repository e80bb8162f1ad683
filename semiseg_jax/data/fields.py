"""`config.data`: which images, with which labels, and how they are read."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from semiseg_jax.data import published
from semiseg_jax.data.remote import address_of
from semiseg_jax.data.types import MADE_FOR
from semiseg_jax.options import OptionError, Options, option

USUAL_CANVAS = 512  # a side, at most, unless `canvas` says otherwise


@dataclasses.dataclass(frozen=True)
class Data(Options):
    """Which images, with which labels, and how they are read."""

    name: str = option(
        "shapes", "what `semiseg list datasets` shows, tfds:NAME, or one of your own; sets are joined by +"
    )
    path: str = option("", "of the dataset's source, where it has one; joined by + as the sets are")
    data_dir: str = option(
        "",
        "where built datasets are kept, and those of tfds lie, also gs:// or s3://; empty = TFDS_DATA_DIR or "
        "~/tensorflow_datasets",
    )
    options: Mapping[str, Any] = option({}, "further options that the dataset declares; by set, where sets are joined")
    class_map: Mapping[str, Mapping[str, str]] = option(
        {},
        'where sets are joined, other names of classes: {"coco": {"airplane": "aeroplane"}}; "ignore" leaves one out',
    )
    train_split: str = option("train", 'or several: "train+extra"')
    eval_split: str = option("", "empty = val, validation or test, whichever exists first")
    quota: Mapping[str, int] = option({"dense": 8}, "rows of each kind in a micro-batch of one device", low=0)
    assign: Mapping[str, int | float | str] = option(
        {},
        "kind: share (0.1), number (50), split or published list (`semiseg list splits`) of the images that get it; "
        "empty = whatever labels they have",
    )
    simulate: Mapping[str, Mapping[str, Any]] = option(
        {}, 'weak labels to draw from masks, kind: options, such as {"scribble": {}}'
    )
    seed: int = option(0, "of simulated labels and of `assign`")
    strong_classes: tuple[str, ...] = option(
        (),
        "names, or coco:* for all that only this set has; images with any other class but background then serve as "
        "tags only",
    )
    balance_images: bool = option(
        False, "draw rows with masks so that each class is the rarest of its image equally often"
    )
    made_labels: str = option("", "folder of label maps ID.png that a program made, for rows of the kinds `made_for`")
    made_for: tuple[str, ...] = option(
        tuple(kind.name.lower() for kind in MADE_FOR), "kinds of rows that learn from `made_labels`"
    )
    canvas: tuple[int, int] = option((0, 0), "images are shrunk to fit; (0, 0) = the largest image, at most 512", low=0)
    max_side: int = option(
        -1,
        "image files are stored for training no longer than this; -1 = than the canvas, 0 = as they are; evaluation "
        "and prediction read them at their own size; sets of tfds are read as they are",
        low=-1,
    )
    threads: int = option(0, "that read and decode images; 0 = one a core, at most 16", low=0)
    skip_bad: bool = option(False, "leave unreadable or inconsistent images out instead of stopping")

    def __post_init__(self) -> None:
        super().__post_init__()
        for path in self.path.split("+") if "+" in self.name else [self.path]:
            if address := address_of(path):
                raise OptionError("path", f"is {address}: images are read from a local disk, copy them first")
        if address := address_of(self.made_labels):
            raise OptionError(
                "made_labels", f"is {address}: they are read from a disk of this machine; copy them first"
            )
        if any(self.canvas) and not all(self.canvas):
            raise OptionError("canvas", f"is {self.canvas}; give both sides, or (0, 0)")
        if 0 < self.max_side < max(self.canvas):
            raise OptionError(
                "max_side",
                f"is {self.max_side} but the canvas is {self.canvas}: evaluation would see images larger than training "
                "does; give a smaller canvas, or (0, 0)",
            )
        try:
            own = [f"{name}:" for name in self.name.split("+")] if "+" in self.name else []  # splits of joined sets
            lists = [amount for amount in self.assign.values() if isinstance(amount, str)]
            published.check_lists(name for name in lists if name.count(":") > 1 or not name.startswith(tuple(own)))
        except ValueError as error:
            raise OptionError("assign", f"is wrong: {error}") from None

    @property
    def stored_side(self) -> int:
        """The longest side that is stored; 0 = any."""
        return self.max_side if self.max_side >= 0 else max(self.canvas) or USUAL_CANVAS

    @property
    def workers(self) -> int:
        return self.threads or min(16, os.cpu_count() or 1)
