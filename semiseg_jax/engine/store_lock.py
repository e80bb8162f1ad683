"""The lock of a workdir in a store: an object that names its owner, who writes it anew while the run goes on."""

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from semiseg_jax.data.remote import Store
from semiseg_jax.data.store import is_running
from semiseg_jax.engine.writers import say

NAME = ".lock"
HEARTBEAT = 15.0  # seconds between two signs of life
STALE = 75.0  # seconds without one after which the owner is taken for dead
_LOOK = 5.0


class StoreLock:
    """Keeps a second run out. A run that was killed leaves its lock, which the next one takes over.

    No clocks are compared: who finds a lock waits whether it is written anew.
    """

    def __init__(self, store: Store):
        self.store, self.owner, self.beats = store, uuid.uuid4().hex, 0
        self.lost = ""  # in words, once another run has taken the lock over
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock of the workdir", daemon=True)

    def __enter__(self) -> "StoreLock":
        if not self.store.create(NAME, self._content()):
            self._outlive()
            self.store.write({NAME: self._content()})
            found = self._read() or {}
            if found.get("owner") != self.owner:  # another one waited as well
                raise self._refusal(found)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # a lock that stays is taken over; what the run raised says more
            if not self.lost and self._is_ours():
                self.store.delete([NAME])

    def _content(self) -> bytes:
        self.beats += 1
        content = {
            "owner": self.owner, "beat": self.beats, "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "host": platform.node(), "machine": _machine(), "pid": os.getpid(),
        }  # fmt: skip
        return json.dumps(content).encode()

    def _read(self) -> dict[str, Any] | None:
        content = self.store.read([NAME]).get(NAME)
        try:
            return None if content is None else dict(json.loads(content))
        except ValueError:
            return {}

    def _is_ours(self) -> bool:
        return (self._read() or {}).get("owner") == self.owner

    def _outlive(self) -> None:
        """Waits until the lock is gone, or its owner has to be dead."""
        first = self._read()
        if not first:
            return
        if first.get("machine") == _machine():
            if is_running(int(first.get("pid", 0))):
                raise self._refusal(first)
            return
        say(f"{self.store} may be in use by a run on {first.get('host')}: waits up to {STALE:g} s for a sign of life")
        end = time.monotonic() + STALE
        while time.monotonic() < end:
            time.sleep(min(_LOOK, STALE / 5))
            now = self._read()
            if now is None:
                return
            if now != first:
                raise self._refusal(now)
        say(f"there was none: the run of {first.get('time')} on {first.get('host')} has ended; this one goes on")

    def _refusal(self, found: dict[str, Any]) -> ValueError:
        who = f"process {found.get('pid')} on {found.get('host')}"
        return ValueError(f"another run is going on in {self.store} ({who}); use another --workdir")

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT):
            try:
                found = self._read()
                if found is not None and found.get("owner") != self.owner:
                    self.lost = str(self._refusal(found))
                    say(f"nothing is written to the store any more: {self.lost}")
                    return
                self.store.write({NAME: self._content()})
            except Exception:  # the store is out of reach for a while; uploads tell of it
                continue


def _machine() -> str:
    """Where process numbers mean the same."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    try:
        return f"{platform.node()} {boot.read_text().strip()} {os.readlink(space)}"
    except OSError:
        return platform.node()
