"""Calls that can be timed, turns, peak memory and the rates of the machine: the tools of `losses.py`."""

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.loss_rivals import torch

MIB = 2.0**20
BLOCK_SECONDS = 0.02  # of calls between turns
Call = Callable[[], Any]


class Rates(NamedTuple):
    """What the machine does in a second."""

    bytes: float
    flops: float
    exps: float


def jax_call(function: Callable, arrays: Sequence[np.ndarray], wrt: int) -> tuple[Call, float]:
    """A call that is over when it returns, and the MiB it needs as compiled. The first `wrt` arrays get gradients."""
    if wrt:
        function = jax.value_and_grad(function, argnums=tuple(range(wrt)))
    placed = jax.device_put(list(arrays))
    compiled = jax.jit(function).lower(*placed).compile()
    memory: Any = compiled.memory_analysis()
    mib = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / MIB
    return lambda: jax.block_until_ready(compiled(*placed)), mib


def torch_call(function: Callable, arrays: Sequence[np.ndarray], wrt: int) -> tuple[Call, float]:
    """Likewise, channels first; the MiB only where CUDA counts them."""
    cuda = torch.cuda.is_available()

    def place(array: np.ndarray, differentiated: bool) -> Any:
        array = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to("cuda" if cuda else "cpu")
        return tensor.requires_grad_(differentiated) if tensor.is_floating_point() else tensor.long()

    tensors = [place(array, number < wrt) for number, array in enumerate(arrays)]

    def call() -> Any:
        with torch.set_grad_enabled(wrt > 0):
            value = function(*tensors)
            result = (value.detach(), torch.autograd.grad(value, tensors[:wrt])) if wrt else value
        if cuda:
            torch.cuda.synchronize()
        return result

    if not cuda:
        return call, float("nan")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return call, (torch.cuda.max_memory_allocated() - before) / MIB


def to_numpy(result: Any) -> list[np.ndarray]:
    """Value and gradients, channels last."""

    def convert(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array):
            return np.asarray(leaf)
        array = leaf.cpu().numpy()
        return np.moveaxis(array, 1, -1) if array.ndim == 4 else array

    return [convert(leaf) for leaf in jax.tree.leaves(result)]


def take_turns(calls: Mapping[str, Call], rounds: int, limit: float) -> dict[str, list[float]]:
    """Milliseconds of a call, one entry a round: the mean of a block of calls. Calls must be warm.

    Before each block there is a rest and a call that does not count, so that the call of another contestant does not
    slow it down. There are two rounds at least, and no further one once `limit` seconds are over.
    """

    def seconds(call: Call, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count

    begin = time.perf_counter()
    counts = {name: max(1, int(BLOCK_SECONDS / seconds(call, 1))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    while len(times["ours"]) < 2 or (len(times["ours"]) < rounds and time.perf_counter() - begin < limit):
        for name, call in calls.items():
            time.sleep(BLOCK_SECONDS)  # PyTorch's threads keep their cores busy for a while after a call
            call()
            times[name].append(1e3 * seconds(call, counts[name]))
    return times


def resident_mib(call: Call) -> float:
    """Growth of the peak resident set over a call (Linux). Quick calls are repeated: the first also loads code."""
    status, mib = Path("/proc/self/status"), float("nan")
    for _ in range(3):
        time.sleep(0.2)  # XLA frees its buffers a little after the result is ready
        start = time.perf_counter()
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free goes back to the system
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = status.read_text()
        call()
        mib = (_kilobytes(status.read_text(), "VmHWM") - _kilobytes(before, "VmRSS")) / 1024
        if time.perf_counter() - start > 1.0:
            break
    return mib


def _kilobytes(status: str, field: str) -> int:
    return int(status.split(f"{field}:")[1].split()[0])


def measure_rates() -> Rates:
    """From three small programs: an in-place pass over memory, independent multiply-adds, independent exponentials."""
    chains, length, large, small = 8, 16, 2**26, 2**21

    def multiply_add(x: jax.Array) -> jax.Array:
        values = [x * (1.0 / number) for number in range(1, chains + 1)]
        for _ in range(length):
            values = [value * x + x for value in values]
        return sum(values[1:], values[0]) / (2 * chains)  # 0.5 stays 0.5

    def exponential(x: jax.Array) -> jax.Array:
        values = [jnp.exp(-x - number) for number in range(chains)]
        return sum(values[1:], values[0])

    copy = _seconds(lambda x: x + 1.0, large)
    arithmetic, exponentials = _seconds(multiply_add, small), _seconds(exponential, small)
    return Rates(2 * 4 * large / copy, 2 * small * chains * length / arithmetic, small * chains / exponentials)


def _seconds(function: Callable, size: int) -> float:
    """The best of several calls on an array that is overwritten."""
    step, best = jax.jit(function, donate_argnums=0), float("inf")
    x = jax.block_until_ready(step(jnp.full(size, 0.5, jnp.float32)))
    for _ in range(8):
        start = time.perf_counter()
        x = jax.block_until_ready(step(x))
        best = min(best, time.perf_counter() - start)
    return best
