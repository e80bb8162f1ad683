"""Claim: the Gated CRF loss makes weak labels worth more (Obukhov et al., arXiv 1906.04651), on human scribbles
(hearts), scribbles drawn from masks (streets) and human clicks (animals).

    python experiments/claims/gated_crf.py --data=DIR --weights=mobilenet_v2_imagenet.npz

All runs have the same network, crops, batch and number of updates; classes are weighted by how rare they are among
the labels, by powers that SETTINGS gives (none on hearts, where weights were not tried). The last
lines of what it prints are the share of the gap between partial labels and full masks that the term closes.
"""

import argparse
import functools
from typing import NamedTuple

import claims
from ml_collections import ConfigDict

from configs.gated_crf import get_config as gated_crf
from configs.supervised import get_config as supervised


class Setting(NamedTuple):
    labels: str
    train: str
    test: str
    crop: int
    steps: int
    simulate: bool = False
    balance: float = 0.0  # see config.balance_classes


SETTINGS = {
    "acdc_scribble": Setting("scribble", "train", "test", 128, 800),
    "camvid": Setting("scribble", "train", "test", 160, 800, simulate=True, balance=1.0),
    "voc_animals": Setting("points", "train+train_aug_extra", "val", 128, 1000, balance=0.5),
}
RUNS = ("partial cross-entropy", "gated CRF", "all masks")


def main() -> None:
    flags = claims.parse_flags(list(SETTINGS))
    claim = claims.Claim("gated_crf", flags.runs, flags.steps_share)
    for name in flags.sets:
        for run in RUNS:
            for seed in flags.seeds:
                make = functools.partial(config_of, flags, name, run)
                claim.run(f"{name} {run}", make, seed, SETTINGS[name].test, evaluate={"": None})
        print(claim.table(name))
        for seed in flags.seeds:
            partial, gated, full = (claim.score(f"{name} {run}", seed) for run in RUNS)
            closed = f"{(gated - partial) / (full - partial):.2f} of the gap closed" if full > partial else "no gap"
            print(f"{name} seed {seed}: {closed}")


def config_of(flags: argparse.Namespace, name: str, run: str, seed: int) -> ConfigDict:
    setting = SETTINGS[name]
    arg = f"path={flags.data / name},crop={setting.crop},steps={setting.steps}"
    arg += f",weights={flags.weights}" if flags.weights else ""
    labels = "dense" if run == "all masks" else setting.labels
    config = (gated_crf if run == "gated CRF" else supervised)(f"{arg},labels={labels}")
    if setting.simulate and labels != "dense":
        config.data.simulate = {labels: {}}
    config.data.train_split, config.data.eval_split = setting.train, setting.test
    if name == "voc_animals":
        claims.small_animals(config)
    config.balance_classes = setting.balance
    return claims.quiet(config, seed)


if __name__ == "__main__":
    main()
