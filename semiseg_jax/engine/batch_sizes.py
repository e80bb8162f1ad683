"""Batch sizes that devices can share, and what to do about one that they cannot."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from semiseg_jax.data.pools import parse_quota
from semiseg_jax.engine.optimizers import Optimizer
from semiseg_jax.engine.parallel import rows_per_device
from semiseg_jax.engine.settings import Settings

SHOWN = 4  # legal sizes
MOST_DEVICES = 4096


class BatchSizeError(ValueError):
    """A batch that the devices cannot share evenly. `legal` has sizes near it, the nearest first."""

    def __init__(self, text: str, legal: Sequence[int]):
        super().__init__(text)
        self.legal = tuple(legal)


def rows_of(stages: Sequence[Settings], devices: int) -> list[int]:
    """Rows of a micro-batch on one device in each stage of a run.

    Raises `BatchSizeError`, which names sizes that serve all stages, if a batch does not divide.
    """
    try:
        return [rows_per_device(run.batch_size, _quota_rows(run), devices, run.accumulate) for run in stages]
    except ValueError as error:
        unit = math.lcm(*(_quota_rows(run) * run.accumulate * devices for run in stages))
        near = legal_sizes(stages[0].batch_size, unit)
        raise BatchSizeError(f"{error}. {_advice(stages, devices, near)}", near) from None


def legal_sizes(batch_size: int, unit: int) -> list[int]:
    """Multiples of `unit` around a batch size, the nearest in proportion first."""
    first = max(1, batch_size // unit - SHOWN // 2 + 1)
    sizes = [unit * n for n in range(first, first + SHOWN)]
    return sorted(sizes, key=lambda size: abs(math.log(size / batch_size)))


def kept(run: Settings, first: int, devices: int) -> int:
    """`batch_size` of a stage that goes on on other devices than those it `first` had.

    Where it is 0, each device has one quota: that of all first devices stays, if these devices can share it.
    """
    if run.batch_size or first == devices or first % devices:
        return run.batch_size
    return _quota_rows(run) * run.accumulate * first


def changed(run: Settings, first: int, devices: int) -> str:
    """A line that says so where `kept` cannot keep the number of images an update; "" where it can."""
    if run.batch_size or first % devices == 0:
        return ""
    unit = _quota_rows(run) * run.accumulate
    also = " or ".join(str(n) for n in range(1, first + 1) if first % n == 0)
    return (
        f"THE BATCH CHANGES from {unit * first} to {unit * devices} images an update: batch_size is 0, and this run "
        f"began on {first} device(s) but goes on on {devices}, which cannot share that many; on {also} it would stay"
    )


def _quota_rows(run: Settings) -> int:
    return sum(parse_quota(run.data.quota).values())


def _advice(stages: Sequence[Settings], devices: int, near: Sequence[int]) -> str:
    run = stages[0]
    factor = near[0] / run.batch_size
    adaptive = run.optimizer.name != "sgd"
    rule = "its square root, as is usual for Adam" if adaptive else "the batch, as is usual for SGD"
    flags = [f"--config.batch_size={near[0]}"]
    flags += [f"--config.{path}.learning_rate={rate:.4g}" for path, rate in _learning_rates(run, factor)]
    own = [n for n in range(1, min(run.batch_size, MOST_DEVICES) + 1) if _fits(stages, n)]
    others = f" Batches of {run.batch_size} can be shared by {_listed(own)} devices." if own else ""
    return (
        f"Legal batch sizes on {devices} devices near it: {', '.join(map(str, sorted(near)))}. The nearest, with the "
        f"learning rate in proportion to {rule}: {' '.join(flags)}{'.' if others else ''}{others}"
    )


def _learning_rates(run: Settings, factor: float) -> Iterator[tuple[str, float]]:
    """Of the optimiser and of those that the method has beside it, in proportion, or to its square root but for SGD."""
    found = {"optimizer": run.optimizer}
    for section, options in run.own.items():
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if isinstance(value, Optimizer):
                found[f"{section}.{field.name}"] = value
    for path, optimizer in found.items():
        yield path, optimizer.learning_rate * (factor if optimizer.name == "sgd" else math.sqrt(factor))


def _fits(stages: Sequence[Settings], devices: int) -> bool:
    return all(run.batch_size % (_quota_rows(run) * run.accumulate * devices) == 0 for run in stages)


def _listed(numbers: Sequence[int]) -> str:
    shown = [str(n) for n in numbers]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
