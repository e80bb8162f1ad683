"""Ends all processes of a run when one of them ends before its time, and says which one that was.

What JAX notices of a process that was killed comes late, as a dump of its internals, or never, as a hang. So the first
process holds a connection to each other one, which the system closes when a process ends, however it ends. Where no
connection comes about, JAX's own heartbeats remain.
"""

import atexit
import contextlib
import dataclasses
import json
import logging
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

logger = logging.getLogger("semiseg_jax")

GRACE = 3.0  # seconds in which an error may turn out to come from the end of another process
_PATIENCE = 15.0  # seconds for a process that is not there yet
_ROOM = 512  # bytes of what the first process says to all others


@dataclasses.dataclass(eq=False)
class _Other:
    """The process at the other end of a connection."""

    connection: socket.socket
    process: int = -1  # not known before it has said so
    host: str = ""
    left: bool = False  # it said goodbye
    heard: bytes = b""  # the part of a line


class Lifeline:
    """The connections of this process. Lines of JSON go over them."""

    def __init__(self, token: str, server: socket.socket | None = None, first: _Other | None = None):
        self.token, self.server = token, server
        self.me, self.processes = jax.process_index(), jax.process_count()
        self.others = [] if first is None else [first]
        self.failing = False
        self.selector = selectors.DefaultSelector()
        if server is not None:
            self.selector.register(server, selectors.EVENT_READ)
        for other in self.others:
            self.selector.register(other.connection, selectors.EVENT_READ, other)
            _say(other, hello=self.me, host=socket.gethostname(), token=token)
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()
        atexit.register(self.leave)

    def leave(self) -> None:
        """Says goodbye: the end of this process is no failure."""
        for other in list(self.others):
            _say(other, bye=True)

    def fail(self, error: BaseException) -> None:
        """Tells all others why this process fails, if it does not fail because one of them ended."""
        self.failing = True
        time.sleep(GRACE)
        reason = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        text = f"process {self.me} of {self.processes} on {socket.gethostname()} failed: {reason}"
        for other in list(self.others):
            _say(other, failed=text)
        atexit.unregister(self.leave)
        atexit.register(_exit)  # without waiting for the others, as JAX would

    def _listen(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data)

    def _accept(self) -> None:
        assert self.server is not None
        connection, _ = self.server.accept()
        _keep_alive(connection)
        other = _Other(connection)
        self.others.append(other)
        self.selector.register(connection, selectors.EVENT_READ, other)

    def _hear(self, other: _Other) -> None:
        try:
            more = other.connection.recv(4096)
            *lines, other.heard = (other.heard + more).split(b"\n")
            for line in lines:
                self._take(other, json.loads(line))
        except (OSError, ValueError, TypeError, KeyError):  # it is gone, or a stranger
            more = b""
        if more:
            return
        self.selector.unregister(other.connection)
        self.others.remove(other)
        other.connection.close()
        if other.process >= 0 and not other.left:
            who = f"process {other.process} of {self.processes} on {other.host}"
            self._end(lost=f"{who} ended without a word: it was killed, ran out of memory, or its machine is gone")

    def _take(self, other: _Other, said: Mapping[str, Any]) -> None:
        if "hello" in said and secrets.compare_digest(said["token"], self.token):
            other.process, other.host = int(said["hello"]), str(said["host"])
        elif other.process < 0:
            raise ValueError("no process of this run")
        else:
            other.left = True
            if "bye" not in said:
                self._end(**said)

    def _end(self, lost: str = "", failed: str = "") -> None:
        """Passes on what was heard, and ends this process."""
        if self.me == 0:
            for other in list(self.others):
                _say(other, **({"lost": lost} if lost else {"failed": failed}))
        if failed and self.failing:
            return  # for reasons of its own, which it is about to tell
        again = "; start all of them again, and they go on from the last checkpoint" if lost else ""
        end(f"{lost or failed}. All processes end with it{again}.")


def tie(coordinator: str) -> Lifeline | None:
    """Connects all processes, each of which calls it. The first one can be reached where `coordinator` is, if given."""
    server = socket.create_server(("", 0), backlog=1024) if jax.process_index() == 0 else None
    said = {
        "token": secrets.token_hex(16),
        "host": socket.gethostname(),
        "port": server.getsockname()[1] if server else 0,
    }
    said = json.loads(_from_first(json.dumps(said)))
    if server is not None:
        return Lifeline(said["token"], server)
    hosts = [coordinator.rpartition(":")[0].strip("[]")] if coordinator else []
    for host in [*hosts, said["host"]]:
        with contextlib.suppress(OSError):
            connection = socket.create_connection((host, said["port"]), timeout=10)
            connection.settimeout(None)
            _keep_alive(connection)
            return Lifeline(said["token"], first=_Other(connection, 0, said["host"]))
    logger.debug("no lifeline to %s: JAX's heartbeats tell when a process ends", said["host"])
    return None


def shielded(coordinator: str) -> str:
    """An address on this machine from where everything goes on to the coordinator, and back.

    When the first process ends, its end of JAX's connection closes, at which JAX aborts every other process at once,
    with a stack trace. Behind this address the connection stays open, so that there is time for a word.
    """
    host, _, port = coordinator.rpartition(":")
    server = socket.create_server(("127.0.0.1", 0))
    target = (host.strip("[]"), int(port))
    threading.Thread(target=_forward_all, args=(server, target), name="shield", daemon=True).start()
    # gRPC asks proxies of the environment for every address that these variables do not except
    given = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")  # noqa: SIM112 - so they are called
    os.environ["no_grpc_proxy"] = ",".join(filter(None, (given, "127.0.0.1", host)))  # noqa: SIM112
    return f"127.0.0.1:{server.getsockname()[1]}"


def _forward_all(server: socket.socket, target: tuple[str, int]) -> None:
    while True:
        near, _ = server.accept()
        threading.Thread(target=_forward, args=(near, target), daemon=True).start()


def _forward(near: socket.socket, target: tuple[str, int]) -> None:
    far, until = None, time.monotonic() + _PATIENCE
    while far is None and time.monotonic() < until:
        try:
            far = socket.create_connection(target, timeout=5)
        except OSError:
            time.sleep(0.3)
    if far is None:
        near.close()
        return
    far.settimeout(None)
    for connection in (near, far):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=_copy, args=(far, near), daemon=True).start()
    _copy(near, far)
    far.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)


def _say(other: _Other, **what: Any) -> None:
    try:
        other.connection.sendall(json.dumps(what).encode() + b"\n")
    except OSError as error:
        logger.debug("process %d hears nothing: %s", other.process, error)


def _from_first(text: str) -> str:
    """What the first process says, in all processes."""
    content = np.zeros(_ROOM, np.uint8)
    said = np.frombuffer(text.encode()[:_ROOM], np.uint8)
    content[: len(said)] = said
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(content)).astype(np.uint8)).rstrip(b"\0").decode()


def _keep_alive(connection: socket.socket) -> None:
    """A machine that is gone closes no connections: the system asks for it after 10 seconds, four times."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    times = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
    for name, value in times.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def end(text: str) -> None:
    """Ends this process, whatever it is doing, with a line that says why."""
    print(f"semiseg: {text}", file=sys.stderr)
    _exit()


def _exit() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(1)
