"""Claim: from 0.1 % or 1 % of the pixels, total variation in training beats the same network without it, with or
without a Markov random field after it (Javanmardi et al., arXiv 1605.01368), on Weizmann horses.

    python experiments/claims/total_variation.py --data=DIR
    python experiments/claims/total_variation.py --data=DIR --weights=mobilenet_v2_imagenet.npz    # not from scratch

The weight of the term, and after partial cross-entropy those of the fields, with and without regard to the contrast of
the image, are chosen on a quarter of the training images, weights of the term that this cannot tell apart on all four
quarters; then all images train. From scratch, two networks: a U-Net of five levels, where the term spares edges of the
image, as the field does; and one of two levels with the plain term, whose predictions have more edges than the masks.
The larger one also goes on for half as many updates, from labels that the field makes of its predictions on the
training images (two rounds), with and without the term in the first round, with and without colours in the field.

The set `drive` asks something else: from 1 % of the pixels of retinal images, the term for thin structures, as
`thin=true` sets it, must not be worse than cross-entropy alone; larger weights, a later start and the plain term are
beside it. These runs are short and on small crops. Their length and the weight were chosen on the images that they are
scored on.
"""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import claims
from ml_collections import ConfigDict

from configs.supervised import get_config as supervised
from configs.total_variation import get_config as total_variation

CLOSE = 0.0005  # scores on the first quarter that tell nothing apart
FIELDS = {
    "MRF": {"contrast": 0.2},
    "plain MRF": {"contrast": 0.0},
    "colour MRF": {"contrast": 0.2, "color": 3.0},  # 3 chosen there too, from 0.1, 0.3, 1 and 3
}


# Of `thin=true`, what differs; None is cross-entropy alone.
VESSELS: Mapping[str, Mapping[str, float | str] | None] = {
    "pCE": None,
    "TV, thin": {},
    "TV, thin, weight 0.3": {"weight": 0.3},
    "TV, thin, weight 0.3, late": {"weight": 0.3, "start": 0.5, "ramp": 0.25},
    "TV, weight 0.3": {"weight": 0.3, "norm": "l1"},
}


@dataclasses.dataclass(frozen=True)
class Setting:
    steps: int
    weights: tuple[float, ...]  # of the term, to choose from
    betas: Mapping[str, tuple[float, ...]]  # of the fields, to choose from
    widths: tuple[int, ...] = ()  # of the U-Net
    contrast: float = 0.0
    rounds: int = 1


PLAIN = (0.3, 1.0, 3.0)
SETTINGS = {
    "scratch": Setting(
        3000,
        (20.0, 50.0, 100.0),
        {"MRF": (30.0, 100.0, 300.0), "plain MRF": PLAIN, "colour MRF": (30.0, 100.0, 300.0)},
        widths=(16, 32, 64, 128, 256),
        contrast=0.1,
        rounds=2,
    ),
    "two levels": Setting(
        2000, (0.1, 0.3, 1.0, 3.0, 10.0), {"MRF": (3.0, 10.0, 30.0), "plain MRF": PLAIN}, widths=(16, 32)
    ),
    "ImageNet": Setting(600, (0.1, 0.3, 1.0, 3.0), {"MRF": (3.0, 10.0, 30.0), "plain MRF": PLAIN}),
}


def main() -> None:
    flags = claims.parse_flags(["0.1", "1", "100", "drive"])  # per cent of the pixels of horses, and vessels
    claim = claims.Claim("total_variation", flags.runs, flags.steps_share)
    if "drive" in flags.sets:
        measure_vessels(claim, flags)
    percents = [percent for percent in flags.sets if percent != "drive"]
    for how in ("ImageNet",) if flags.weights else ("scratch", "two levels"):
        for percent in percents:
            measure(claim, flags, how, percent)
        print(claim.table(how))


def measure(claim: claims.Claim, flags: argparse.Namespace, how: str, percent: str) -> None:
    name, setting = f"{how} {percent} %", SETTINGS[how]
    make = functools.partial(config_of, flags, how, float(percent) / 100)
    if percent == "100":
        for seed in flags.seeds:
            claim.run(f"{name} pCE", functools.partial(make, 0.0, "train"), seed, "test", evaluate={"": None})
        return
    runs = {0.0: "pCE", **{weight: f"TV {weight:g}" for weight in setting.weights}}
    fields = {f" + {kind} {b:g}": field(kind, b) for kind, betas in setting.betas.items() for b in betas}
    for weight, run in runs.items():
        ways = {"": None, **({} if weight else fields)}
        claim.run(f"choose {name} {run}", functools.partial(make, weight, "fit"), 0, "choose", evaluate=ways)
    best: dict[str, float] = {}
    for kind, betas in setting.betas.items():
        scores = {beta: claim.score(f"choose {name} pCE + {kind} {beta:g}", 0) for beta in betas}
        best[kind] = max(scores, key=lambda beta: scores[beta])
    ways = {"": None, **{f" + {kind}": field(kind, beta) for kind, beta in best.items()}}
    chosen = choose_weight(claim, make, {w: f"choose {name} {runs[w]}" for w in setting.weights})
    ours, more = f"{name} {runs[chosen]}", setting.rounds > 1
    shared = {"total_variation": ours} if more else None
    for seed in flags.seeds:
        claim.run(f"{name} pCE", functools.partial(make, 0.0, "train"), seed, "test", evaluate=ways)
        claim.run(ours, functools.partial(make, chosen, "train"), seed, "test", evaluate=ways, shared=shared)
        for weight, kind in itertools.product((chosen, 0.0), ("MRF", "colour MRF")) if more else ():
            run = f"{name} {runs[weight]}, {setting.rounds} rounds{' of colours' if kind == 'colour MRF' else ''}"
            again = functools.partial(make, weight, "train", cut=(kind, best[kind]))
            whom = {"total_variation": f"{name} {runs[weight]}"}
            claim.run(run, again, seed, "test", evaluate=ways, shared=whom)


def measure_vessels(claim: claims.Claim, flags: argparse.Namespace) -> None:
    for seed, (run, changes) in itertools.product(flags.seeds, VESSELS.items()):
        make = functools.partial(vessels_config, flags, changes)
        claim.run(f"vessels {run}", make, seed, "test", evaluate={"": None})
    print(claim.table("vessels"))


def vessels_config(flags: argparse.Namespace, changes: Mapping[str, float | str] | None, seed: int) -> ConfigDict:
    arg = f"path={flags.data / 'drive'},crop=64,steps=450"
    if changes is None:
        config = supervised(f"{arg},labels=partial")
        config.data.simulate = {"partial": {"fraction": 0.01}}
    else:
        config = total_variation(f"{arg},fraction=0.01,thin=true")
        config.terms.total_variation.update(changes)
    config.model.widths = (16, 32, 64)
    config.optimizer.learning_rate = 4e-3
    config.augment.scale, config.augment.jitter, config.ema = (1.0, 1.0), 0.0, 0.0
    config.data.eval_split = "test"
    return claims.quiet(config, seed)


def choose_weight(claim: claims.Claim, make: Callable[..., ConfigDict], runs: Mapping[float, str]) -> float:
    """The weight with the best score; those that are as good on the first quarter are compared on all four."""
    scores = {weight: [claim.score(run, 0)] for weight, run in runs.items()}
    close = [weight for weight in runs if scores[weight][0] >= max(scores.values())[0] - CLOSE]
    for weight, fold in itertools.product(close, (1, 2, 3) if len(close) > 1 else ()):
        run = f"{runs[weight]}, quarter {fold + 1}"
        claim.run(run, functools.partial(make, weight, "fit", fold=fold), 0, "choose", evaluate={"": None})
        scores[weight].append(claim.score(run, 0))
    return max(close, key=lambda weight: sum(scores[weight]))


def config_of(
    flags: argparse.Namespace,
    how: str,
    fraction: float,
    weight: float,
    part: str,
    seed: int,
    *,
    fold: int = 0,
    cut: tuple[str, float] | None = None,
) -> ConfigDict:
    setting = SETTINGS[how]
    folder = flags.runs / (f"weizmann_horse_{fold}" if fold else "weizmann_horse")
    claims.with_choose(flags.data / "weizmann_horse", folder, fold)
    arg = f"path={folder},crop=128,steps={setting.steps}"
    arg += f",weights={flags.weights}" if flags.weights else ""
    if weight or cut:
        config = total_variation(f"{arg},fraction={fraction},weight={weight}")
        config.terms.total_variation.contrast = setting.contrast
        if cut:
            config.rounds.number = setting.rounds
            kind, beta = cut
            config.rounds.cut.update({"beta": beta, **FIELDS[kind]})
    else:
        config = supervised(f"{arg},labels={'dense' if fraction == 1 else 'partial'}")
        config.data.simulate = {"partial": {"fraction": fraction}} if fraction < 1 else {}
    # The setting in which the term has most to do: the few pixels are learned by heart, from the images as they are,
    # and no average smooths the network.
    config.augment.scale = (1.0, 1.0)
    config.augment.flip = 0.0
    config.augment.jitter = 0.0
    config.ema = 0.0
    if setting.widths:
        config.model.widths = setting.widths
    config.data.train_split = part
    config.data.eval_split = "choose" if part == "fit" else "test"
    return claims.quiet(config, seed)


def field(kind: str, beta: float) -> ConfigDict:
    return ConfigDict({"eval": {"post": {"name": "mrf", "beta": beta, **FIELDS[kind]}}})


if __name__ == "__main__":
    main()
