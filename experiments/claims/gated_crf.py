"""Claim: the Gated CRF loss makes weak labels worth more (Obukhov et al., arXiv 1906.04651), on human scribbles
(hearts), scribbles drawn from masks (streets) and human clicks (animals).

    python experiments/claims/gated_crf.py --data=DIR --weights=mobilenet_v2_imagenet.npz

All runs have the same network, crops, batch and number of updates; clicks weight the classes as in the paper. The last
lines of what it prints are the share of the gap between partial labels and full masks that the term closes.
"""

import argparse
import functools
from typing import NamedTuple

import claims
import numpy as np
from ml_collections import ConfigDict

from configs.gated_crf import click_weights
from configs.gated_crf import get_config as gated_crf
from configs.supervised import get_config as supervised
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.records import decode_mask
from semiseg_jax.data.types import IGNORE


class Setting(NamedTuple):
    labels: str
    train: str
    test: str
    crop: int
    steps: int
    simulate: bool = False
    weighted: bool = False


SETTINGS = {
    "acdc_scribble": Setting("scribble", "train", "test", 128, 800),
    "camvid": Setting("scribble", "train", "test", 160, 800, simulate=True, weighted=True),
    "voc_animals": Setting("points", "train+train_aug_extra", "val", 160, 800, weighted=True),
}
RUNS = ("partial cross-entropy", "gated CRF", "all masks")


def main() -> None:
    flags = claims.parse_flags(list(SETTINGS))
    claim = claims.Claim("gated_crf", flags.runs)
    for name in flags.sets:
        for run in RUNS:
            for seed in flags.seeds:
                make = functools.partial(config_of, flags, name, run)
                claim.run(f"{name} {run}", make, seed, SETTINGS[name].test, evaluate={"": None})
        print(claim.table(name))
        for seed in flags.seeds:
            partial, gated, full = (claim.score(f"{name} {run}", seed) for run in RUNS)
            print(f"{name} seed {seed}: {(gated - partial) / (full - partial):.2f} of the gap closed")


def config_of(flags: argparse.Namespace, name: str, run: str, seed: int) -> ConfigDict:
    setting = SETTINGS[name]
    arg = f"path={flags.data / name},crop={setting.crop},steps={setting.steps}"
    arg += f",weights={flags.weights}" if flags.weights else ""
    labels = "dense" if run == "all masks" else setting.labels
    config = (gated_crf if run == "gated CRF" else supervised)(f"{arg},labels={labels}")
    if setting.simulate and labels != "dense":
        config.data.simulate = {labels: {}}
    config.data.train_split, config.data.eval_split = setting.train, setting.test
    claims.quiet(config, seed)
    if setting.weighted or labels == "dense":
        config.class_weights = click_weights(labels_by_class(config))
    return config


def labels_by_class(config: ConfigDict) -> tuple[int, ...]:
    """Clicks of each class in the training images, or pixels along its scribbles or of its masks."""
    dataset = open_dataset(config.data)
    counts = np.zeros(dataset.info.num_classes)
    for record in dataset.records(config.data.train_split):
        amounts = None
        if "dense" in config.data.quota:
            mask = decode_mask(record["mask"], (0, 0))
            labels = mask[mask != IGNORE]
        elif "points" in config.data.quota:
            labels = np.asarray(record["points"])[:, 2]
        else:
            y0, x0, y1, x1, labels = np.asarray(record["strokes"]).T
            amounts = 1 + np.hypot(y1 - y0, x1 - x0)
        counts += np.bincount(labels.astype(int), amounts, minlength=len(counts))
    return tuple(int(count) for count in counts)


if __name__ == "__main__":
    main()
