"""What `semiseg preflight` says that a train step takes on a CPU, beside what a process grows by when it takes one.

    python experiments/benchmarks/preflight_memory.py
    python experiments/benchmarks/preflight_memory.py --networks=unet --crop=256 --batch=8

Each step runs in a fresh process (Linux): its resident size once the step is compiled and freed memory is given back is
the base, and growth is the peak of three steps, with their state and batch, above it.
"""

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

import semiseg_jax
from semiseg_jax.config import settings
from semiseg_jax.engine import hardware, parallel
from semiseg_jax.methods import make_method
from semiseg_jax.verbs.compile_steps import trace

NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"name": "unet", "widths": (24, 48, 96, 128), "norm": "batch"},
    "deeplab_mobile": {"name": "deeplab_mobile"},
    "deeplab_v3plus": {"name": "deeplab_v3plus", "backbone": "resnet34"},
}
M_MMAP_THRESHOLD = -3  # of glibc: what is larger is given back when it is freed
CLASSES = 21

FLAGS = flags.FLAGS
flags.DEFINE_list("networks", list(NETWORKS), "joined by commas")
flags.DEFINE_integer("crop", 193, "side of the images")
flags.DEFINE_integer("batch", 4, "images")
flags.DEFINE_string("one", "", "internal: measures a step of this network and prints bytes")


def config_of(network: str) -> ConfigDict:
    config = semiseg_jax.default_config()
    config.model = ConfigDict(NETWORKS[network])
    config.augment.crop = (FLAGS.crop, FLAGS.crop)
    config.data.quota = {"dense": FLAGS.batch}
    config.devices = 1
    return config


def measure(network: str) -> int:
    """Bytes that this process grows by when it takes steps."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 65536)
    stage = make_method(settings(config_of(network)), CLASSES).stages()[0]
    devices = hardware.devices_of(hardware.Topology.parse("cpu:1"))
    traced, state, batch = trace(stage, devices, CLASSES)
    step = traced.lower().compile()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    state, batch = jax.tree.map(filled, (state, batch))
    for _ in range(3):
        state, metrics = step(state, batch)
        parallel.fetch(metrics)
    return status("VmHWM") - before


def filled(like: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.device_put(np.ones(like.shape, like.dtype), like.sharding)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def main(_: list[str]) -> None:
    if FLAGS.one:
        print(json.dumps(measure(FLAGS.one)))
        return
    rows = []
    for network in FLAGS.networks:
        report = semiseg_jax.preflight(config_of(network), "cpu:1", classes=CLASSES, propose=False)
        shared = [f"--crop={FLAGS.crop}", f"--batch={FLAGS.batch}"]
        command = [sys.executable, __file__, f"--one={network}", *shared]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append((network, report.rows[0]["memory"]["total"], json.loads(shown.splitlines()[-1])))
    print(f"{FLAGS.batch} images of {FLAGS.crop}x{FLAGS.crop}, {CLASSES} classes")
    print(f"{'network':<20}{'predicted':>14}{'measured':>14}{'ratio':>8}")
    for network, predicted, measured in rows:
        sizes = f"{predicted / 2**20:>10.1f} MiB{measured / 2**20:>10.1f} MiB"
        print(f"{network:<20}{sizes}{predicted / measured:>8.2f}")


if __name__ == "__main__":
    app.run(main)
