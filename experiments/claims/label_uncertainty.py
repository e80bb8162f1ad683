"""Claim: 18 % masks and 82 % boxes reach 0.97 of full supervision (Neven et al., arXiv 2110.05926).

    python experiments/claims/label_uncertainty.py --data=DIR --weights=mobilenet_v2_imagenet.npz

Rivals: the masks alone, boxes as masks, boxes of which only the outside is learned, and the method without correction
of its labels. Every run has the same network, crops and number of updates; on animals, an update with boxes sees as
many masks as one without, and as many boxes beside them, and all masks are also given that many images an update.
"""

import argparse
import functools

import claims
from ml_collections import ConfigDict

from configs.label_uncertainty import get_config as label_uncertainty
from configs.supervised import get_config as supervised

# Splits to train and to test on, crop and number of updates. The method was designed on the test images of the horses,
# so it is measured a second time on a quarter of their training images, which played no part in that.
CHECK = "weizmann_horse held out"
SETTINGS: dict[str, tuple[str, str, int, int]] = {
    CHECK: ("fit", "choose", 128, 600),
    "weizmann_horse": ("train", "test", 128, 600),
    "dsb2018_nuclei": ("train", "test", 128, 600),
    "voc_animals": ("train+train_aug_extra", "val", 128, 1000),
}
RIVALS = {
    "masks and boxes": {},
    "boxes as masks": {"inside": "foreground"},
    "boxes as masks, full weight": {"inside": "foreground", "inside_weight": 1.0, "inside_start": 0.0},
    "only outside of boxes": {"inside": "ignore"},
    "without correction": {"bootstrap_start": 1.0},
}


def main() -> None:
    flags = claims.parse_flags(list(SETTINGS))
    claim = claims.Claim("label_uncertainty", flags.runs, flags.steps_share)
    for name in flags.sets:
        full = ("all masks", *(["all masks, 16 an update"] if name == "voc_animals" else []))
        for run in ("masks and boxes", *full, "masks alone", *RIVALS):
            for seed in flags.seeds:
                make = functools.partial(config_of, flags, name, run)
                claim.run(f"{name} {run}", make, seed, SETTINGS[name][1], evaluate={"": None})
        print(claim.table(name))


def config_of(flags: argparse.Namespace, name: str, run: str, seed: int) -> ConfigDict:
    train, test, crop, steps = SETTINGS[name]
    folder = flags.data / name
    if name == CHECK:
        folder = claims.with_choose(flags.data / "weizmann_horse", flags.runs / "weizmann_horse")
    arg = f"path={folder},crop={crop},steps={steps}"
    arg += f",weights={flags.weights}" if flags.weights else ""
    if name == "voc_animals" and (run in RIVALS or run.endswith("16 an update")):
        arg += ",batch=16"
    if run in RIVALS:
        config = label_uncertainty(f"{arg},masks=0.18")
        config.terms.boxes.update(RIVALS[run])
        config.separate_passes = name == "voc_animals"  # the others were measured in one pass
    else:
        config = supervised(arg)
    if run == "masks alone":
        config.data.assign = {"dense": 0.18, "unlabeled": 0.82}
    config.data.train_split, config.data.eval_split = train, test
    if name == "voc_animals":
        claims.small_animals(config)
    return claims.quiet(config, seed)


if __name__ == "__main__":
    main()
