"""Starts several processes of one `semiseg` command on this machine, as a cluster would.

    python experiments/launch/local.py --processes=2 -- train --config=quickstart --workdir=runs/two

Each line of their output begins with the number of its process. GPUs are shared out evenly. When one process fails, all
end. SIGTERM and Ctrl-C let training save and stop, and the same command goes on from there; a second Ctrl-C ends all at
once.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

GRACE = 30.0  # seconds that the others have to end by themselves, once one has ended with an error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds to end in, once one process has failed")
    parser.add_argument(
        "command", nargs="+", metavar="-- command", help="what follows `semiseg`, such as train --config=..."
    )
    given = parser.parse_args(argv)
    if given.processes < 1:
        parser.error("--processes must be at least 1")
    return run([sys.executable, "-m", "semiseg_jax.cli", *given.command], given.processes, given.grace)


def run(command: Sequence[str], count: int, grace: float = GRACE) -> int:
    """-> 0, or the exit code of the first process that ended with another one."""
    port, processes, readers = _free_port(), list[subprocess.Popen](), list[threading.Thread]()
    with _passed_on(processes) as heard:  # before there is anything that a signal could leave behind
        try:
            for number in range(count):
                processes.append(_started(command, variables(number, count, port)))
                readers.append(threading.Thread(target=_show, args=(number, processes[-1].stdout)))
                readers[-1].start()
            if heard:  # those that were not there yet
                _send(processes, signal.SIGTERM)
            code = _first_failure(processes, grace)
        finally:
            _end(processes)
    for reader in readers:
        reader.join()
    return code


def _started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        command,
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the terminal's Ctrl-C stays away, which training of several processes does not hear
        text=True,
        errors="replace",
    )


def variables(process: int, count: int, port: int) -> dict[str, str]:
    """What tells a process which one it is, by the names that torchrun uses."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "RANK": str(process),
        "LOCAL_RANK": str(process),
        "LOCAL_WORLD_SIZE": str(count),
    }


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _show(number: int, output: IO[str]) -> None:
    """Reads to the end, also where nobody reads what is printed any more: a full pipe would stop the process."""
    for line in output:
        with contextlib.suppress(OSError):
            print(f"[{number}] {line}", end="", flush=True)


def _first_failure(processes: Sequence[subprocess.Popen], grace: float) -> int:
    """Waits until all have ended, at most `grace` seconds after one failed -> its exit code, or 0."""
    code, deadline = 0, float("inf")
    while None in (codes := [process.poll() for process in processes]) and time.monotonic() < deadline:
        failed = [ended for ended in codes if ended]
        if failed and not code:
            code, deadline = failed[0], time.monotonic() + grace
            if code != 128 + signal.SIGTERM:  # which says that it has saved, and that the others are about to end too
                print(f"a process ended with code {code}; the others have {grace:.0f} seconds to end", flush=True)
                _send(processes, signal.SIGTERM)
        time.sleep(0.1)
    code = code or next((ended for ended in codes if ended), 0)
    return 128 - code if code < 0 else code  # as a shell says that a signal ended it


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen]) -> Iterator[list[int]]:
    """SIGTERM and the first Ctrl-C reach all processes as SIGTERM; the second Ctrl-C raises. -> signals so far."""
    heard: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        if number == signal.SIGINT and heard:
            raise KeyboardInterrupt
        heard.append(number)
        _send(processes, signal.SIGTERM)

    before: Mapping[int, Any] = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _send(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _end(processes: Sequence[subprocess.Popen]) -> None:
    _send(processes, signal.SIGKILL)
    for process in processes:
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
