"""`semiseg summary`: what the network of a config costs, before it is trained."""

import jax
from ml_collections import ConfigDict

from semiseg_jax import models
from semiseg_jax.config import settings
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.engine.batch_sizes import rows_of
from semiseg_jax.engine.settings import Settings


def summary(config: ConfigDict | Settings, *, classes: int = 0, features: bool = False) -> models.Summary:
    """Prints parameters, multiply-adds and memory of the config's segmentation network at its crop and batch.

    That network alone: a discriminator, or views of the images beside them, come on top.

    Args:
      config: from `semiseg_jax.load_config(NAME)` or `semiseg_jax.default_config()`.
      classes: how many; 0 = those of the dataset, which is built if need be.
      features: list all features that a method can ask for, with their shapes.
    """
    config = settings(config)
    classes = classes or open_dataset(config.data).info.num_classes
    options = dict(config.model)
    model = models.make_model(options.pop("name"), classes, dtype=config.dtype, **options)
    devices = config.devices or jax.device_count()
    (rows,) = rows_of([config], devices)
    found = models.summary(model, (rows, *config.augment.crop, 3))
    needed = found.training_bytes(config.optimizer.name, ema=config.ema > 0)
    print(found)
    print(
        f"a step of this network alone, {rows} images of {config.augment.crop[0]}x{config.augment.crop[1]} on each of "
        f"{devices} device(s), takes about {needed / 2**30:.2f} GiB on each device"
    )
    if features:
        print("features by name, of one image:")
        for name, shape in models.feature_shapes(model, (1, *config.augment.crop, 3)).items():
            print(f"  {name:<40}{'x'.join(map(str, shape)):>20}")
    return found
