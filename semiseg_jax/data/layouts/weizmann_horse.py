"""`weizmann_horse`: the Weizmann horses, 328 side views with a mask of the horse.

    rgb/horse001.jpg            photographs, at scales of their own
    gray/horse001.jpg           the same in grey, at the scale of the masks (option `images`)
    figure_ground/horse001.jpg  masks, white on black; JPEG, so that the border is taken at half brightness

A mask is stretched to its image. The set has no official split: 200 of the images train and 128 test, at random by a
seed, and parts of an incomplete tree in proportion.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Card, Listing, Size
from semiseg_jax.data.layouts.pairs import Pair, PairLayout, SplitOptions, shuffled, with_val
from semiseg_jax.options import option

IMAGES, TRAIN = 328, 200


@dataclasses.dataclass(frozen=True)
class HorseOptions(SplitOptions):
    images: str = option("rgb", "which pictures", choices=("rgb", "gray"))


class WeizmannHorse(PairLayout):
    """Weizmann horses: 328 side views, horse or background."""

    name = "weizmann_horse"
    Options = HorseOptions
    card = Card(
        classes="2: background, horse",
        splits="train 200, test 128, at random by data.options.seed (there is no official split)",
        licence="for research; see the site",
        source="weizmann_horse_db.tar.gz of Eran Borenstein, www.msri.org/people/members/eranb",
        tree="rgb/horse001.jpg or gray/horse001.jpg, figure_ground/horse001.jpg",
    )

    def __init__(self, data: Data):
        self.options = HorseOptions(**data.options)
        self.pair = Pair(self.options.images, "figure_ground", ".jpg", ".jpg")
        super().__init__(data)

    def scan(self) -> Listing:
        items = self.pair.items(self.root, read_figure)
        order = shuffled(items, self.options.seed)
        cut = round(len(order) * TRAIN / IMAGES)
        splits = with_val(order[:cut], order[cut:], self.options)
        return Listing(("background", "horse"), 0, items, splits, ((0, 0, 0), (200, 60, 60)))


def read_figure(path: Path, size: Size) -> np.ndarray:
    """[H,W] uint8, 1 on the figure: where the mask, stretched to the image, is brighter than half."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise FolderError(f"{path}: not a readable image")
    height, width = grey.shape
    if abs(height - width * size[0] / size[1]) > 1.5 and abs(width - height * size[1] / size[0]) > 1.5:
        raise FolderError(f"{path}: is {width}x{height}, of another shape than its image, {size[1]}x{size[0]}")
    if grey.shape != tuple(size):
        grey = cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return (grey > 127).astype(np.uint8)
