"""A workdir in a store: what a run saved is there for any machine, whole, and one run at a time writes to it."""

import json
import shutil
import threading
from pathlib import Path

import fsspec
import pytest

from semiseg_jax.data.remote import Store
from semiseg_jax.engine import mirror, store_lock
from semiseg_jax.engine.store_lock import StoreLock

ADDRESS = "memory://bucket/run"


@pytest.fixture(autouse=True)
def _memory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "LOOK", 0.01)
    monkeypatch.setattr(mirror.time, "sleep", lambda _: None)  # between tries
    yield
    fsspec.filesystem("memory").store.clear()
    mirror._open.clear()


@pytest.fixture
def new_machine(monkeypatch, tmp_path):
    """Another machine has no mirror yet."""
    numbers = iter(range(100))
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine {next(numbers)}"))


def save(local: Path, step: int, text: str = "weights") -> None:
    folder = local / "checkpoints" / "stage" / str(step)
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "data").write_text(f"{text} {step}")


def steps(local: Path) -> list[int]:
    return sorted(int(path.name) for path in (local / "checkpoints" / "stage").glob("*") if path.name.isdigit())


def objects() -> set[str]:
    return set(Store(ADDRESS).sizes())


def test_another_machine_finds_what_a_run_has_left(new_machine):
    with mirror.training(ADDRESS) as local:
        (local / "config.json").write_text("{}")
        (local / "labels").mkdir()
        (local / "labels" / "image[1].png").write_bytes(b"png")
        (local / "half.tmp").write_text("nothing")
        save(local, 3)
    new_machine()
    with mirror.training(ADDRESS) as there:
        assert there != local
        assert steps(there) == [3]
        assert (there / "checkpoints/stage/3/state/data").read_text() == "weights 3"
        assert (there / "labels" / "image[1].png").read_bytes() == b"png"
        assert not (there / "half.tmp").exists()


def test_checkpoints_are_sent_while_the_run_goes_on_after_the_files_that_belong_to_them():
    with mirror.training(ADDRESS) as local:
        (local / "metrics.jsonl").write_text("row")
        order: list[str] = []
        write = Store.write

        def note(self, contents):
            order.extend(contents)
            write(self, contents)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "write", note)
            save(local, 3)
            wait_for(lambda: "checkpoints/stage/3.complete" in objects())
        assert [name for name in order if name != ".lock"] == ["metrics.jsonl", "checkpoints/stage/3.complete"]


def wait_for(condition) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.005)
    pytest.fail("it never came")


def test_a_kill_between_upload_and_marker_leaves_the_earlier_checkpoint_in_use(new_machine):
    with mirror.training(ADDRESS) as local:
        save(local, 3)
    Store(ADDRESS).write({"checkpoints/stage/6/state/data": b"weights 6"})
    new_machine()
    with mirror.training(ADDRESS) as local:
        assert steps(local) == [3]


def test_what_is_deleted_here_is_deleted_there_after_the_next_checkpoint_is_whole(new_machine, monkeypatch):
    whole_at_deletion = []
    delete = Store.delete_whole

    def note(self, name):
        whole_at_deletion.append({name for name in self.sizes() if name.endswith(".complete")})
        delete(self, name)

    monkeypatch.setattr(Store, "delete_whole", note)
    with mirror.training(ADDRESS) as local:
        save(local, 3)
        (local / "old.txt").write_text("")
        wait_for(lambda: "checkpoints/stage/3.complete" in objects())
        shutil.rmtree(local / "checkpoints" / "stage" / "3")
        (local / "old.txt").unlink()
        save(local, 6)
    assert all("checkpoints/stage/6.complete" in there for there in whole_at_deletion[-1:])
    assert objects() == {"checkpoints/stage/6/state/data", "checkpoints/stage/6.complete", ".session"}


def test_a_checkpoint_that_vanishes_while_it_is_sent_leaves_the_earlier_one(monkeypatch):
    put = Store.put_whole

    def slow(self, folder, name):
        if name.endswith("/6"):  # the run saves 9 and deletes 6 meanwhile
            shutil.rmtree(folder)
            return False
        return put(self, folder, name)

    with mirror.training(ADDRESS) as local:
        save(local, 3)
        wait_for(lambda: "checkpoints/stage/3.complete" in objects())
        monkeypatch.setattr(Store, "put_whole", slow)
        shutil.rmtree(local / "checkpoints" / "stage" / "3")
        save(local, 6)
        wait_for(lambda: steps(local) == [])
    assert "checkpoints/stage/3.complete" in objects()
    monkeypatch.undo()


def test_what_is_lost_of_a_mirror_is_fetched_again_and_what_people_put_into_the_store_stays():
    with mirror.training(ADDRESS) as local:
        (local / "config.json").write_text("{}")
        save(local, 3)
    Store(ADDRESS).write({"notes.md": b"mine", "report.html": b"a page"})
    shutil.rmtree(local / "checkpoints")
    (local / "config.json").unlink()
    with mirror.training(ADDRESS) as local:
        assert steps(local) == [3]
        assert (local / "config.json").read_text() == "{}"
    assert {"notes.md", "report.html", "config.json", "checkpoints/stage/3.complete"} <= objects()


def test_a_mirror_that_another_machine_has_overtaken_becomes_what_the_store_holds(new_machine, monkeypatch, tmp_path):
    with mirror.training(ADDRESS) as first:
        save(first, 3)
        (first / "stale.done").write_text("")
    new_machine()
    with mirror.training(ADDRESS) as second:
        save(second, 6, "others")
        shutil.rmtree(second / "checkpoints" / "stage" / "3")
        (second / "stale.done").unlink()
        wait_for(lambda: "checkpoints/stage/3.complete" not in objects())
        save(second, 3, "others")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with mirror.training(ADDRESS) as local:
        assert local == first
        assert (local / "checkpoints/stage/3/state/data").read_text() == "others 3"
        assert steps(local) == [3, 6]
        assert not (local / "stale.done").exists()


def test_a_mirror_that_was_the_last_to_write_goes_on_from_what_it_could_not_send(monkeypatch, caplog):
    def without_network() -> None:
        with monkeypatch.context() as patch, mirror.training(ADDRESS) as local:
            patch.setattr(Store, "put_whole", lambda *_: (_ for _ in ()).throw(ConnectionError("no network")))
            save(local, 3)
            wait_for(lambda: "no network" in caplog.text)

    with pytest.raises(OSError, match="the same command on this machine sends it"):
        without_network()
    assert caplog.text.count("memory://bucket/run cannot be written to (no network): training goes on") == 1
    with mirror.training(ADDRESS) as local:
        assert steps(local) == [3]
        assert "checkpoints/stage/3.complete" in objects()


def test_an_error_of_the_run_is_what_is_told_and_what_was_saved_is_sent():
    def fail() -> None:
        with mirror.training(ADDRESS) as local:
            save(local, 3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "checkpoints/stage/3.complete" in objects()
    assert ".lock" not in objects()


def test_readers_get_description_and_checkpoints_and_leave_the_run_alone(new_machine):
    with mirror.training(ADDRESS) as local:
        (local / "config.json").write_text("{}")
        (local / "checkpoints" / "stage").mkdir(parents=True)
        (local / "checkpoints" / "stage" / "scores.json").write_text("[]")
        save(local, 3)
        wait_for(lambda: "checkpoints/stage/3.complete" in objects())
        reader = mirror.reading(ADDRESS)
        assert reader != local
        assert (reader / "config.json").is_file()
        assert not (reader / "checkpoints").exists()
        mirror.fetch_checkpoints(reader / "checkpoints" / "stage")
        assert steps(reader) == [3]
        assert (reader / "checkpoints" / "stage" / "scores.json").read_text() == "[]"
        (reader / "evaluation_val.json").write_text("{}")
        mirror.send_output(reader / "evaluation_val.json")
        assert mirror.shown(reader / "evaluation_val.json") == f"{ADDRESS}/evaluation_val.json"
    assert "evaluation_val.json" in objects()


def test_a_local_workdir_is_used_as_it_is(tmp_path):
    with mirror.training(tmp_path) as local:
        assert local == tmp_path == mirror.reading(str(tmp_path))
    assert mirror.shown(tmp_path) == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_out_of_reach_at_the_end_is_told_of_by_what_could_not_be_sent(monkeypatch):
    def unreachable(*_):
        raise ConnectionError("no network")

    def lose_the_store() -> None:
        with mirror.training(ADDRESS) as local:
            save(local, 3)
            for name in ("put_whole", "read", "write", "delete"):
                monkeypatch.setattr(Store, name, unreachable)

    with pytest.raises(OSError, match="the same command on this machine sends it"):
        lose_the_store()


def test_a_second_run_is_refused_and_the_lock_goes_with_the_first():
    with mirror.training(ADDRESS):
        with pytest.raises(ValueError, match=r"another run is going on in memory://bucket/run \(process \d+ on"):
            mirror.training(ADDRESS).__enter__()
        assert ".lock" in objects()
    assert ".lock" not in objects()


def lock_of(machine: str, **fields) -> None:
    content = {"owner": "other", "beat": 1, "host": "far", "machine": machine, "pid": 1, **fields}
    Store(ADDRESS).write({".lock": json.dumps(content).encode()})


def test_the_lock_of_a_killed_run_of_this_machine_is_taken_over_at_once(monkeypatch):
    monkeypatch.setattr(store_lock, "is_running", lambda pid: pid != 123)
    lock_of(store_lock._machine(), pid=123)
    with StoreLock(Store(ADDRESS)) as lock:
        assert lock._is_ours()


def test_the_lock_of_another_machine_is_taken_over_after_a_time_without_a_sign_of_life(monkeypatch, capsys):
    monkeypatch.setattr(store_lock, "STALE", 0.05)
    lock_of("another")
    with StoreLock(Store(ADDRESS)) as lock:
        assert lock._is_ours()
    assert "waits up to 0.05 s for a sign of life" in capsys.readouterr().out


def test_the_lock_of_a_run_of_another_machine_that_lives_is_respected(monkeypatch):
    lock_of("another")
    monkeypatch.setattr(store_lock.time, "sleep", lambda _: lock_of("another", beat=2))
    with pytest.raises(ValueError, match="another run is going on"):
        StoreLock(Store(ADDRESS)).__enter__()


def test_a_run_that_lost_its_lock_writes_nothing_more_and_says_so(monkeypatch):
    monkeypatch.setattr(store_lock, "HEARTBEAT", 0.01)

    def overtaken() -> None:
        with mirror.training(ADDRESS) as local:
            thread = next(t for t in threading.enumerate() if t.name == "lock of the workdir")
            lock_of("another")
            thread.join(10)
            save(local, 3)

    with pytest.raises(OSError, match="what was trained last is in"):
        overtaken()
    assert "checkpoints/stage/3.complete" not in objects()
    assert ".lock" in objects()


def test_what_readers_wrote_stays_when_the_run_goes_on():
    with mirror.training(ADDRESS) as local:
        save(local, 3)
    reader = mirror.reading(ADDRESS)
    (reader / "predictions").mkdir()
    (reader / "predictions" / "predictions.json").write_text("{}")
    mirror.send_output(reader / "predictions")
    with mirror.training(ADDRESS) as local:
        save(local, 6)
    assert "predictions/predictions.json" in objects()


def test_a_checkpoint_that_people_delete_in_the_store_is_not_sent_again():
    with mirror.training(ADDRESS) as local:
        save(local, 3)
        save(local, 6)
    Store(ADDRESS).delete(["checkpoints/stage/6.complete"])
    with mirror.training(ADDRESS) as local:
        assert steps(local) == [3]
    assert "checkpoints/stage/6.complete" not in objects()
