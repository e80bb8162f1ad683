"""The local launcher starts processes, shows what they say, and ends them together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import tiny_config_file
from runs import logged

from experiments.launch.local import run

pytestmark = pytest.mark.heavy

LAUNCHER = Path(__file__).parents[2] / "experiments" / "launch" / "local.py"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_is_prefixed_and_each_process_knows_which_one_it_is(capfd):
    assert run(python("import os; print(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])"), 2) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["[0] 0 of 2", "[1] 1 of 2"]


def test_one_that_fails_ends_the_others(capfd):
    started = time.monotonic()
    code = "import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)"
    assert run(python(code), 2, grace=20) == 3
    assert time.monotonic() - started < 15
    assert "a process ended with code 3" in capfd.readouterr().out


def test_one_that_does_not_listen_is_killed_after_its_grace():
    code = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "sys.exit(4) if os.environ['RANK'] == '0' else time.sleep(60)"
    )
    assert run(python(code), 2, grace=1) == 4


def test_sigterm_lets_all_processes_end_in_their_own_way():
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
        "print('ready', flush=True); time.sleep(60)"
    )
    found = f"import sys; sys.path.insert(0, {str(LAUNCHER.parent)!r}); import local"
    start = f"{found}; sys.exit(local.run({python(code)!r}, 2))"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as launcher:
        ready = [launcher.stdout.readline() for _ in range(2)]
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=30) == 143
    assert sorted(ready) == ["[0] ready\n", "[1] ready\n"]


def test_processes_go_on_where_nobody_reads_what_they_print():
    code = "for number in range(20_000): print('a line of some length, so that a pipe is soon full', number)"
    start = f"import sys; sys.path.insert(0, {str(LAUNCHER.parent)!r}); import local; local.run({python(code)!r}, 2)"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as launcher:
        launcher.stdout.readline()
        launcher.stdout.close()
        assert launcher.wait(timeout=60) is not None
        assert b"Exception in thread" not in launcher.stderr.read()


def test_two_processes_train_one_run(tmp_path, data_dir):
    pytest.importorskip("semiseg_jax.engine.clusters")
    config = tiny_config_file(tmp_path, data_dir)
    command = ["train", f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.steps=2"]
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), "--processes=2", "--", *command],
        env=os.environ | {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert "[0] " in done.stdout
    assert "on 2 device(s)" in done.stdout
    assert sorted(logged(tmp_path / "run", "train")) == [1, 2]


def test_sigterm_while_processes_are_started_reaches_all_of_them():
    code = (
        f"import os, signal, sys; sys.path.insert(0, {str(LAUNCHER.parent)!r}); import local\n"
        "started = local._started\n"
        "def start(*args):\n"
        "    process = started(*args)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return process\n"
        "local._started = start\n"
        "sys.exit(local.run([sys.executable, '-c', 'import time; time.sleep(60)'], 2))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 143
