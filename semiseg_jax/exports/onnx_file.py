"""Trained models as ONNX files, which another Python converts: jax2onnx needs other versions of packages than we do."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import semiseg_jax
from semiseg_jax.engine.files import write_whole

_HOW = (
    "make an environment for the conversion and name its interpreter: python3 -m venv onnx_env && "
    "onnx_env/bin/pip install jax2onnx onnxruntime 'jax<0.11', then --python=onnx_env/bin/python"
)


@dataclasses.dataclass(frozen=True)
class Order:
    """What the other Python is to convert."""

    model: Mapping[str, Any]  # the network's name and options
    dtype: str
    classes: int
    largest: Sequence[int]
    rungs: Sequence[Sequence[int]]
    size: Sequence[int]  # height and width of the images
    flip: bool
    card: Mapping[str, Any]


def check(python: str) -> None:
    """Raises unless the interpreter, or this one where it is "", has what a conversion needs."""
    try:
        run = subprocess.run(
            [python or sys.executable, "-c", "import jax2onnx, onnxruntime"], capture_output=True, text=True
        )
    except OSError as error:
        raise ValueError(f"--python={python} cannot be started ({error}); {_HOW}") from None
    if run.returncode:
        said = run.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise ValueError(f"{python or 'this Python'} cannot import jax2onnx and onnxruntime ({said[0]}); {_HOW}")


def write(path: Path, order: Order, weights: Mapping[str, Any], image: np.ndarray, python: str = "") -> np.ndarray:
    """Writes the file -> probabilities [H,W,K] of an image [H,W,3], as ONNX Runtime finds them with it."""
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        # The package alone, and no other package of this environment.
        shutil.copytree(Path(semiseg_jax.__file__).parent, room / "semiseg_jax", ignore=shutil.ignore_patterns("*.pyc"))
        (room / "order.json").write_text(json.dumps(dataclasses.asdict(order)))
        plain: dict[str, Any] = {name: np.asarray(array) for name, array in weights.items()}
        np.savez(room / "weights.npz", **plain)
        np.save(room / "image.npy", image)
        paths = os.pathsep.join([str(room), os.getcwd()])  # a network of one's own may be in the current folder
        environment = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "SEMISEG_CONVOLUTIONS": "library"}
        command = [python or sys.executable, "-m", "semiseg_jax.exports.onnx_process", str(room)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if run.returncode:
            said = "\n".join(run.stderr.strip().splitlines()[-12:])
            how = f"If it is about versions of packages: {_HOW}"
            raise ValueError(f"the network cannot be converted to ONNX; {command[0]} said:\n{said}\n{how}")
        write_whole(path, (room / "model.onnx").read_bytes())
        return np.asarray(np.load(room / "probabilities.npy"))
