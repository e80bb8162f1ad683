"""The first run: mixed supervision on the embedded `shapes` scenes, a few minutes on two CPU cores.

    semiseg train --config=configs/quickstart.py --workdir=runs/quickstart

48 of the 480 training scenes have a mask, 288 have scribbles, 144 have no label at all.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config, parse_arg


def get_config(arg: str = "") -> ConfigDict:
    parse_arg(arg)
    config = default_config()
    config.data.name = "shapes"
    config.data.assign = {"dense": 0.1, "scribble": 0.6, "unlabeled": 0.3}
    config.data.quota = {"dense": 2, "scribble": 5, "unlabeled": 1}
    config.augment.crop = (64, 64)
    config.optimizer.learning_rate = 4e-3
    config.ema = 0.99
    config.steps = 1500
    return config
