"""How processes are joined, and how the end of one of them reaches the others."""

import json
import socket
import threading
import time

import jax
import pytest

from semiseg_jax.config import default_config, from_json, to_json
from semiseg_jax.engine import lifeline, processes
from semiseg_jax.engine.clusters import Cluster
from semiseg_jax.engine.processes import Distributed, _cluster, join, visible_gpus


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, "yes"), (False, "no"), ("True", "yes"), ("false", "no"), ("auto", "auto"), ("yes", "yes"), ("no", "no")],
)
def test_yes_no_and_what_was_written_before_there_was_a_detection(given, meant):
    assert Distributed(enabled=given).enabled == meant


def test_workdirs_from_before_there_was_a_detection_can_be_read():
    stored = json.loads(to_json(default_config()))
    for before, meant in ((True, "yes"), (False, "auto")):
        stored["distributed"]["enabled"] = before
        assert from_json(json.dumps(stored)).distributed.enabled == meant


@pytest.mark.parametrize("enabled", ["auto", "no"])
def test_a_process_alone_stays_alone(enabled, monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: joined.append(how))
    join(Distributed(enabled=enabled))
    assert joined == []


def test_other_processes_that_must_be_there_and_are_not_are_missed():
    with pytest.raises(ValueError, match="no launcher started several processes"):
        join(Distributed(enabled="yes"))


@pytest.mark.parametrize("missing", ["coordinator", "processes", "process"])
def test_fields_that_are_given_by_halves_are_named(missing, monkeypatch):
    given = {"coordinator": "node1:1234", "processes": 2, "process": 0}
    del given[missing]
    with pytest.raises(ValueError, match=f"but not {missing}, and no launcher says it"):
        _cluster(Distributed(**given))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, value in (("RANK", "0"), ("MASTER_ADDR", "other"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    found = _cluster(Distributed(**given))
    assert found.coordinator == given.get("coordinator", "other:1")


def test_what_is_found_is_handed_to_jax(monkeypatch):
    seen = {}
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "1234")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **how: seen.update(how))
    join(Distributed())
    assert seen["coordinator_address"] == "node1:1234"
    assert (seen["num_processes"], seen["process_id"], seen["local_device_ids"]) == (2, 0, None)
    assert seen["cluster_detection_method"] == "deactivate"


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 3),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"ROCR_VISIBLE_DEVICES": "0,1,2,3"}, 4),
        ({"JAX_PLATFORMS": "cpu"}, 0),
    ],
)
def test_gpus_are_counted_without_asking_jax(environ, count, tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus(environ, tmp_path) == count


def test_processes_that_never_come_are_waited_for_with_a_word_and_not_for_ever(monkeypatch, capsys, caplog):
    ended = threading.Event()
    monkeypatch.setattr(lifeline, "_exit", ended.set)
    monkeypatch.setattr(processes, "WAIT", 0.05)
    with processes._patience(Cluster("Slurm", "node1:1234", 4, 2)):
        assert ended.wait(5)
    assert "process 2 of 4 (Slurm) waits for the others at node1:1234" in caplog.text
    assert "did not find the others at node1:1234 within 0.05 seconds" in capsys.readouterr().err


class Tied:
    """The lifeline of process `me` of 3, with the other end of one connection."""

    def __init__(self, monkeypatch, me: int):
        monkeypatch.setattr(jax, "process_index", lambda: me)
        monkeypatch.setattr(jax, "process_count", lambda: 3)
        monkeypatch.setattr(lifeline, "GRACE", 0.01)
        self.ended = []
        monkeypatch.setattr(lifeline, "_exit", lambda: self.ended.append(True))
        if me:
            near, self.far = socket.socketpair()
            self.line = lifeline.Lifeline("secret", first=lifeline._Other(near, 0, "node0"))
        else:
            server = socket.create_server(("127.0.0.1", 0))
            self.line = lifeline.Lifeline("secret", server)
            self.far = socket.create_connection(server.getsockname())

    def say(self, **what) -> None:
        self.far.sendall(json.dumps(what).encode() + b"\n")

    def wait(self, condition) -> bool:
        until = time.monotonic() + 5
        while not condition() and time.monotonic() < until:
            time.sleep(0.005)
        return bool(condition())


@pytest.fixture
def tied(monkeypatch):
    lines = []

    def make(me: int) -> Tied:
        lines.append(Tied(monkeypatch, me))
        return lines[-1]

    yield make
    for each in lines:  # else they would end the tests with them
        for other in each.line.others:
            other.left = True
        each.far.close()
        assert each.wait(lambda line=each.line: not line.others)
        lifeline.atexit.unregister(each.line.leave)
        lifeline.atexit.unregister(lifeline._exit)


@pytest.mark.parametrize("me", [0, 2])
def test_a_process_that_ends_without_a_word_ends_the_others_with_one(tied, me, capsys):
    one = tied(me)
    if not me:
        one.say(hello=1, host="node1", token="secret")
    one.far.close()
    assert one.wait(lambda: one.ended)
    said = capsys.readouterr().err
    assert f"process {1 if not me else 0} of 3 on node{1 if not me else 0} ended without a word" in said
    assert "go on from the last checkpoint" in said


@pytest.mark.parametrize("me", [0, 2])
def test_a_process_that_says_goodbye_ends_nothing(tied, me):
    one = tied(me)
    if not me:
        one.say(hello=1, host="node1", token="secret")
    one.say(bye=True)
    one.far.close()
    assert one.wait(lambda: not one.line.others)
    assert not one.ended


def test_a_stranger_is_turned_away(tied):
    one = tied(0)
    one.far.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert one.wait(lambda: one.far.recv(100) == b"")
    assert not one.ended


def test_the_first_process_passes_on_why_another_one_failed(tied, capsys):
    one = tied(0)
    one.say(hello=1, host="node1", token="secret")
    one.say(failed="process 1 of 3 on node1 failed: no such file")
    assert one.wait(lambda: one.ended)
    assert (
        "semiseg: process 1 of 3 on node1 failed: no such file. All processes end with it.\n" in capsys.readouterr().err
    )
    assert b'"failed": "process 1 of 3' in one.far.recv(4096)


def test_a_verb_that_fails_tells_the_others_and_raises(tied, monkeypatch):
    one = tied(2)
    monkeypatch.setattr(processes, "_tied", [one.line])

    @processes.together
    def verb():
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        verb()
    said = one.far.recv(4096)
    assert b"process 2 of 3 on " in said
    assert b"failed: no such file" in said


def test_values_of_one_process_are_gathered_as_they_are():
    assert processes.gather({"a": 1}) == [{"a": 1}]
    assert processes.share([1, 2, 3]) == [1, 2, 3]
    processes.check_same(["a"], "images")
