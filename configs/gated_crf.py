"""Clicks or scribbles and the Gated CRF loss (Obukhov et al., arXiv 1906.04651).

    semiseg train --config=gated_crf:path=DIR,labels=scribble --workdir=runs/crf
    semiseg train --config=gated_crf:path=DIR,labels=points,weights=mnv2.npz,layout=torchvision --workdir=RUN
    semiseg train --config=gated_crf:setting=paper,dataset=voc,path=VOCdevkit,weights=resnet34.npz --workdir=RUN

Arguments: `labels` (points, scribble or points+scribble), `weight` of the term, and those of the small-data setting,
which `supervised` explains. The term sees each image at a quarter of its resolution. Of clicks, only the cells that
hold one pull (`sources`): in short runs the term otherwise lets background swallow what is clicked.

`setting=paper` is the published protocol for Pascal VOC 2012 with 10,582 training images: DeepLab-v3+ on ResNet-34,
crops of 256, batch 48, 90,000 updates, the term with weight 0.1 from update 450 on. Classes are weighted by the
clicks of the training set: w = 1 / ln(1.10 + share), here for 21 classes. The scribbles are those of ScribbleSup, the
clicks (labels=points) those of What's the Point with background from scribbles.
"""

import math

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import (
    Fields,
    changed,
    crops,
    data,
    deeplab_v3plus,
    parse,
    published_images,
    sgd,
    shared_by,
    small,
)

# What's-the-Point clicks of the 10,582 training images with background clicks from scribbles.
VOC_CLICKS = (28784, 800, 695, 1103, 901, 1263, 547, 2114, 1142, 2923, 610, 694, 1416, 693, 694, 9561, 1013, 857, 673,
              593, 778)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, setting=("small", "paper"), labels="scribble", weight=0.1)
    setting = {"small": small_data, "paper": paper}[given.setting]
    return changed(default_config("gated_crf"), data(given), setting(given), {"terms.gated_crf.weight": given.weight})


def small_data(given: ConfigDict) -> Fields:
    return {
        **small(given),
        "data.quota": shared_by(given.labels, given.batch),
        "terms.gated_crf.sources": "labelled" if "points" in given.labels.split("+") else "valid",
    }


def paper(given: ConfigDict) -> Fields:
    return {
        **published_images(given),
        **deeplab_v3plus("resnet34", given.weights),
        **crops(256, (0.5, 2.0)),
        "augment.scale_draw": "window",
        **sgd(0.007, 1e-4),
        "steps": 90_000,
        "batch_size": 48,
        "data.quota": shared_by(given.labels, 1 + given.labels.count("+")),
        "terms.gated_crf.start": 0.005,  # update 450
        "class_weights": click_weights(VOC_CLICKS),
        "eval.every": 5000,
    }


def click_weights(clicks: tuple[int, ...]) -> tuple[float, ...]:
    raw = [1 / math.log(1.10 + count / sum(clicks)) for count in clicks]
    return tuple(round(weight / sum(raw), 6) for weight in raw)
