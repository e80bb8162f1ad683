"""The first run: mixed supervision on the embedded `shapes` scenes, a few minutes on two CPU cores.

    semiseg train --config=quickstart --workdir=runs/quickstart
    semiseg train --config=quickstart:labels=masks --workdir=runs/masks_alone

12 of the 480 training scenes have a mask, 324 have scribbles, 144 have no label at all; the Gated CRF loss looks at all
of them. `labels=masks` trains on the 12 masks alone, for as many updates with as many images.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config, parse_arg


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, labels=("mixed", "masks"))
    config = default_config()
    config.data.name = "shapes"
    config.data.assign = {"dense": 12, "scribble": 324, "unlabeled": 144}
    config.data.quota = {"dense": 2, "scribble": 5, "unlabeled": 1}
    config.method = "gated_crf"
    config.terms.gated_crf.weight = 0.1
    if given.labels == "masks":
        config.method = "supervised"
        config.terms.gated_crf.weight = 0.0
        config.data.quota = {"dense": 8}
    config.augment.crop = (64, 64)
    config.optimizer.learning_rate = 4e-3
    config.ema = 0.99
    config.steps = 1500
    return config
