"""`semiseg preflight`: its table, what it offers where a config does not fit, and one compilation for two CPUs."""

import json
from typing import get_type_hints

import numpy as np
import pytest

from semiseg_jax import cli
from semiseg_jax.config import default_config, settings, to_json
from semiseg_jax.data.types import Example
from semiseg_jax.engine.hardware import Topology
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.verbs import compile_process, preflight
from semiseg_jax.verbs.compile_steps import GEOMETRY, Layout, example_shapes, out_of_memory, with_weights
from semiseg_jax.verbs.preflight_offers import as_flags, for_batch, for_memory, smaller_side, with_changes
from semiseg_jax.verbs.preflight_table import PARTS, tables

FOUND = {
    "stage": "supervised",
    "changes": "",
    "seconds": 12.4,
    "dtype": "float32",
    "images": 16,
    "crop": [64, 64],
    "gradients": 2**20,
    "memory": dict.fromkeys(PARTS, 2**20) | {"total": 3 * 2**30, "statistics": 0},
    "fits": True,
    "collectives": {"all-reduce": {"count": 2, "bytes": 2**20}},
    "sent": 2**20,
    "operations": 2e12,
    "traffic": 2**30,
}
TOO_LARGE = {
    "stage": "supervised", "changes": "", "problem": "memory", "error": "RESOURCE_EXHAUSTED: 20 of 16", "fits": False,
    "seconds": 3.0, "memory": {"total": 20 * 2**30},
}  # fmt: skip


@pytest.fixture
def compiler(monkeypatch):
    """Replaces the compiler: `jobs = compiler(rows, rows, ...)` gives these in turn and lists what it was asked for."""

    def replace(*answers):
        jobs, left = [], iter(answers)

        def compiled(config, topology, classes, only=(), quick=False):
            assert not quick
            jobs.append((config, topology, classes, list(only)))
            return [dict(row) for row in next(left)]

        monkeypatch.setattr(preflight, "compiled_stages", compiled)
        monkeypatch.setattr(preflight, "check_compiler", lambda topology: None)
        return jobs

    return replace


def test_the_table_says_what_holds_what_is_sent_and_what_is_predicted(compiler, capsys, tmp_path):
    compiler([FOUND])
    report = preflight.preflight(default_config(), "v5e:2x4", classes=3, json=tmp_path / "found.json")
    shown = capsys.readouterr().out
    assert report.fits
    assert str(report) in shown
    for text in ("8 x TPU v5e", "3 classes", "12 s", "3.00 GiB", "1.00 x gradients", "2 all-reduce", "step(1) = max("):
        assert text in shown
    assert "20.3 ms" in shown  # 2e12 operations at half of 197e12 a second
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["devices"] == 8
    assert written["stages"][0]["predicted"]["efficiency"].keys() == {"8", "64", "256"}


def test_a_table_of_cpus_predicts_nothing(capsys):
    assert "no stated numbers for a CPU" in tables(Topology.parse("cpu:2"), 3, [FOUND])


def test_what_does_not_fit_is_compiled_with_less_until_it_fits(compiler, capsys):
    jobs = compiler([TOO_LARGE], [TOO_LARGE], [FOUND])
    report = preflight.preflight(default_config(), "v5e:2x4", classes=3)
    assert not report.fits
    assert [row["changes"] for row in report.rows] == [
        "", "--config.shard_state=True", "--config.shard_state=True --config.model.remat=True",
    ]  # fmt: skip
    assert jobs[2][0].model.remat
    assert jobs[2][3] == ["supervised"]
    assert "too large" in capsys.readouterr().out


def test_proposals_can_be_left_out(compiler):
    assert len(compiler([TOO_LARGE])) == 0
    assert len(preflight.preflight(default_config(), "v5e:2x4", classes=3, propose=False).rows) == 1


def test_at_most_so_many_changes_are_tried(compiler):
    jobs = compiler(*[[TOO_LARGE]] * 9)
    preflight.preflight(default_config(), "v5e:2x4", classes=3)
    assert len(jobs) == 1 + preflight.TRIES


def test_a_batch_that_does_not_divide_gets_its_neighbours(compiler):
    config = default_config()
    config.batch_size, config.data.quota = 20, {"dense": 1, "unlabeled": 1}
    assert list(for_batch(config, 8)) == [{"batch_size": 16}, {"batch_size": 32}]
    problem = {"stage": "supervised", "problem": "batch", "error": "batch_size 20 is not divisible"}
    jobs = compiler([problem], [FOUND], [FOUND])
    report = preflight.preflight(config, "v5e:2x4", classes=3)
    assert [job[0].batch_size for job in jobs] == [20, 16, 32]
    assert "not divisible" in str(report)


def test_changes_for_memory_begin_with_those_that_keep_the_images():
    config = default_config()
    config.batch_size, config.data.quota = 64, {"dense": 2}
    config.augment.crop = (321, 321)
    offers = list(for_memory(config, 8))
    assert offers[:2] == [{"shard_state": True}, {"shard_state": True, "model.remat": True}]
    assert offers[2]["accumulate"] == 2
    assert next(for_memory(config, 1)) == {"model.remat": True}
    assert offers[3]["dtype"] == "bfloat16"
    assert offers[4]["augment.crop"] == (241, 241)
    assert offers[-1]["batch_size"] == 32
    for changes in offers:
        settings(with_changes(config, changes))


@pytest.mark.parametrize(("side", "smaller"), [(321, 241), (512, 384), (160, 112), (33, 33)])
def test_a_smaller_crop_keeps_its_form(side, smaller):
    assert smaller_side(side) == smaller


def test_changes_are_shown_as_flags():
    assert as_flags({"data.quota": {"dense": 1}, "model.remat": True}) == (
        "--config.data.quota='{\"dense\": 1}' --config.model.remat=True"
    )


def test_example_shapes_are_those_of_an_example():
    layout = Layout((32, 48), **GEOMETRY)
    shapes = example_shapes(layout, 5, 4, Devices.create(count=2))
    assert shapes.keys() == get_type_hints(Example).keys()
    assert shapes["image"].shape == (4, 32, 48, 3)
    assert shapes["tags"].shape == (4, 5)
    assert shapes["image"].dtype == np.uint8


def test_messages_of_compilers_become_problems():
    message = "RESOURCE_EXHAUSTED: XLA ran out of memory. Used 2.00G of 1.00G hbm.\nmore"
    assert out_of_memory(message)["memory"] == {"total": 2 * 2**30}
    assert out_of_memory("INTERNAL: no\nstack") == {"problem": "error", "error": "INTERNAL: no"}


def test_class_weights_of_a_dataset_that_is_not_there_are_filled_in():
    config = default_config()
    config.balance_classes = 0.5
    assert with_weights(settings(config), 3).class_weights == (1.0, 1.0, 1.0)


def test_the_command_needs_a_topology(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("from semiseg_jax.config import default_config\nget_config = lambda arg='': default_config()\n")
    assert cli.main(["preflight", f"--config={path}"]) == 1
    assert "--topology is missing" in capsys.readouterr().err
    assert cli.main(["preflight", f"--config={path}", "--topology=v9"]) == 1
    assert "known kinds: v4, v5e" in capsys.readouterr().err


@pytest.mark.heavy
def test_a_compiler_that_aborts_costs_the_stage_in_hand(monkeypatch, capsys):
    monkeypatch.setattr(compile_process, "MODULE", "aborting_compiler")
    first, second = compile_process.compiled_stages(default_config(), "v5e:2x4", 3)
    assert first == {
        "stage": "first", "problem": "abort", "error": "the compiler aborted: F1129 converter.cc:1] Check failed: x",
    }  # fmt: skip
    assert second == {"stage": "second", "seconds": 1.0}
    assert "compiling first for v5e:2x4" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_tiny_config_is_compiled_for_two_cpus(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    (tmp_path / "mine.json").write_text(to_json(tiny_config))
    (tmp_path / "mine.py").write_text(
        "import pathlib\nfrom semiseg_jax.config import from_json\n"
        "get_config = lambda arg='': from_json(pathlib.Path(__file__).with_suffix('.json').read_text())\n"
    )
    asked = ["preflight", f"--config={tmp_path / 'mine.py'}", "--topology=cpu:2", f"--json={tmp_path / 'found.json'}"]
    assert cli.main([*asked, "--classes=3"]) == 0
    (row,) = json.loads((tmp_path / "found.json").read_text())["stages"]
    assert (row["stage"], row["images"], row["fits"]) == ("supervised", 4, True)
    memory = row["memory"]
    assert memory["optimizer"] > 2 * memory["parameters"] > 0
    assert memory["batch"] > 2 * 512 * 512 * 4  # of two images on their canvas, with masks
    assert memory["total"] > memory["temporaries"] > 0
    assert row["gradients"] <= row["sent"] <= 1.1 * row["gradients"]
    assert row["operations"] > 0
    assert "No prediction" in capsys.readouterr().out
