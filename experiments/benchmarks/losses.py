"""How fast and how small is every loss? Against plain JAX, plain PyTorch, and what the machine could do.

    python experiments/benchmarks/losses.py                       # everything, about 8 minutes on two cores
    python experiments/benchmarks/losses.py --quick               # small arrays, under a minute
    python experiments/benchmarks/losses.py --only='gated_crf.*radius 5' --rounds=20

Contestants: `ours`; `plain`, the formula in jax.numpy with autodiff; `torch`, the same in eager PyTorch, where it is
installed (on a GPU: where it sees the GPU). See `loss_rivals.py`: for Gated CRF both are the published algorithm, which
writes windows out. Before a row is timed, values and gradients must agree to 1e-4, with border="reference" where there
is a border; ours is then timed with its default.

Time: contestants take turns, a block of calls each, every call waited for; ratios are of the fastest blocks. `floor` is
the larger of two times: bytes that must move (inputs read once, outputs written once) at the measured rate of an
in-place pass over memory, and arithmetic that must run (2K + 3F operations and one exponential for each neighbour in a
window) at the measured rates of multiply-adds and exponentials. Rows that fit into a cache can beat the bytes.

Memory, outputs counted and inputs not: `buffers` is what XLA's buffer assignment or CUDA's allocator says, `resident`
the growth of the peak resident set (Linux, CPU only), in a fresh process for each contestant; before each call, free
memory goes back to the system and the peak starts again.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from experiments.benchmarks import loss_timing as timing
from experiments.benchmarks.loss_cases import Case, Shape, all_cases, make_inputs
from experiments.benchmarks.loss_rivals import torch

FLAGS = flags.FLAGS
CONTESTANTS = ("ours", "plain", "torch")
flags.DEFINE_bool("quick", False, "small arrays")
flags.DEFINE_string("only", "", "regular expression; the rows in whose name it is found")
flags.DEFINE_integer("rounds", 10, "rounds of each row; slow rows take fewer, at least 2")
flags.DEFINE_enum("resident", None, CONTESTANTS, "print the peak resident memory of one contestant and nothing else")

NAN = float("nan")


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # not which backends there are not
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave room for torch on a GPU
    cases = all_cases(gpu=jax.default_backend() == "gpu", quick=FLAGS.quick)
    cases = [case for case in cases if re.search(FLAGS.only, case.name)]
    if FLAGS.resident:
        print_resident(cases, FLAGS.resident)
        return
    resident, rates = resident_memory(cases), timing.measure_rates()
    print(header(rates))
    best = []
    for case in (progress := tqdm(cases, desc="time", file=sys.stderr)):
        row, times = run_case(case, rates, resident)
        progress.write(row, file=sys.stdout)
        best.append(times)
    for line in growth_lines(cases, best):
        print(line)


def contestants(case: Case) -> list[str]:
    """Torch takes part where it uses the same device."""
    usable = torch is not None and torch.cuda.is_available() == (jax.default_backend() == "gpu")
    return [name for name in CONTESTANTS if getattr(case, name) and (name != "torch" or usable)]


def make_call(case: Case, contestant: str, arrays: list[np.ndarray]) -> tuple[timing.Call, float]:
    make = timing.torch_call if contestant == "torch" else timing.jax_call
    return make(getattr(case, contestant), arrays, case.wrt)


def run_case(case: Case, rates: timing.Rates, resident: dict[tuple[str, str], float]) -> tuple[str, dict[str, float]]:
    """The row of the table, and the fastest time of each contestant."""
    arrays = make_inputs(case)
    prepared = {name: make_call(case, name, arrays) for name in contestants(case)}
    calls = {name: call for name, (call, _) in prepared.items()}
    result = check_agreement(case, arrays, calls)
    times = timing.take_turns(calls, FLAGS.rounds, limit=1.0 if FLAGS.quick else 5.0)
    best = {name: min(values) for name, values in times.items()}
    floor, bound = floor_ms(case, [*arrays, *result], rates)
    ratios = [best.get("torch", NAN) / best["ours"], best.get("plain", NAN) / best["ours"], best["ours"] / floor]
    cells = [f"{number(ratio):>6}" for ratio in ratios] + [f" {case.name}"]
    cells += [f"{number(best.get(name, NAN)):>7} {number(np.median(times.get(name, NAN))):>6}" for name in CONTESTANTS]
    cells.append(f"{number(floor):>6} {bound}")
    for name in CONTESTANTS:
        buffers = prepared[name][1] if name in prepared else NAN
        cells.append(f"{number(buffers):>6} {number(resident.get((case.name, name), NAN)):>6}")
    return " ".join(cells), best


def check_agreement(case: Case, arrays: list[np.ndarray], calls: dict[str, timing.Call]) -> list[np.ndarray]:
    """Our value and gradients; raises unless those of the others are the same."""
    result = timing.to_numpy(calls["ours"]())
    value = np.asarray(jax.jit(case.reference)(*arrays)) if case.reference else result[0]
    for name in calls.keys() - {"ours"}:
        for want, have in zip([value, *result[1:]], timing.to_numpy(calls[name]()), strict=True):
            # Means: where neighbours are equal, autodiff takes another subgradient of total variation.
            error = float(np.mean(np.abs(want - have)) / np.mean(np.abs(want)))
            if not error < 1e-4:
                raise AssertionError(f"{case.name}: {name} and ours differ by {error:.1e}")
    return result


def floor_ms(case: Case, arrays: list[np.ndarray], rates: timing.Rates) -> tuple[float, str]:
    moved = sum(array.nbytes for array in arrays) / rates.bytes
    computed = case.operations / rates.flops + case.exponentials / rates.exps
    return 1e3 * max(moved, computed), "bytes" if moved > computed else "arith"


def print_resident(cases: list[Case], contestant: str) -> None:
    for case in cases:
        if contestant not in contestants(case):
            continue
        call, _ = make_call(case, contestant, make_inputs(case))
        print(json.dumps([case.name, timing.resident_mib(call)]), flush=True)


def resident_memory(cases: list[Case]) -> dict[tuple[str, str], float]:
    """(name of the row, contestant) -> MiB."""
    resident: dict[tuple[str, str], float] = {}
    if sys.platform != "linux" or jax.default_backend() != "cpu":
        return resident
    # One arena and a fixed threshold: larger blocks come from the system and go back to it.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**16)}
    rows = [(case.name, name) for case in cases for name in contestants(case)]
    with tqdm(total=len(rows), desc="memory", file=sys.stderr) as progress:
        for contestant in sorted({name for _, name in rows}):
            options = [f"--resident={contestant}", f"--only={FLAGS.only}", f"--quick={FLAGS.quick}"]
            command = [sys.executable, __file__, *options]
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    row, mib = json.loads(line)
                    resident[row, contestant] = mib
                    progress.update()
            if process.returncode:
                raise RuntimeError(f"measuring the memory of {contestant} failed: {' '.join(command)}")
    return resident


def header(rates: timing.Rates) -> str:
    versions = f"jax {jax.__version__}"
    if torch:
        versions += f", torch {torch.__version__} (OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', '')})"
    device = f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores)"
    speed = f"{rates.bytes / 1e9:.0f} GB/s, {rates.flops / 1e9:.0f} Gflop/s, {rates.exps / 1e9:.1f} Gexp/s"
    times = "".join(f"{name + ' ms':>15}" for name in CONTESTANTS)
    memory = "".join(f"{name + ' MiB':>14}" for name in CONTESTANTS)
    loss = f"{'loss':<34} {'shape':<12} {'pass':<7}"
    time, space = f"{'min':>8}{'median':>7}" * 3, f"{'buffer':>7}{'peak':>7}" * 3
    return "\n".join(
        [
            f"{device}, {versions}; measured {speed}",
            f"{'torch/':>6} {'plain/':>6} {'ours/':>6}{'':<57}{times}{'floor':>13}{memory}",
            f"{'ours':>6} {'ours':>6} {'floor':>6}  {loss}{time}{'ms by':>13}{space}",
        ]
    )


def number(value: Any) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def growth_lines(cases: list[Case], best: list[dict[str, float]]) -> Iterator[str]:
    """Time for a window cell against the radius."""
    found: dict[tuple[Shape, str], dict[int, float]] = {}
    for case, times in zip(cases, best, strict=True):
        match = re.fullmatch(r"radius (\d+)", case.detail)
        if case.loss == "gated_crf" and case.wrt and match:
            for name, ms in times.items():
                found.setdefault((case.shape, name), {})[int(match[1])] = 1e3 * ms / (2 * int(match[1]) + 1) ** 2
    for (shape, name), cells in found.items():
        if len(cells) > 1:
            text = ", ".join(f"{number(us)} at radius {radius}" for radius, us in sorted(cells.items()))
            yield f"gated_crf {'x'.join(map(str, shape))} fwd+bwd, {name}: microseconds for each window cell: {text}"


if __name__ == "__main__":
    app.run(main)
