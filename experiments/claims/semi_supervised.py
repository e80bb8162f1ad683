"""Claim: a discriminator makes 1/8 of the masks worth more (Hung et al., arXiv 1802.07934); mean teacher and
UniMatch, what one would take today, on the same images.

    python experiments/claims/semi_supervised.py --data=DIR --weights=mobilenet_v2_imagenet.npz

All runs see the same masks, and as many labelled images an update, 8 or, in twice as many updates, 4; the methods see
as many plain images beside them. Variants show what the discriminator's parts do, for one that sees the map alone, as
the published one does.
"""

import argparse
import functools

import claims
from ml_collections import ConfigDict

from configs.adversarial import get_config as adversarial
from configs.mean_teacher import get_config as mean_teacher
from configs.supervised import get_config as supervised
from configs.unimatch import get_config as unimatch

METHODS = {"adversarial": adversarial, "mean_teacher": mean_teacher, "unimatch": unimatch}
VARIANTS: dict[str, dict[str, float]] = {
    "adversarial, map alone": {},
    "adversarial, map alone, stride 8": {"output_stride": 8},
    "adversarial, map alone, no self-training": {"semi_weight": 0.0},
    "adversarial, map alone, one-hot": {"hard_maps": True},
    "adversarial, map alone, weights x10": {"adversarial_labelled_weight": 0.1, "adversarial_unlabelled_weight": 0.01},
}
FOUR = ", 4 an update"
IN_FOURS = "1/8 of the masks", "adversarial", "adversarial, map alone, stride 8"
RUNS = "1/8 of the masks", *METHODS, *VARIANTS, "all masks", *(run + FOUR for run in IN_FOURS)


def main() -> None:
    flags = claims.parse_flags(["voc_animals"])
    claim = claims.Claim("semi_supervised", flags.runs, flags.steps_share)
    for name in flags.sets:
        for seed in flags.seeds:
            for run in RUNS:
                make = functools.partial(config_of, flags, name, run)
                claim.run(f"{name} {run}", make, seed, "val", evaluate={"": None})
        print(claim.table(name))


def config_of(flags: argparse.Namespace, name: str, run: str, seed: int) -> ConfigDict:
    labelled, steps = (4, 2000) if run.endswith(FOUR) else (8, 1000)
    run = run.removesuffix(FOUR)
    arg = f"path={flags.data / name},crop=128,steps={steps}"
    arg += f",weights={flags.weights}" if flags.weights else ""
    if run in METHODS:
        config = METHODS[run](f"{arg},batch={2 * labelled},labelled=0.125")
    elif run in VARIANTS:
        config = adversarial(f"{arg},batch={2 * labelled},labelled=0.125")
        config.adversarial.update({"sees_image": False} | VARIANTS[run])
    else:
        config = supervised(f"{arg},batch={labelled}")
        if run != "all masks":
            config.data.assign = {"dense": 0.125, "unlabeled": 0.875}
    claims.small_animals(config)
    return claims.quiet(config, seed)


if __name__ == "__main__":
    main()
