"""Claim: object maps learned from some animals label the others better than class activation maps (Xiao et al., arXiv
1711.06828), on two splits of the animals of Pascal VOC; people are always strong.

    python experiments/claims/transfer.py --data=DIR --weights=mobilenet_v2_imagenet.npz
"""

import argparse
import functools

import claims
from ml_collections import ConfigDict

from configs.supervised import get_config as supervised
from configs.transfer import get_config as transfer

SPLITS = {"A": ("cat", "cow", "person"), "B": ("dog", "horse", "sheep", "person")}


def main() -> None:
    flags = claims.parse_flags(["voc_animals"])
    claim = claims.Claim("transfer", flags.runs)
    for seed in flags.seeds:
        claim.run("all masks", functools.partial(config_of, flags, "", ""), seed, "val", evaluate={"": None})
        for letter, strong in SPLITS.items():
            for source in ("l_net", "cam"):
                make = functools.partial(config_of, flags, "+".join(strong), source)
                claim.run(f"split {letter} labels from {source}", make, seed, "val", evaluate={"": None})
    print(claim.table())


def config_of(flags: argparse.Namespace, strong: str, source: str, seed: int) -> ConfigDict:
    arg = f"path={flags.data / 'voc_animals'},crop=160,steps=1000"
    arg += f",weights={flags.weights}" if flags.weights else ""
    config = transfer(f"{arg},strong={strong},labels_from={source}") if strong else supervised(arg)
    config.data.train_split, config.data.eval_split = "train+train_aug_extra", "val"
    return claims.quiet(config, seed)


if __name__ == "__main__":
    main()
