"""Cross-entropy on whatever pixels are labelled: the baseline of every comparison.

    semiseg train --config=configs/supervised.py:path=DIR --workdir=runs/mine
    semiseg train --config=configs/supervised.py:path=DIR,labels=scribble,crop=160 --workdir=runs/mine

    semiseg train --config=configs/supervised.py:path=DIR,weights=mobilenet_v2_imagenet.npz --workdir=runs/mine

Arguments: `path` of a dataset folder (or `dataset=shapes`), `labels` (the kind to train on), `crop`, `batch` (images of
each micro-batch), `steps`, `weights` (a MobileNetV2 trained on ImageNet, from which a light DeepLab then starts) and
their `layout` (tensorflow or torchvision). Everything else is a field: --config.optimizer.learning_rate=1e-3.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config, parse_arg


def get_config(arg: str = "") -> ConfigDict:
    given = parse_arg(
        arg, path="", dataset="", labels="dense", crop=160, batch=8, steps=2000, weights="", layout="tensorflow"
    )
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
    if given.weights:
        fine_tune(config, given.weights, given.layout)
    return config


def fine_tune(config: ConfigDict, weights: str, layout: str) -> None:
    """A DeepLab-v3+ with a light decoder on MobileNetV2, whose weights learn slower than its new head."""
    config.model = ConfigDict(
        {"name": "deeplab_mobile", "layout": layout, "norm": "none" if layout == "tensorflow" else "batch"}
    )
    config.pretrained.path = weights
    config.pretrained.new_classifier = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.multipliers = (("backbone", 0.1),)
    config.optimizer.warmup_steps = 100
    config.augment.scale = (0.5, 1.5)
    config.augment.jitter = 0.5
    config.ema = 0.995
