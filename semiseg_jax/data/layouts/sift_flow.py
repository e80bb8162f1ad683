r"""`sift_flow`: 2,688 outdoor scenes of 256x256 in 33 classes (Liu et al., Nonparametric Scene Parsing).

Images/spatial_envelope_256x256_static_8outdoorcategories/ID.jpg
SemanticLabels/spatial_envelope_256x256_static_8outdoorcategories/ID.mat    `S`: class from 1, 0 = unlabelled
TestSet1.txt                the 200 images that test, as FOLDER\ID.jpg; all others train
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semiseg_jax.data.fields import Data
from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.layout import Card, Listing, Size
from semiseg_jax.data.layouts.pairs import Pair, PairLayout, SplitOptions, check_size, with_val
from semiseg_jax.data.types import IGNORE

CLASSES = (
    *("awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert"),
    *("door", "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock"),
    *("sand", "sea", "sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window"),
)
SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
TEST = "TestSet1.txt"


class SiftFlow(PairLayout):
    """SIFT Flow: 2,688 outdoor scenes in 33 classes."""

    name = "sift_flow"
    Options = SplitOptions
    card = Card(
        classes="33, awning to window; some of them are rare",
        splits="train 2488, test 200 (TestSet1.txt)",
        licence="for research; see the site",
        source="SiftFlowDataset.zip, http://people.csail.mit.edu/celiu/LabelTransfer/code.html",
        tree=f"Images/{SCENES}/ID.jpg, SemanticLabels/{SCENES}/ID.mat, {TEST}",
    )
    pair = Pair(f"Images/{SCENES}", f"SemanticLabels/{SCENES}", ".jpg", ".mat")

    def __init__(self, data: Data):
        self.options = SplitOptions(**data.options)
        super().__init__(data)

    def missing(self) -> Sequence[str]:
        listed = not self.root.is_dir() or (self.root / TEST).is_file()
        return [*super().missing(), *([] if listed else [f"{TEST} is missing, the list of the images that test"])]

    def watched(self) -> Sequence[Path]:
        return [*super().watched(), self.root / TEST]

    def scan(self) -> Listing:
        items = self.pair.items(self.root, read_scene)
        lines = (self.root / TEST).read_text().split("\n")
        test = [Path(line.strip().replace("\\", "/")).stem for line in lines if line.strip()]
        strange = [id for id in test if id not in items]
        if strange:
            raise FolderError(
                f"{self.root / TEST}: {len(strange)} of {len(test)} images do not exist, the first is {strange[0]!r}"
            )
        held_out = set(test)
        splits = with_val([id for id in items if id not in held_out], sorted(held_out), self.options)
        return Listing(CLASSES, None, items, splits)


def read_scene(path: Path, size: Size) -> np.ndarray:
    """`S` of a MATLAB file, classes from 1, as [H,W] uint8 classes from 0 with 255 where it is 0."""
    from scipy.io import loadmat

    try:
        labels = np.asarray(loadmat(path, variable_names=["S"])["S"])
    except Exception:
        raise FolderError(f"{path}: not a MATLAB file with a matrix S") from None
    check_size(path, labels.shape, size)
    if labels.min() < 0 or labels.max() > len(CLASSES):
        raise FolderError(f"{path}: S has values {labels.min()}..{labels.max()} but must be in 0..{len(CLASSES)}")
    return np.where(labels == 0, IGNORE, labels.astype(np.int16) - 1).astype(np.uint8)
