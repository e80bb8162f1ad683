"""`stanford_background`: 715 outdoor scenes of about 320x240 in 8 classes (Gould et al., ICCV 2009).

    images/ID.jpg
    labels/ID.regions.txt       a matrix of class numbers, a line for each row; negative = unknown

The usual protocol is five-fold: 572 images train and 143 test. The folds are not published; here they are made at
random by a seed, and the option `fold` says which one tests.
"""

import dataclasses
from pathlib import Path

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Card, Listing, Size
from semiseg_jax.data.layouts.pairs import Pair, PairLayout, SplitOptions, check_size, shuffled, with_val
from semiseg_jax.data.types import IGNORE
from semiseg_jax.options import option

CLASSES = ("sky", "tree", "road", "grass", "water", "building", "mountain", "foreground object")
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class StanfordOptions(SplitOptions):
    fold: int = option(0, "which fifth of the images tests", low=0, high=FOLDS - 1)


class StanfordBackground(PairLayout):
    """Stanford background: 715 outdoor scenes in 8 classes."""

    name = "stanford_background"
    Options = StanfordOptions
    card = Card(
        classes=f"8: {', '.join(CLASSES)}",
        splits="train 572, test 143: one of five folds, at random by data.options.seed (none are published)",
        licence="for research; see the site",
        source="iccv09Data.tar.gz, http://dags.stanford.edu/projects/scenedataset.html",
        tree="images/ID.jpg, labels/ID.regions.txt",
    )
    pair = Pair("images", "labels", ".jpg", ".regions.txt")

    def __init__(self, data: Data):
        self.options = StanfordOptions(**data.options)
        super().__init__(data)

    def scan(self) -> Listing:
        items = self.pair.items(self.root, read_regions)
        order = shuffled(items, self.options.seed)
        test = set(order[self.options.fold :: FOLDS])
        splits = with_val([id for id in order if id not in test], sorted(test), self.options)
        return Listing(CLASSES, None, items, splits)


def read_regions(path: Path, size: Size) -> np.ndarray:
    """A matrix of class numbers as [H,W] uint8, with 255 where it is negative."""
    try:
        text = path.read_text()
        if not text.strip():  # of which numpy only warns, and warnings of threads can't be told apart
            raise ValueError
        array = np.loadtxt(text.splitlines(), dtype=np.int16, comments=None, ndmin=2)
    except (OSError, ValueError):
        raise FolderError(f"{path}: not a matrix of whole numbers") from None
    check_size(path, array.shape, size)
    if array.max() >= len(CLASSES):
        raise FolderError(f"{path}: has value {array.max()} but the classes are 0..{len(CLASSES) - 1}")
    return np.where(array < 0, IGNORE, array).astype(np.uint8)
