"""Claim: object maps learned from some animals label the others better than class activation maps (Xiao et al., arXiv
1711.06828), on two splits of the animals of Pascal VOC; people are always strong.

    python experiments/claims/transfer.py --data=DIR --weights=mobilenet_v2_imagenet.npz
"""

import argparse
import functools

import claims
import numpy as np
from ml_collections import ConfigDict

from configs.supervised import get_config as supervised
from configs.transfer import get_config as transfer

SOURCES = ("l_net", "cam")
SPLITS = {"A": ("cat", "cow", "person"), "B": ("dog", "horse", "sheep", "person")}


def main() -> None:
    flags = claims.parse_flags(["voc_animals"])
    claim = claims.Claim("transfer", flags.runs)
    for seed in flags.seeds:
        claim.run("all masks", functools.partial(config_of, flags, "", ""), seed, "val", evaluate={"": None})
        for letter, strong in SPLITS.items():
            for source in SOURCES:
                make = functools.partial(config_of, flags, "+".join(strong), source)
                name = f"split {letter} labels from {source}"
                claim.run(name, make, seed, "val", evaluate={"": None}, shared=("classifier", "all"))
    print(claim.table())
    for letter, strong in SPLITS.items():
        for seed in flags.seeds:
            ours, baseline = (claim.rows[f"split {letter} labels from {source} seed {seed}"] for source in SOURCES)
            weak = [name for name in ours["iou"] if name not in (*strong, "background")]
            l_net, cam = (np.mean([row["iou"][name] for name in weak]) for row in (ours, baseline))
            of_full = ours["miou"] / claim.score("all masks", seed)
            print(f"split {letter} seed {seed}: weak classes {l_net:.3f}, from CAM {cam:.3f}; {of_full:.2f} of full")


def config_of(flags: argparse.Namespace, strong: str, source: str, seed: int) -> ConfigDict:
    arg = f"path={flags.data / 'voc_animals'},crop=128,steps=500"
    arg += f",weights={flags.weights}" if flags.weights else ""
    config = supervised(arg)
    if strong:
        config = transfer(f"{arg},strong={strong},labels_from={source}")
        config.transfer.classifier_steps, config.transfer.l_net_steps = 250, 300
        config.transfer.classifier_crop, config.transfer.classifier_scale = (192, 192), (1.0, 1.4)
        config.transfer.cam_scales = (1.4, 2.0)
    claims.small_animals(config)
    # No mask tells how rare the weak classes are; the background is three quarters of the pixels.
    config.balance_classes, config.class_weights = 0.0, (1.0, *[4.0] * 6)
    return claims.quiet(config, seed)


if __name__ == "__main__":
    main()
