"""A config file of a tiny run, for processes that tests start."""

from pathlib import Path

CONFIG = """
from ml_collections import ConfigDict
from semiseg_jax.config import default_config
from semiseg_jax.data import shapes

shapes.SIZES = {{"train": 24, "val": 6}}

def get_config():
    config = default_config()
    config.steps = 2
    config.data.data_dir = {data_dir!r}
    config.data.quota = {{"dense": 1, "scribble": 1}}
    config.data.threads = 1
    config.augment.crop = (32, 32)
    config.model = ConfigDict({{"name": "unet", "widths": (8, 8)}})
    config.eval.every = 2
    config.eval.batch_size = 2
    config.log.every = 1
    config.log.panel_rows = 0
    config.log.tensorboard = False
    return config
"""


def tiny_config_file(folder: Path, data_dir: str) -> Path:
    path = folder / "config.py"
    path.write_text(CONFIG.format(data_dir=data_dir))
    return path
