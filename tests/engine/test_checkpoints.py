"""Checkpoints: what is saved comes back, the best and the last stay, and nothing that cannot be read is destroyed."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.engine.checkpoints import CheckpointError, Checkpoints, write_json
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.methods.base import Network, State


def make_state(classes: int = 3, fill: float = 1.0) -> State:
    params = {"stem": {"kernel": jnp.full((4, 4), fill)}, "classifier": {"kernel": jnp.full((4, classes), fill)}}
    stats = {"norm": {"mean": jnp.arange(4.0) * fill}}
    network = Network(params, stats, (jax.tree.map(jnp.zeros_like, params), jnp.asarray(7)), None)
    return State(jnp.asarray(5, jnp.int32), jax.random.PRNGKey(3), {"segmenter": network})


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def save(folder: Path, scores: dict[int, float | None], metric: str = "miou") -> None:
    checkpoints = Checkpoints(folder, metric)
    for step, score in scores.items():
        checkpoints.save(step, make_state(fill=step), {"position": {"next": step}})
        if score is not None:
            checkpoints.score(step, {metric: score})
    checkpoints.close()


@pytest.fixture
def reopen():
    """Opens checkpoints for reading and closes them after the test."""
    opened = []

    def open_(folder: Path, **options) -> Checkpoints:
        opened.append(Checkpoints(folder, **{"read_only": True} | options))
        return opened[-1]

    yield open_
    for checkpoints in opened:
        checkpoints.close()


@pytest.mark.parametrize("on_devices", [False, True])
def test_restored_state_and_iterator_equal_what_was_saved(tmp_path, on_devices, reopen):
    state = make_state(fill=2.5)
    if on_devices:
        state = Devices.create().replicate(state)
    iterator = {"position": {"next_index": 12, "nested": [1, 2]}, "mixture": {"dense": 0.5}}
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(4, state, iterator)
    checkpoints.close()
    like = make_state(fill=0.0)
    if on_devices:
        like = Devices.create().replicate(like)
    restored, position = reopen(tmp_path / "run").restore(4, like)
    assert position == iterator
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for saved, now in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(saved, now)
        assert saved.dtype == now.dtype
        assert now.sharding == saved.sharding


def test_best_and_last_are_kept_and_others_deleted(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.4})
    checkpoints = reopen(tmp_path / "run")
    assert checkpoints.choose("best") == 2
    assert checkpoints.choose("last") == checkpoints.latest() == 4
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name.isdigit()} == {"2", "4"}
    restored, iterator = checkpoints.restore(2, make_state())
    assert iterator == {"position": {"next": 2}}
    np.testing.assert_array_equal(restored.networks["segmenter"].params["stem"]["kernel"], 2)


def test_checkpoint_without_metrics_never_replaces_the_best(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.2, 2: None, 3: None})
    checkpoints = reopen(tmp_path / "run")
    assert checkpoints.choose("best") == 1
    assert checkpoints.choose("last") == 3


def test_score_that_is_nan_is_worse_than_any_other(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.1, 2: float("nan"), 3: 0.05})
    assert reopen(tmp_path / "run").choose("best") == 1


def test_best_follows_the_metric_that_is_asked_for(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.3, 2: 0.1}, metric="pixel_accuracy")
    assert reopen(tmp_path / "run", metric="pixel_accuracy").choose("best") == 1


def test_best_is_the_last_where_none_has_metrics(tmp_path, reopen):
    save(tmp_path / "run", {1: None, 2: None})
    assert reopen(tmp_path / "run").choose("best") == 2


def test_best_survives_when_a_run_goes_on(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.9, 2: 0.3})
    save(tmp_path / "run", {3: 0.4, 4: 0.5})
    checkpoints = reopen(tmp_path / "run")
    assert (checkpoints.choose("best"), checkpoints.choose("last")) == (1, 4)


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch, reopen):
    save(tmp_path / "run", {1: 0.2})
    before = contents(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200))
    with pytest.raises(OSError, match=r"step 2 needs 0 MiB, .* has 0 MiB left; the last one is of step 1\. Make room"):
        save(tmp_path / "run", {2: 0.3})
    assert contents(tmp_path) == before


def test_saving_a_step_twice_leaves_the_first_alone(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.5})
    before = contents(tmp_path / "run")
    save(tmp_path / "run", {1: None})
    assert contents(tmp_path / "run") == before


def test_saving_does_not_ask_jax_whether_to_stop(tmp_path, monkeypatch, reopen):
    """JAX would take the step that is saved for the one at which the run is."""
    asked = []
    monkeypatch.setattr("orbax.checkpoint.utils.reached_preemption", asked.append)
    save(tmp_path / "run", {1: 0.5, 2: None})
    assert reopen(tmp_path / "run").latest() == 2
    assert not asked


def test_other_number_of_classes_fails_naming_the_parameter_and_changes_nothing(tmp_path):
    save(tmp_path / "run", {1: 0.2, 2: 0.1})
    before = contents(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not fit") as error:
        checkpoints.restore(2, make_state(classes=5))
    checkpoints.close()
    assert "params/classifier/kernel: (4, 3) in the checkpoint, (4, 5) in this run" in str(error.value)
    assert "stem" not in str(error.value)
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("ema_in", ["checkpoint", "run"])
def test_average_that_only_one_side_has_fails_naming_it(tmp_path, ema_in):
    def state(with_ema: bool) -> State:
        state = make_state()
        network = state.networks["segmenter"]
        ema = network.params if with_ema else None
        return state.replace(networks={"segmenter": network.replace(ema=ema)})

    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(1, state(ema_in == "checkpoint"), {})
    checkpoints.wait()
    with pytest.raises(CheckpointError, match="ema/classifier/kernel") as error:
        checkpoints.restore(1, state(ema_in == "run"))
    checkpoints.close()
    assert "absent" in str(error.value)


def truncate_largest(step: Path) -> None:
    largest = max((p for p in (step / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:10])


def truncate_data(step: Path) -> None:
    for path in (step / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_metadata(step: Path) -> None:
    (step / "state" / "_METADATA").unlink()


def delete_iterator(step: Path) -> None:
    for path in (step / "iterator").rglob("*"):
        if path.is_file():
            path.unlink()


def empty_all_files(step: Path) -> None:
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


DAMAGES = [empty_all_files, truncate_largest, truncate_data, delete_metadata, delete_iterator]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_fails_saying_so_and_every_file_stays(tmp_path, damage, read_only):
    save(tmp_path / "run", {1: 0.9, 2: 0.1})
    damage(tmp_path / "run" / "2")
    before = contents(tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run", read_only=read_only)
    with pytest.raises(CheckpointError, match=r"checkpoint 2 .* cannot be read") as error:
        checkpoints.restore(checkpoints.choose("last"), make_state())
    checkpoints.close()
    assert str(tmp_path / "run" / "2") in str(error.value)
    assert contents(tmp_path / "run") == before


def test_a_best_one_that_the_last_beats_is_deleted_at_the_end(tmp_path):
    save(tmp_path / "run", {1: 0.2, 2: 0.5, 3: 0.9})
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.finish()
    checkpoints.close()
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name.isdigit()} == {"3"}


def test_a_step_that_is_trained_again_has_no_score_until_it_is_scored_again(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.5, 2: 0.9})
    (tmp_path / "run" / "2").rename(tmp_path / "away")
    save(tmp_path / "run", {2: None})
    checkpoints = reopen(tmp_path / "run")
    assert set(checkpoints.scores) == {1}
    assert checkpoints.choose("best") == 1


def test_broken_scores_fail_saying_so_and_every_file_stays(tmp_path):
    save(tmp_path / "run", {1: 0.9})
    (tmp_path / "run" / "scores.json").write_text("{")
    with pytest.raises(CheckpointError, match="run cannot be read"):
        Checkpoints(tmp_path / "run")
    assert (tmp_path / "run" / "1").is_dir()


@pytest.mark.parametrize("which", ["7", "newest", "-1", ""])
def test_unknown_step_fails_with_the_known_ones(tmp_path, which, reopen):
    save(tmp_path / "run", {1: 0.9, 2: 0.1})
    with pytest.raises(CheckpointError, match=r"there are: best, last, \[1, 2\]"):
        reopen(tmp_path / "run").choose(which)


def test_step_can_be_chosen_by_number(tmp_path, reopen):
    save(tmp_path / "run", {1: 0.9, 2: 0.1})
    assert reopen(tmp_path / "run").choose("1") == 1


def test_folder_without_checkpoints_says_so(tmp_path, reopen):
    (tmp_path / "run").mkdir()
    checkpoints = reopen(tmp_path / "run")
    assert checkpoints.latest() is None
    with pytest.raises(CheckpointError, match="no finished checkpoint; train first"):
        checkpoints.choose("best")


def test_reading_a_folder_that_does_not_exist_fails_and_makes_none(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist; train first"):
        Checkpoints(tmp_path / "run", read_only=True)
    assert not (tmp_path / "run").exists()


def test_json_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "values.json"
    write_json(path, {"a": [1, 2]})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 2]}
    assert [p.name for p in path.parent.iterdir()] == ["values.json"]


def test_a_process_that_keeps_checkpoints_for_itself_gets_them_back_as_host_arrays(tmp_path):
    state = Devices.create().replicate(make_state(fill=2.5))
    checkpoints = Checkpoints(tmp_path / "run", shared=False)
    checkpoints.save(4, state, {"position": 1})
    checkpoints.score(4, {"miou": 0.5})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "run", shared=False)
    assert checkpoints.scores == {4: {"miou": 0.5}}
    restored, position = checkpoints.restore(4, checkpoints.like(make_state(), Devices.create()))
    checkpoints.close()
    assert position == {"position": 1}
    for saved, now in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(saved, now)


def test_a_process_that_keeps_checkpoints_for_itself_refuses_state_of_which_it_has_a_part(tmp_path):
    sharding = jax.sharding.NamedSharding(Devices.create().mesh, jax.sharding.PartitionSpec("data"))
    checkpoints = Checkpoints(tmp_path / "run", shared=False)
    with pytest.raises(ValueError, match=r"sharded over several processes.*as --workdir"):
        checkpoints.save(4, {"kernel": jax.device_put(np.zeros(4), sharding)}, {})
    checkpoints.close()
