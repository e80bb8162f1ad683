"""What to change where a step does not fit a device, or a batch does not divide among devices: the nearest first."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config import set_fields, settings
from semiseg_jax.engine.settings import Settings
from semiseg_jax.models import MODELS
from semiseg_jax.registry import find

Changes = dict[str, Any]  # path of a field -> its value


def with_changes(config: ConfigDict, changes: Changes) -> ConfigDict:
    """A copy of the config with other values."""
    config = ConfigDict(config.to_dict())
    set_fields(config, changes)
    return config


def as_flags(changes: Changes) -> str:
    """The changes as a command takes them.

    >>> as_flags({"batch_size": 16, "augment.crop": (241, 241)})
    "--config.batch_size=16 --config.augment.crop='(241, 241)'"
    """
    plain = (int, float, str)
    return " ".join(
        f"--config.{path}={value}" if isinstance(value, plain) else f"--config.{path}='{_shown(value)}'"
        for path, value in changes.items()
    )


def _shown(value: Any) -> str:
    return str(value).replace("'", '"')


def for_batch(config: ConfigDict, devices: int) -> Iterator[Changes]:
    """The nearest batches that divide, smaller and larger."""
    run = settings(config)
    for batch in legal_batches(run.batch_size, sum(run.data.quota.values()) * devices * run.accumulate):
        yield {"batch_size": batch}


def legal_batches(batch: int, unit: int) -> list[int]:
    """The multiples of `unit` on both sides of `batch`, the nearer one first.

    >>> legal_batches(20, 16), legal_batches(10, 16)
    ([16, 32], [16])
    """
    below = batch // unit * unit
    both = [size for size in (below, below + unit) if size and size != batch]
    return sorted(both, key=lambda size: abs(size - batch))


def for_memory(config: ConfigDict, devices: int) -> Iterator[Changes]:
    """What takes less memory: first what leaves images and numbers alone, then lower precision, then fewer pixels."""
    run = settings(config)
    can_shard = devices > 1 and run.parallel == "shard_map" and not run.shard_state
    shards: Changes = {"shard_state": True} if can_shard else {}
    remat = shards | _remat(run)
    parts = _smaller_parts(run, devices)
    half: Changes = {"dtype": "bfloat16"} if run.dtype == "float32" else {}
    crop: Changes = {"augment.crop": tuple(smaller_side(side) for side in run.augment.crop)}
    sums = [shards, remat, remat | parts, remat | parts | half, remat | parts | half | crop]
    seen: list[Changes] = [{}]
    for changes in [*sums, remat | half | _half_batch(run, devices)]:
        if changes not in seen:
            seen.append(changes)
            yield changes


def _remat(run: Settings) -> Changes:
    """Recomputing blocks in the backward pass, where the network has that option and does not do it."""
    parameters = inspect.signature(find(run.model["name"], MODELS, "models")).parameters
    return {"model.remat": True} if "remat" in parameters and not run.model.get("remat") else {}


def _smaller_parts(run: Settings, devices: int) -> Changes:
    """The same images an update in twice as many micro-batches."""
    quota = sum(run.data.quota.values())
    rows = run.batch_size // (devices * run.accumulate)
    if rows and rows % (2 * quota) == 0:
        return {"accumulate": 2 * run.accumulate}
    if all(count % 2 == 0 for count in run.data.quota.values()):
        halved = {kind: count // 2 for kind, count in run.data.quota.items()}
        return {"data.quota": halved, "accumulate": 2 * run.accumulate}
    return {}


def _half_batch(run: Settings, devices: int) -> Changes:
    unit = sum(run.data.quota.values()) * devices * run.accumulate
    smaller = run.batch_size // 2 // unit * unit
    return {"batch_size": smaller} if smaller else {}


def smaller_side(side: int) -> int:
    """Three quarters of a crop's side, of the same form: 321 -> 241, 512 -> 384."""
    odd = side % 2
    return max(32, math.floor((side - odd) * 3 / 4 / 16) * 16) + odd
