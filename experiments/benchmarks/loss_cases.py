"""The rows of `losses.py`: which loss on which arrays, its rivals, and the work that cannot be avoided."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import loss_rivals as rivals
from semiseg_jax import losses
from semiseg_jax.ops import local_filter

Shape = tuple[int, ...]
PLAIN_BYTES = 1.1e9  # of windows of probabilities; beyond, plain JAX takes too long
ONE_KERNEL = ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},)
TWO_KERNELS = ({"weight": 0.9, "xy": 6.0, "rgb": 0.1}, {"weight": 0.1, "xy": 6.0})


class Case(NamedTuple):
    """One row of the table."""

    loss: str
    detail: str
    shape: Shape
    inputs: tuple[str, ...]  # kinds of `make_inputs`
    wrt: int  # so many of the first inputs get gradients; 0 = forward only
    ours: Callable
    plain: Callable | None
    torch: Callable
    operations: float  # counted by hand, for the whole row
    exponentials: float
    reference: Callable | None = None  # ours, with the border of the rivals

    @property
    def name(self) -> str:
        size, direction = "x".join(map(str, self.shape)), "fwd+bwd" if self.wrt else "fwd"
        return f"{f'{self.loss} {self.detail}'.strip():<34} {size:<12} {direction:<7}"


def all_cases(gpu: bool, quick: bool) -> list[Case]:
    cases = [*crf_cases(gpu, quick), *filter_cases(gpu, quick), *variation_cases(quick), *pixel_cases(quick)]
    return [case for case in cases if case.wrt or not quick or case.loss == "local_filter"]


def crf_cases(gpu: bool, quick: bool) -> Iterator[Case]:
    for shape in _window_shapes(gpu, quick):
        for backward in (False, True):
            yield crf_case(shape, 5, backward=backward)
    if quick:
        return
    for radius in (3, 5, 7, 9):
        yield crf_case((1, 256, 256, 21), radius)
    low = (8, 64, 64, 21)
    yield crf_case(low, 5, note=", source mask", gate=True)
    yield crf_case(low, 5, note=", compatibility", matrix=True)
    yield crf_case(low, 5, note=", two kernels", kernels=TWO_KERNELS)


def crf_case(
    shape: Shape,
    radius: int,
    *,
    backward: bool = True,
    note: str = "",
    kernels: Any = ONE_KERNEL,
    gate: bool = False,
    matrix: bool = False,
) -> Case:
    options = {"radius": radius, "kernels": kernels, "gate": gate, "matrix": matrix}
    ours, torch = partial(ours_gated_crf, **options), partial(rivals.torch_gated_crf, **options)
    fits = 4.0 * np.prod(shape) * (2 * radius + 1) ** 2 < PLAIN_BYTES
    plain = partial(rivals.plain_gated_crf, **options) if fits else None
    inputs = ("probs", "image", *(["mask"] if gate else []), *(["matrix"] if matrix else []))
    work, reference = _window_work(shape, radius), partial(ours, border="reference")
    return Case(
        "gated_crf", f"radius {radius}{note}", shape, inputs, int(backward), ours, plain, torch, *work, reference
    )


def filter_cases(gpu: bool, quick: bool) -> Iterator[Case]:
    for shape in _window_shapes(gpu, quick):
        for implementation in ("xla", "pallas") if gpu else (None,):
            detail = f"radius 5{f', {implementation}' if implementation else ''}"
            ours = partial(ours_filter, radius=5, implementation=implementation)
            plain, torch = (
                partial(function, radius=5, kernels=ONE_KERNEL)
                for function in (rivals.plain_filter, rivals.torch_filter)
            )
            yield Case(
                "local_filter", detail, shape, ("probs", "image"), 0, ours, plain, torch, *_window_work(shape, 5)
            )


def variation_cases(quick: bool) -> Iterator[Case]:
    photo, wide = (1, 321, 321, 21), (1, 512, 512, 19)
    if quick:
        photo = wide = (1, 128, 128, 21)
    shapes = dict.fromkeys((wide, photo))
    for norm in ("l1", "l2"):
        functions = (losses.total_variation, rivals.plain_variation, rivals.torch_variation)
        trio: list[Callable] = [partial(function, norm=norm) for function in functions]
        for shape in shapes:
            yield from _both_ways("total_variation", norm, shape, ("probs",), 1, trio, (6, 8, 0))
    trio = [losses.curvilinear_total_variation, rivals.plain_curvilinear, rivals.torch_curvilinear]
    # Separable blurs: 2 * 7 taps of each class, and of the structure tensor.
    yield from _both_ways("curvilinear_total_variation", "", photo, ("probs",), 1, trio, (56, 16, 0.1))


def pixel_cases(quick: bool) -> Iterator[Case]:
    shape = (1, 128, 128, 21) if quick else (2, 321, 321, 21)
    trio: list[Callable] = [losses.partial_cross_entropy, rivals.plain_cross_entropy, rivals.torch_cross_entropy]
    yield from _both_ways("partial_cross_entropy", "", shape, ("logits", "labels"), 1, trio, (4, 2, 1))
    trio = [losses.uncertainty_cross_entropy, rivals.plain_uncertainty, rivals.torch_uncertainty]
    for detail, inputs, work in (
        ("binary", ("map", "variance", "binary"), (10, 8, 3)),
        ("classes", ("logits", "variance", "labels"), (5, 4, 1)),
    ):
        yield from _both_ways("uncertainty_cross_entropy", detail, shape, inputs, 2, trio, work)
    trio = [ours_adversary, rivals.plain_adversary, rivals.torch_adversary]
    yield from _both_ways("discriminator + adversarial_loss", "", shape, ("map", "map"), 2, trio, (12, 8, 6))
    trio = [losses.confident_self_training, rivals.plain_self_training, rivals.torch_self_training]
    yield from _both_ways("confident_self_training", "", shape, ("logits", "confidence"), 1, trio, (5, 2, 1))


def make_inputs(case: Case) -> list[np.ndarray]:
    rng, shape, classes = np.random.default_rng(0), case.shape[:3], case.shape[3]

    def make(kind: str) -> np.ndarray:
        if kind in ("probs", "logits"):
            logits = rng.normal(size=case.shape)
            return logits if kind == "logits" else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        if kind in ("labels", "binary"):
            labels = rng.integers(0, classes if kind == "labels" else 2, shape)
            return np.where(rng.random(shape) < 0.1, 255, labels)
        if kind == "image":  # about a bandwidth apart: denormal kernel values would be slow
            return 0.1 * rng.normal(size=(*shape, 3))
        if kind == "matrix":
            return rng.random((classes, classes)) * (1 - np.eye(classes))
        if kind == "mask":
            return rng.random(shape) < 0.9
        return rng.normal(size=shape) if kind == "map" else rng.random(shape)  # variance, confidence

    arrays = [make(kind) for kind in case.inputs]
    return [array.astype(np.int32 if array.dtype.kind == "i" else np.float32) for array in arrays]


def ours_gated_crf(probs: Any, image: Any, *extra: Any, gate: bool, matrix: bool, **options: Any) -> jax.Array:
    named = {"source_mask": extra[0]} if gate else {}
    named |= {"compatibility": extra[-1]} if matrix else {}
    return losses.gated_crf(probs, image, **named, **options)


def ours_filter(p: jax.Array, image: jax.Array, *, radius: int, implementation: str | None) -> jax.Array:
    return local_filter(p, image / 0.1, radius=radius, xy_sigma=6.0, implementation=implementation)


def ours_adversary(real: jax.Array, fake: jax.Array) -> jax.Array:
    return losses.discriminator_loss(real, fake) + losses.adversarial_loss(fake)


def _window_shapes(gpu: bool, quick: bool) -> list[Shape]:
    if quick:
        return [(2, 48, 48, 21)]
    return [(1, 321, 321, 21), (8, 64, 64, 21), *([(8, 81, 81, 21), (2, 321, 321, 21)] if gpu else [])]


def _window_work(shape: Shape, radius: int) -> tuple[float, float]:
    """2K + 3F operations and one exponential for each neighbour, with F = 3 colours: position is known beforehand."""
    neighbours = float(np.prod(shape[:3])) * ((2 * radius + 1) ** 2 - 1)
    return neighbours * (2 * shape[3] + 3 * 3), neighbours


def _both_ways(
    loss: str,
    detail: str,
    shape: Shape,
    inputs: tuple[str, ...],
    wrt: int,
    functions: Sequence[Callable],
    work: tuple[float, float, float],
) -> Iterator[Case]:
    """`work` for each entry of the first input: operations forward, more backward, exponentials."""
    entries = float(np.prod(shape if inputs[0] in ("probs", "logits") else shape[:3]))
    ours, plain, torch = functions
    for gradients in (0, wrt):
        operations = entries * (work[0] + (work[1] if gradients else 0))
        yield Case(loss, detail, shape, inputs, gradients, ours, plain, torch, operations, entries * work[2])
