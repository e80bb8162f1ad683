"""Claim: from 0.1 % or 1 % of the pixels, total variation in training beats the same network without it, with or
without a Markov random field after it (Javanmardi et al., arXiv 1605.01368), on Weizmann horses.

    python experiments/claims/total_variation.py --data=DIR
    python experiments/claims/total_variation.py --data=DIR --weights=mobilenet_v2_imagenet.npz    # not from scratch

The weight of the term and that of the field are chosen on a quarter of the training images, then all of them train.
"""

import argparse
import functools
from pathlib import Path

import claims
from ml_collections import ConfigDict

from configs.supervised import get_config as supervised
from configs.total_variation import get_config as total_variation

FRACTIONS = (0.001, 0.01)
WEIGHTS = (0.1, 0.3, 1.0, 3.0)
BETAS = (1.0, 3.0, 10.0, 30.0)


def main() -> None:
    flags = claims.parse_flags(["weizmann_horse"])
    how = "ImageNet" if flags.weights else "scratch"
    claim = claims.Claim("total_variation", flags.runs)
    folder = claims.with_choose(flags.data / "weizmann_horse", flags.runs / "weizmann_horse")
    for fraction in FRACTIONS:
        name = f"{how} {100 * fraction:g} %"

        def make(weight: float, part: str, fraction: float = fraction) -> claims.Make:
            return functools.partial(config_of, flags, folder, fraction, weight, part)

        fields = {f" MRF {beta:g}": field(beta) for beta in BETAS}
        claim.run(f"choose {name} pCE", make(0.0, "fit"), 0, "choose", evaluate={"": None} | fields)
        for weight in WEIGHTS:
            claim.run(f"choose {name} TV {weight:g}", make(weight, "fit"), 0, "choose", evaluate={"": None} | fields)
        weight = max(WEIGHTS, key=lambda w: claim.score(f"choose {name} TV {w:g}", 0))
        beta = max(BETAS, key=lambda b: claim.score(f"choose {name} pCE MRF {b:g}", 0))
        beta_after_tv = max(BETAS, key=lambda b: claim.score(f"choose {name} TV {weight:g} MRF {b:g}", 0))
        for seed in flags.seeds:
            claim.run(f"{name} pCE", make(0.0, "train"), seed, "test", evaluate={"": None, " + MRF": field(beta)})
            ways = {"": None, " + MRF": field(beta_after_tv)}
            claim.run(f"{name} TV {weight:g}", make(weight, "train"), seed, "test", evaluate=ways)
    everything = functools.partial(config_of, flags, folder, 1.0, 0.0, "train")
    for seed in flags.seeds:
        claim.run(f"{how} all pixels", everything, seed, "test", evaluate={"": None})
    print(claim.table(how))


def config_of(
    flags: argparse.Namespace, folder: Path, fraction: float, weight: float, part: str, seed: int
) -> ConfigDict:
    arg = f"path={folder},crop=128,steps={600 if flags.weights else 2000}"
    arg += f",weights={flags.weights}" if flags.weights else ""
    if weight:
        config = total_variation(f"{arg},fraction={fraction},weight={weight}")
    else:
        config = supervised(f"{arg},labels={'dense' if fraction == 1 else 'partial'}")
        config.data.simulate = {"partial": {"fraction": fraction}} if fraction < 1 else {}
    # The setting in which the term has most to do: a small network learns the few pixels by heart, from the images as
    # they are, and no average smooths it. Its predictions then have more edges than the masks.
    config.augment.scale = (1.0, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter = 0.0
    config.ema = 0.0
    if not flags.weights:
        config.model.widths = (16, 32)
    config.data.train_split = part
    config.data.eval_split = "choose" if part == "fit" else "test"
    return claims.quiet(config, seed)


def field(beta: float) -> ConfigDict:
    return ConfigDict({"eval": {"post": {"name": "mrf", "beta": beta}}})


if __name__ == "__main__":
    main()
