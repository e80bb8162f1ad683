"""Sets that tfds wrote train, evaluate and predict, as array_record and as tfrecord."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tfds_written import SIZE, as_tfrecord, write_cells, write_cityscapes, write_pet

import semiseg_jax
from semiseg_jax.config_files import load_config

pytestmark = pytest.mark.heavy

SETS = {
    "oxford_iiit_pet": (write_pet, 2, {}),
    "cityscapes": (write_cityscapes, 19, {}),
    "cell_set": (write_cells, 2, {"classes": ["ground", "cell"], "values": [5, 9], "mask": "cells"}),
}


def small(config: ConfigDict) -> ConfigDict:
    config.steps = 2
    config.model = ConfigDict({"name": "unet", "widths": (4, 4)})
    config.augment.crop = (32, 32)
    config.data.threads = 1
    config.eval.every = 2
    config.eval.batch_size = 2
    config.log.tensorboard = False
    config.log.panel_rows = 0
    return config


@pytest.mark.parametrize("stored", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", SETS)
def test_a_tfds_set_trains_evaluates_and_predicts(tmp_path, name, stored):
    write, classes, options = SETS[name]
    folder = write(tmp_path / "data", **({"values": (5, 9)} if name == "cell_set" else {}))
    if stored == "tfrecord":
        as_tfrecord(folder)
    config = small(load_config(f"supervised:dataset=tfds:{name},labels=dense+scribble,batch=2"))
    config.data.data_dir = str(tmp_path / "data")
    config.data.options = ConfigDict(options)
    config.data.simulate = ConfigDict({"scribble": {}})
    assert semiseg_jax.prepare(config)["train"]["dense"] >= 3
    semiseg_jax.train(config, str(tmp_path / "run"))
    results = semiseg_jax.evaluate(str(tmp_path / "run"))  # knows the set from config.json alone
    assert results["images"] == 2
    assert np.isfinite(results["miou"])
    semiseg_jax.predict(str(tmp_path / "run"), output=str(tmp_path / "maps"), write="index")
    files = sorted((tmp_path / "maps").glob("*_index.png"))
    assert len(files) == 2
    for file in files:
        labels = np.asarray(Image.open(file))
        assert labels.shape == SIZE
        assert labels.max() < classes
