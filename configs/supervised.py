"""Cross-entropy on whatever pixels are labelled: the baseline of every comparison.

    semiseg train --config=configs/supervised.py:path=DIR --workdir=runs/mine
    semiseg train --config=configs/supervised.py:path=DIR,labels=scribble,crop=160 --workdir=runs/mine

Arguments: `path` of a dataset folder (or `dataset=shapes`), `labels` (the kind to train on), `crop`, `batch` (images of
each micro-batch), `steps`. Everything else is a field: --config.optimizer.learning_rate=1e-3.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config, parse_arg


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(arg, path="", dataset="", labels="dense", crop=160, batch=8, steps=2000)
    config = default_config()
    config.method = "supervised"
    config.steps = given.steps
    config.data.name = given.dataset or ("folder" if given.path else "shapes")
    config.data.path = given.path
    config.data.quota = {given.labels: given.batch}
    config.augment.crop = (given.crop, given.crop)
    config.augment.scale = (0.5, 2.0)
    config.model.norm = "batch"
    config.ema = 0.99
    return config
