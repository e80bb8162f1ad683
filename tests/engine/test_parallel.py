"""Rows a device, and steps mapped over devices: both mappers, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.engine import parallel
from semiseg_jax.engine.parallel import AXIS, Devices, rows_per_device

MAPPERS = ["shard_map", "pmap"]


@pytest.mark.parametrize(
    ("batch_size", "quota", "devices", "accumulate", "rows"),
    [(0, 8, 4, 2, 8), (8, 8, 1, 1, 8), (16, 8, 2, 1, 8), (32, 4, 2, 2, 8), (12, 2, 2, 3, 2)],
)
def test_rows_of_a_micro_batch(batch_size, quota, devices, accumulate, rows):
    assert rows_per_device(batch_size, quota, devices, accumulate) == rows


@pytest.mark.parametrize(
    ("batch_size", "quota", "devices", "accumulate", "said"),
    [
        (9, 1, 2, 1, "batch_size 9 is not divisible by 2 devices"),
        (12, 2, 2, 4, "batch_size 12 on 2 devices is not divisible by accumulate 4"),
        (8, 6, 2, 1, "data.quota asks for 6 rows but a micro-batch of one device has 4"),
        (16, 6, 2, 2, "data.quota asks for 6 rows but a micro-batch of one device has 4"),
        (16, 3, 2, 1, "has 8 rows, which is no multiple of the quota's 3"),
    ],
)
def test_batch_sizes_that_do_not_work_out_say_why(batch_size, quota, devices, accumulate, said):
    with pytest.raises(ValueError, match=said):
        rows_per_device(batch_size, quota, devices, accumulate)


def step(state, batch):
    """Adds the global sum of the rows; each device sees only its own."""
    total = jax.lax.psum(batch["x"].sum(0), AXIS)
    metrics = {"mean": jax.lax.pmean(batch["x"].mean(), AXIS), "devices": jax.lax.psum(jnp.float32(1), AXIS)}
    return {"sum": state["sum"] + total, "nested": {"count": state["nested"]["count"] + 1}}, metrics


def start() -> dict:
    return {"sum": np.zeros(3, np.float32), "nested": {"count": np.int32(0)}}


def rows(number: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(number).normal(size=(4, 3)).astype(np.float32)}


def run(mapper: str, count: int = 0, steps: int = 3) -> tuple:
    devices = Devices.create(mapper, count)
    mapped = devices.map(step)
    state, metrics = devices.replicate(start()), None
    for number in range(steps):
        state, metrics = mapped(state, devices.split(rows(number)))
    return parallel.fetch(state), parallel.fetch(metrics)


@pytest.mark.parametrize("count", [1, 2, 0])
@pytest.mark.parametrize("mapper", MAPPERS)
def test_mapped_step_sees_all_rows_and_keeps_the_structure_of_the_state(mapper, count):
    state, metrics = run(mapper, count)
    assert jax.tree.structure(state) == jax.tree.structure(start())
    for after, before in zip(jax.tree.leaves(state), jax.tree.leaves(start()), strict=True):
        assert (after.shape, after.dtype) == (np.shape(before), before.dtype)
    np.testing.assert_allclose(state["sum"], sum(rows(n)["x"].sum(0) for n in range(3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["mean"], rows(2)["x"].mean(), rtol=1e-5, atol=1e-6)
    assert metrics["devices"] == (count or jax.device_count())
    assert state["nested"]["count"] == 3


@pytest.mark.parametrize("count", [1, 2])
def test_mappers_give_the_same_numbers_bit_for_bit(count):
    one, other = (run(mapper, count) for mapper in MAPPERS)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("mapper", MAPPERS)
def test_state_of_a_step_can_be_saved_and_fed_again(mapper):
    devices = Devices.create(mapper)
    state, _ = devices.map(step)(devices.replicate(start()), devices.split(rows(0)))
    state = devices.to_global(state)
    again = devices.replicate(parallel.fetch(state))
    jax.tree.map(np.testing.assert_array_equal, parallel.fetch(state), parallel.fetch(again))
    devices.map(step)(again, devices.split(rows(1)))


@pytest.mark.parametrize("mapper", MAPPERS)
def test_the_old_state_is_given_up(mapper):
    devices = Devices.create(mapper, 2)
    mapped = devices.map(step)
    state, _ = mapped(devices.replicate(start()), devices.split(rows(0)))
    mapped(state, devices.split(rows(1)))
    assert state["sum"].is_deleted()


def test_devices_can_be_limited():
    assert (Devices.create("shard_map", 1).count, Devices.create("pmap", 1).local_count) == (1, 1)
    assert Devices.create().count == Devices.create().local_count == jax.device_count()


def test_more_devices_than_there_are_fails_saying_how_many():
    with pytest.raises(ValueError, match=f"asks for 99 devices but there are {jax.device_count()}"):
        Devices.create("shard_map", 99)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32])
def test_sum_over_one_process_is_the_array_itself(dtype):
    array = np.array([[2**24 + 1, 3], [0, 1]]).astype(dtype)
    summed = parallel.sum_over_processes(array)
    assert summed.dtype == dtype
    np.testing.assert_array_equal(summed, array)


def test_nothing_is_initialised_unless_asked_for():
    parallel.initialize(parallel.Distributed())
    assert not jax.distributed.is_initialized()


def test_processes_that_do_host_work_count_by_the_clock_and_then_make_up_for_what_others_counted(monkeypatch):
    seen, now = [], [100.0]

    def reached(call):
        seen.append(call)
        return call == 7

    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(parallel.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point", reached)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", lambda calls: np.array([calls, 8]))
    with parallel.stop_signals() as stop:
        assert (stop(), stop.in_host_work(), seen) == (0, 0, [1])
        now[0] += 2.0
        assert (stop.in_host_work(), seen) == (0, [1, 2, 3, 4, 5])
        assert (stop.in_host_work(), len(seen)) == (0, 5)
        assert (stop.agree(), seen) == (parallel.signal.SIGTERM, [1, 2, 3, 4, 5, 6, 7, 8])
        assert stop.in_host_work() == parallel.signal.SIGTERM


def test_several_processes_count_on_over_the_stages_of_a_run(monkeypatch):
    """JAX stops a run at the highest number seen so far and one more: each stage starts its steps at 0 again."""
    seen = []
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point", seen.append)
    with parallel.stop_signals() as stop_signal:
        assert [stop_signal() for _ in range(5)] == [0] * 5
    assert seen == [1, 2, 3, 4, 5]
