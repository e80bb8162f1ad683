"""Real ImageNet weights name real animals. Skipped where the files are absent; SEMISEG_FIXTURES says where they are."""

import json
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from optional_files import optional_files

from semiseg_jax.models import Classifier, pretrained
from semiseg_jax.ops import standardize

WEIGHTS = optional_files() / "weights" / "mobilenet_v2_imagenet.npz"
ANIMALS = optional_files() / "data" / "voc_animals"
# Which of the 1001 ImageNet classes (0 is background) mean the animal: tabby to Egyptian cat; ox, water buffalo, bison;
# Chihuahua to Mexican hairless; sorrel; ram and bighorn.
NAMES = {
    "cat": range(282, 287),
    "cow": range(346, 349),
    "dog": range(152, 270),
    "horse": range(340, 341),
    "sheep": range(349, 351),
}
FILES = pytest.mark.skipif(
    not (WEIGHTS.is_file() and ANIMALS.is_dir()), reason="ImageNet weights or pictures are absent from SEMISEG_FIXTURES"
)


def centre_crop(path: Path, size: int = 224) -> np.ndarray:
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    scale = 256 / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top : top + size, left : left + size]


@pytest.mark.heavy
@FILES
def test_mobilenet_names_the_animal_in_its_top_five():
    tags = json.loads((ANIMALS / "tags.json").read_text())
    classes = json.loads((ANIMALS / "dataset.json").read_text())["classes"]
    single = {}
    for name in (ANIMALS / "splits" / "val.txt").read_text().split():
        present = [tag if isinstance(tag, str) else classes[tag] for tag in tags[name]]
        animals = [tag for tag in present if tag in NAMES]
        if len(animals) == 1:
            single[name] = animals[0]
    model = Classifier(1001, backbone="mobilenet_v2", layout="tensorflow", norm="none")
    variables = pretrained.load(model, WEIGHTS)
    top_five = jax.jit(lambda images: jax.lax.top_k(model.apply(variables, standardize(images)), 5)[1])
    hits: dict[str, list[bool]] = {animal: [] for animal in NAMES}
    names = list(single)[::3]
    for start in range(0, len(names), 16):
        batch = names[start : start + 16]
        images = np.zeros((16, 224, 224, 3), np.uint8)
        for row, name in enumerate(batch):
            images[row] = centre_crop(next((ANIMALS / "images").glob(f"{name}.*")))
        for name, named in zip(batch, np.asarray(top_five(images)), strict=False):
            hits[single[name]].append(any(int(index) in NAMES[single[name]] for index in named))
    shares = {animal: f"{np.mean(found):.3f} of {len(found)}" for animal, found in hits.items()}
    every = [hit for found in hits.values() for hit in found]
    print(f"top 5: {np.mean(every):.3f} of {len(every)} images; {shares}")
    assert np.mean(every) >= 0.7
