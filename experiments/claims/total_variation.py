"""Claim: from 0.1 % or 1 % of the pixels, total variation in training beats the same network without it, with or
without a Markov random field after it (Javanmardi et al., arXiv 1605.01368), on Weizmann horses.

    python experiments/claims/total_variation.py --data=DIR
    python experiments/claims/total_variation.py --data=DIR --weights=mobilenet_v2_imagenet.npz    # not from scratch

The weight of the term and those of the fields, with and without regard to the contrast of the image, are chosen on a
quarter of the training images, then all of them train.
"""

import argparse
import functools
from pathlib import Path

import claims
from ml_collections import ConfigDict

from configs.supervised import get_config as supervised
from configs.total_variation import get_config as total_variation

WEIGHTS = {"scratch": (0.1, 0.3, 1.0, 3.0, 10.0), "ImageNet": (0.1, 0.3, 1.0, 3.0)}
FIELDS = {"MRF": (0.2, (3.0, 10.0, 30.0)), "plain MRF": (0.0, (0.3, 1.0, 3.0))}  # contrast, costs of a boundary


def main() -> None:
    flags = claims.parse_flags(["0.1", "1", "100"])  # per cent of the pixels
    how = "ImageNet" if flags.weights else "scratch"
    claim = claims.Claim("total_variation", flags.runs)
    folder = claims.with_choose(flags.data / "weizmann_horse", flags.runs / "weizmann_horse")
    for percent in flags.sets:
        name = f"{how} {percent} %"
        make = functools.partial(config_of, flags, folder, float(percent) / 100)
        if percent == "100":
            for seed in flags.seeds:
                claim.run(f"{name} pCE", functools.partial(make, 0.0, "train"), seed, "test", evaluate={"": None})
            continue
        runs = {0.0: "pCE", **{weight: f"TV {weight:g}" for weight in WEIGHTS[how]}}
        every = {"": None, **{f" + {kind} {beta:g}": field(kind, beta) for kind in FIELDS for beta in FIELDS[kind][1]}}
        for weight, run in runs.items():
            claim.run(f"choose {name} {run}", functools.partial(make, weight, "fit"), 0, "choose", evaluate=every)
        best = max(WEIGHTS[how], key=lambda weight: claim.score(f"choose {name} {runs[weight]}", 0))
        for weight in (0.0, best):
            ways: dict[str, ConfigDict | None] = {"": None}
            for kind, (_, betas) in FIELDS.items():
                scores = {b: claim.score(f"choose {name} {runs[weight]} + {kind} {b:g}", 0) for b in betas}
                ways[f" + {kind}"] = field(kind, max(scores, key=lambda beta: scores[beta]))
            for seed in flags.seeds:
                config = functools.partial(make, weight, "train")
                claim.run(f"{name} {runs[weight]}", config, seed, "test", evaluate=ways)
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


def field(kind: str, beta: float) -> ConfigDict:
    return ConfigDict({"eval": {"post": {"name": "mrf", "beta": beta, "contrast": FIELDS[kind][0]}}})


if __name__ == "__main__":
    main()
