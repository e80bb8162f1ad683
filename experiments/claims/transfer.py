"""Claim: object maps learned from some animals label the others better than class activation maps (Xiao et al., arXiv
1711.06828), on two splits of the animals of Pascal VOC; people are always strong.

    python experiments/claims/transfer.py --data=DIR --weights=mobilenet_v2_imagenet.npz

On the first split, labels are also spread over superpixels, as published, and over a grid, from the same activation and
object maps; both are compared with the masks that training never sees.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import claims
import cv2
import numpy as np
from ml_collections import ConfigDict

from configs.supervised import get_config as supervised
from configs.transfer import get_config as transfer
from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.metrics import ConfusionMatrix

SOURCES = ("l_net", "cam")
DIFFUSIONS = ("grid", "graph")
CLASSES = ("background", "cat", "cow", "dog", "horse", "sheep", "person")
SPLITS = {"A": ("cat", "cow", "person"), "B": ("dog", "horse", "sheep", "person")}


def main() -> None:
    flags = claims.parse_flags(["voc_animals"])
    claim = claims.Claim("transfer", flags.runs, flags.steps_share)
    for seed in flags.seeds:
        claim.run("all masks", functools.partial(config_of, flags, "", ""), seed, "val", evaluate={"": None})
        for letter, strong in SPLITS.items():
            for source in SOURCES:
                make = functools.partial(config_of, flags, "+".join(strong), source)
                name = f"split {letter} labels from {source}"
                claim.run(name, make, seed, "val", evaluate={"": None}, shared={"classifier": "all"})
        compare_diffusions(claim, flags, seed)
    print(claim.table())
    for letter, strong in SPLITS.items():
        for seed in flags.seeds:
            ours, baseline = (claim.rows[f"split {letter} labels from {source} seed {seed}"] for source in SOURCES)
            weak = [name for name in ours["iou"] if name not in (*strong, "background")]
            l_net, cam = (np.mean([row["iou"][name] for name in weak]) for row in (ours, baseline))
            of_full = ours["miou"] / claim.score("all masks", seed)
            print(f"split {letter} seed {seed}: weak classes {l_net:.3f}, from CAM {cam:.3f}; {of_full:.2f} of full")


def compare_diffusions(claim: claims.Claim, flags: argparse.Namespace, seed: int) -> None:
    strong = SPLITS["A"]
    for diffusion in DIFFUSIONS:
        claim.run(
            f"split A labels over {diffusion}",
            functools.partial(config_of, flags, "+".join(strong), "l_net", diffusion=diffusion),
            seed,
            "val",
            evaluate={"": None},
            shared={"classifier": "all", "l_net": "split A"},
            also=functools.partial(made_label_scores, flags.data / "voc_animals" / "masks", strong),
        )
        row = claim.rows[f"split A labels over {diffusion} seed {seed}"]
        print(
            f"labels over {diffusion} seed {seed}: mIoU {row['made_miou']:.3f}, of weak classes "
            f"{row['made_miou_weak']:.3f}, {row['made_share']:.3f} of the pixels; then P-Net {row['miou']:.3f}"
        )


def made_label_scores(masks: Path, strong: Sequence[str], workdir: Path) -> dict[str, float]:
    """mIoU of the made labels against the hidden masks, over the pixels that got one, and the share of these."""
    confusion, labelled, known = ConfusionMatrix.empty(len(CLASSES)), 0, 0
    for path in sorted((workdir / "labels").glob("*.png")):
        made, truth = (cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in (path, masks / path.name))
        assert made is not None
        assert truth is not None
        truth = cv2.resize(
            truth, made.shape[::-1], interpolation=cv2.INTER_NEAREST
        )  # as images are stored for training
        known += int((truth != IGNORE).sum())
        truth[made == IGNORE] = IGNORE
        labelled += int((truth != IGNORE).sum())
        confusion = confusion.merge(ConfusionMatrix.from_model_output(truth, made, len(CLASSES)))
    scores = confusion.compute()
    weak = scores["iou"][[number for number, name in enumerate(CLASSES) if name not in (*strong, "background")]]
    weak = weak[np.isfinite(weak)]  # as in the mean of all, without classes of which no pixel got a label
    return {
        "made_miou": float(scores["miou"]),
        "made_miou_weak": float(weak.mean()) if weak.size else 0.0,
        "made_share": labelled / known,
    }


def config_of(flags: argparse.Namespace, strong: str, source: str, seed: int, *, diffusion: str = "grid") -> ConfigDict:
    arg = f"path={flags.data / 'voc_animals'},crop=128,steps=500"
    arg += f",weights={flags.weights}" if flags.weights else ""
    config = supervised(arg)
    if strong:
        config = transfer(f"{arg},strong={strong},labels_from={source}")
        config.transfer.classifier_steps, config.transfer.l_net_steps = 250, 300
        config.transfer.classifier_crop, config.transfer.classifier_scale = (192, 192), (1.0, 1.4)
        config.transfer.cam_scales = (1.4, 2.0)
        config.transfer.diffusion = diffusion
    claims.small_animals(config)
    # No mask tells how rare the weak classes are; the background is three quarters of the pixels.
    config.balance_classes, config.class_weights = 0.0, (1.0, *[4.0] * 6)
    return claims.quiet(config, seed)


if __name__ == "__main__":
    main()
