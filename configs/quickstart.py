"""The first run: mixed supervision on the embedded `shapes` scenes, a few minutes on two CPU cores.

    semiseg train --config=quickstart --workdir=runs/quickstart
    semiseg train --config=quickstart:labels=masks --workdir=runs/masks_alone

12 of the 480 training scenes have a mask, 324 have scribbles, 144 have no label at all; the Gated CRF loss looks at all
of them. `labels=masks` trains on the 12 masks alone, for as many updates with as many images.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.config_arguments import parse_arg
from semiseg_jax.presets import changed


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, labels=("mixed", "masks"))
    fields = {
        "data.name": "shapes",
        "data.assign": {"dense": 12, "scribble": 324, "unlabeled": 144},
        "model": {"name": "unet", "norm": "batch", "widths": (20, 40, 80, 112)},
        "augment.crop": (64, 64),
        "augment.jitter": 0.0,  # colours help to tell the classes apart
        "optimizer.learning_rate": 5e-3,
        "ema": 0.99,
        "steps": 1080,
        "eval.every": 360,
    }
    if given.labels == "masks":
        return changed(default_config("supervised"), fields, {"data.quota": {"dense": 8}})
    mixed = {
        "data.quota": {"dense": 2, "scribble": 5, "unlabeled": 1},
        "terms.gated_crf.weight": 0.1,
        "terms.gated_crf.start": 0.35,  # once scribbles and masks have taught the classes
        "terms.gated_crf.stride": 1,  # every pixel: the images are small
    }
    return changed(default_config("gated_crf"), fields, mixed)
