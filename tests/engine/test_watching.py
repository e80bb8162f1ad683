"""Seconds of steps, traces of some of them, and how well devices are used."""

import jax
import jax.numpy as jnp
import pytest

from semiseg_jax.engine import watching
from semiseg_jax.engine.watching import Clock, Trace, Watch, peak_of
from semiseg_jax.engine.writers import Log
from semiseg_jax.models import operations
from semiseg_jax.options import OptionError


class Device:
    """Stands in for the clock and for a device that ends steps at given times."""

    def __init__(self):
        self.now, self.waited_for = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def ends(self, at: float) -> float:
        self.waited_for.append(at)
        self.now = max(self.now, at)
        return at


@pytest.fixture
def device(monkeypatch) -> Device:
    device = Device()
    monkeypatch.setattr(watching, "time", device)
    monkeypatch.setattr(jax, "block_until_ready", device.ends)
    return device


def test_seconds_are_those_between_the_ends_of_steps_without_the_first_that_compiles(device):
    clock = Clock()
    for end in (30.0, 31.0, 33.0, 36.0):
        clock.handed_over(end)
    assert clock.take() == [1.0, 2.0, 3.0]
    for end in (37.0, 38.5):
        clock.handed_over(end)
    assert clock.take() == [1.0, 1.5]


def test_the_clock_leaves_two_steps_to_the_devices(device):
    clock = Clock()
    for end in (1.0, 2.0, 3.0, 4.0):
        clock.handed_over(end)
    assert device.waited_for == [1.0, 2.0]


def test_work_between_steps_counts_to_none(device):
    clock = Clock()
    for end in (1.0, 2.0):
        clock.handed_over(end)
    assert clock.take() == [1.0]
    clock.skip()
    for end in (50.0, 51.0):
        clock.handed_over(end)
    assert clock.take() == [1.0]


def test_a_report_has_percentiles_and_the_share_of_the_peak(device, monkeypatch, tmp_path):
    monkeypatch.setitem(watching.PEAKS, "cpu", 100.0)
    watch = Watch((0, 0), tmp_path, devices=2)
    watch.count(lambda x: x @ x, jnp.ones((5, 5)))  # 250 operations
    assert watch.report() == {}
    for step in range(1, 12):
        watch.handed_over(step, 5.0 * step)
    assert watch.report() == {
        "step_seconds_p50": 5.0, "step_seconds_p90": 5.0, "step_seconds_p99": 5.0, "model_flop_utilisation": 0.25
    }  # fmt: skip


def test_nothing_is_said_of_devices_whose_peak_is_unknown(device, tmp_path):
    watch = Watch((0, 0), tmp_path, devices=2)
    watch.count(None)  # a step is not even looked at
    for step in (1, 2):
        watch.handed_over(step, float(step))
    assert set(watch.report()) == {"step_seconds_p50", "step_seconds_p90", "step_seconds_p99"}


def test_the_longest_name_that_fits_gives_the_peak():
    assert peak_of("NVIDIA H100 80GB HBM3") == peak_of("NVIDIA H200") == 989e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("TPU v5 lite") == 197e12
    assert peak_of("TPU v5p") == 459e12
    assert peak_of("cpu") == 0


# What is counted.


def convolved(x, kernel, stride):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_step_of_a_convolution_is_three_times_its_forward_pass(stride):
    x, kernel = jnp.ones((2, 16, 16, 4)), jnp.ones((3, 3, 4, 8))
    forward = operations(lambda *inputs: convolved(*inputs, stride), x, kernel)
    assert forward == 2 * 2 * (16 // stride) ** 2 * 8 * 9 * 4
    step = operations(jax.grad(lambda *inputs: convolved(*inputs, stride).sum(), (0, 1)), x, kernel)
    assert step in (2 * forward, 3 * forward)  # the forward pass is needed for no gradient of a sum


def test_loops_and_devices_count_each_time_and_what_is_computed_again_does_not():
    x = jnp.ones((4, 4))
    once = operations(jnp.dot, x, x)
    assert operations(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=5)[0], x) == 5 * once
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(jnp.dot, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    assert operations(jax.jit(mapped), x, x) == 2 * once
    loss = lambda x: jnp.sin(jnp.sin(x @ x) @ x).sum()  # noqa: E731
    assert operations(jax.grad(jax.checkpoint(loss)), x) == operations(jax.grad(loss), x)


# Traces.


@pytest.fixture
def traced(monkeypatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def walk(trace: Trace, calls: list[str], steps) -> None:
    for number in steps:
        with trace.step(number):
            calls.append(str(number))
        trace.handed_over(number, jnp.zeros(()))
    trace.close()


def test_the_steps_that_were_asked_for_are_traced_and_it_is_said_where(traced, tmp_path, capsys):
    walk(Trace((2, 3), tmp_path / "profile"), traced, range(1, 6))
    assert traced == ["1", "start", "2", "3", "stop", "4", "5"]
    said = capsys.readouterr().out
    assert str(tmp_path / "profile") in said
    assert "ui.perfetto.dev" in said
    assert "xprof" in said


@pytest.mark.parametrize(("steps", "calls"), [
    (range(4, 6), ["4", "5"]),  # a run that goes on after them
    (range(3, 5), ["start", "3", "stop", "4"]),  # among them
    (range(1, 3), ["1", "start", "2", "stop"]),  # and one that ends before
])  # fmt: skip
def test_runs_that_begin_or_end_elsewhere_are_traced_as_far_as_they_go(traced, tmp_path, steps, calls):
    walk(Trace((2, 3), tmp_path), traced, steps)
    assert traced == calls


def test_only_the_first_process_traces(traced, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "is_main", lambda: False)
    walk(Trace((1, 2), tmp_path), traced, range(1, 4))
    assert traced == ["1", "2", "3"]


@pytest.mark.parametrize("text", ["10", "10-15", "15:10", "0:3", "a:b", ":5"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(OptionError, match="must be the first and the last step, such as 10:15"):
        Log(profile=text)


def test_steps_are_read():
    assert Log(profile="10:15").profiled == (10, 15)
    assert Log().profiled == (0, 0)
