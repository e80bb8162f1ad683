"""Topologies by their names, stated numbers, and the prediction that is made of them."""

import pytest

from semiseg_jax.engine import hardware
from semiseg_jax.engine.hardware import CHIPS, Chip, Topology
from semiseg_jax.engine.prediction import SHARE, Work, efficiency, sending_seconds, step_seconds


@pytest.mark.parametrize(
    ("text", "platform", "count"),
    [
        ("v5e:2x4", "tpu", 8),
        ("V4:2x2x2", "tpu", 8),
        ("v5p:2x2x1", "tpu", 4),
        ("v6e:8x8", "tpu", 64),
        ("h200:8", "cuda", 8),
        ("h100", "cuda", 1),
        ("a100:4", "cuda", 4),
        ("cpu:2", "cpu", 2),
    ],
)
def test_a_topology_is_read(text, platform, count):
    topology = Topology.parse(text)
    assert (topology.chip.platform, topology.count) == (platform, count)
    assert Topology.parse(topology.name) == topology


@pytest.mark.parametrize("text", ["", "v9:2", "v5e:", "v5e:8", "v4:2x4", "h200:2x4", "h200:0", "cpu:two", "v5e:2x4x"])
def test_a_topology_that_cannot_be_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"topology .* such as (v5e:2x4|v4:2x2x2|h200:8)"):
        Topology.parse(text)


def test_the_memory_of_cpus_is_shared():
    assert Topology.parse("cpu:2").chip.memory == pytest.approx(Topology.parse("cpu:1").chip.memory / 2)


@pytest.mark.parametrize(("text", "extra"), [("v5e:2x4", "tpu-preflight"), ("h200", "gpu-preflight")])
def test_a_missing_compiler_names_the_extra_that_brings_it(text, extra, monkeypatch):
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"pip install 'semiseg-jax\[{extra}\]'"):
        hardware.check_compiler(Topology.parse(text))
    hardware.check_compiler(Topology.parse("cpu:2"))


@pytest.mark.parametrize("name", CHIPS)
def test_every_kind_states_what_the_prediction_needs(name):
    chip = CHIPS[name]
    assert min(chip.memory, chip.bfloat16, chip.float32, chip.bandwidth, chip.link, chip.network) > 0
    assert chip.float32 <= chip.bfloat16
    assert bool(chip.target) == (chip.platform == "cuda")


CHIP = Chip("test", "tpu", 1e9, bfloat16=100.0, float32=50.0, bandwidth=10.0, link=4.0, group=8, network=0.5)


def test_a_step_takes_as_long_as_the_slower_of_products_and_memory():
    assert step_seconds(Work(200.0, 1.0, 0.0), CHIP, "bfloat16") == pytest.approx(200 / (SHARE * 100))
    assert step_seconds(Work(200.0, 1.0, 0.0), CHIP, "float32") == pytest.approx(200 / (SHARE * 50))
    assert step_seconds(Work(200.0, 90.0, 0.0), CHIP, "float32") == pytest.approx(9.0)


def test_sending_follows_the_rings():
    work = Work(0.0, 0.0, 16.0)
    assert sending_seconds(work, CHIP, 1) == 0
    assert sending_seconds(work, CHIP, 8) == pytest.approx(2 * 7 / 8 * 16 / 4)
    assert sending_seconds(work, CHIP, 32) == pytest.approx(2 * 7 / 8 * 16 / 4 + 2 * 3 / 4 * 2 / 0.5)


def test_efficiency_is_the_share_of_the_time_that_is_not_sending():
    work = Work(200.0, 1.0, 16.0)  # 4 s in bfloat16, and 7 s of sending among 8
    assert efficiency(work, CHIP, "bfloat16", 8) == pytest.approx(4 / 11)
    assert efficiency(work, CHIP, "bfloat16", 1) == 1
