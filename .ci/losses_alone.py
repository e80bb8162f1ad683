"""Value and gradient of every public loss, and a call of every public op, in an environment that has jax alone.

    python losses_alone.py NUMBERS.json

Writes the numbers to the file. Where it exists, they must be the same as the numbers in it.
"""

import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from semiseg_jax import losses, ops

RNG = np.random.default_rng(0)
SHAPE, CLASSES, NODES = (2, 12, 10), 4, 6


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


LOGITS, MAP, AFFINITY = normal(*SHAPE, CLASSES), normal(*SHAPE), np.abs(normal(NODES, NODES))
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
IMAGE = 0.1 * normal(*SHAPE, 3)
# Of a loss, by the names of its arguments that have no default.
INPUTS = {
    "logits": LOGITS,
    "probs": PROBS,
    "mean": LOGITS,
    "labels": np.where(MAP > 1, 255, RNG.integers(0, CLASSES, SHAPE)).astype(np.int32),
    "image": IMAGE,
    "variance": np.abs(normal(*SHAPE)),
    "confidence": 1 / (1 + np.exp(-MAP)),
    "real_logits": MAP,
    "fake_logits": normal(*SHAPE),
}
OPS: dict[str, Callable[[], jax.Array]] = {
    "grid_diffusion": lambda: ops.grid_diffusion(PROBS, IMAGE, radius=2, steps=5),
    "label_diffusion": lambda: ops.label_diffusion(AFFINITY + AFFINITY.T, normal(NODES, 2)),
    "local_filter": lambda: ops.local_filter(PROBS, IMAGE, radius=2),
    "mean_field": lambda: ops.mean_field(PROBS, IMAGE, radius=2, iterations=2),
    "potts_energy": lambda: ops.potts_energy(PROBS, IMAGE, radius=2),
    "self_diffusion": lambda: ops.self_diffusion(AFFINITY, steps=3),
    "superpixels": lambda: ops.superpixels(50 * IMAGE[0], number=6),
    "standardize": lambda: ops.standardize(np.full((1, 2, 2, 3), 100, np.uint8)),
}
NEED_MORE = {"potts_mrf": "PyMaxflow"}  # ops that need a package beside jax


def functions(module: object) -> list[str]:
    return [name for name in module.__all__ if not inspect.isclass(getattr(module, name))]  # type: ignore[attr-defined]


def check_loss(name: str) -> list[float]:
    """Value, and sum and largest entry of |gradient| in the first argument."""
    loss = getattr(losses, name)
    needed = [key for key, value in inspect.signature(loss).parameters.items() if value.default is value.empty]
    unknown = set(needed) - INPUTS.keys()
    assert not unknown, f"{name} needs {unknown}, which INPUTS of {__file__} has not"
    given = [INPUTS[key] for key in needed]
    value, gradient = jax.jit(jax.value_and_grad(lambda *args: loss(**dict(zip(needed, args, strict=True)))))(*given)
    size = np.abs(np.asarray(gradient))
    assert np.isfinite([value, size.sum()]).all(), f"{name} is {value}, the sum of its |gradient| {size.sum()}"
    assert size.any(), f"{name} is {value} with a gradient of 0"
    return [float(value), float(size.sum()), float(size.max())]


def check_op(name: str) -> list[float]:
    assert name in OPS, f"OPS of {__file__} has no row for {name}"
    result = np.asarray(OPS[name]())
    assert np.isfinite(result).all(), f"{name} is not finite"
    assert result.any(), f"{name} is 0"
    return [float(np.square(result).sum())]


def check_refusal(name: str, package: str) -> None:
    """Where the package that an op needs is missing, the op says how to get it."""
    said = f"pip install {package}"
    try:
        getattr(ops, name)(LOGITS[0], beta=1.0)
    except ModuleNotFoundError as error:
        said = str(error)
    assert f"pip install {package}" in said, said


def main(file: Path) -> None:
    names = functions(losses), [name for name in functions(ops) if name not in NEED_MORE]
    numbers = {name: check_loss(name) for name in names[0]} | {name: check_op(name) for name in names[1]}
    for name, package in NEED_MORE.items():
        check_refusal(name, package)
    if file.exists():
        for name, expected in json.loads(file.read_text()).items():
            np.testing.assert_allclose(numbers[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)
    else:
        file.write_text(json.dumps(numbers))
    print(f"jax {jax.__version__}: {len(names[0])} losses with their gradients, {len(names[1])} ops")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
