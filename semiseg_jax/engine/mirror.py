"""Workdirs in stores (gs://, s3://, ...): all code works in a local folder, the mirror, that is kept like the store.

While a run trains, a thread copies what is new to the store: small files now and then, and each checkpoint when it is
saved, after the files that belong to it. A checkpoint counts when its object STEP.complete is there, which comes last.
A checkpoint that was deleted here is deleted there, once a later one of its stage is whole.

A run starts from what the store holds. Only where nobody has written to the store since this mirror did, as the name of
the last run in `.session` tells, the mirror may know more: what was not sent is sent then.

Each process of a run has a mirror of its own, as hosts need not share a disk. State is replicated, so that each saves
and reads all of it; the first one alone writes to the store.
"""

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax

from semiseg_jax.data.remote import COMPLETE, Store, address_of, cache_of, remove_whole
from semiseg_jax.engine.parallel import barrier, is_main
from semiseg_jax.engine.store_lock import StoreLock

logger = logging.getLogger("semiseg_jax")

LOOK = 2.0  # seconds between two looks for a checkpoint to send
SMALL = 60.0  # seconds after which small files that were changed are sent without one
TRIES = 4  # at the end of a run
_SESSION = ".session"
_DESCRIPTION = ("config.json", "dataset.json", "versions.json")
# What other commands write by default.
_OF_READERS = ("evaluation_", "predictions/", "labels_coco/", "labels_labelme/", "labels_label_studio/")
_open: dict[Path, "Mirror"] = {}  # by local folder


class Mirror:
    """The local copy of a workdir: `kind` is "run" while it is trained, and "read" for what only reads it."""

    def __init__(self, address: str, kind: str):
        self.store, self.local = Store(address), cache_of(address, "workdirs") / kind
        self.sent: dict[str, tuple[int, int]] = {}  # size and time of small files that the store has
        self.whole: set[str] = set()  # checkpoints that the store has
        self.local.mkdir(parents=True, exist_ok=True)
        _open[self.local] = self

    def fetch(self) -> None:
        """Makes the mirror equal to the store, unless it was the last that wrote there."""
        there = self.store.sizes()
        self.whole = {name.removesuffix(COMPLETE) for name in there if _is_marker(name)}
        session = self.store.read([_SESSION]).get(_SESSION)
        own = self.local / _SESSION
        if session is not None and own.is_file() and own.read_bytes() == session:
            self._fetch_missing({name for name in there if _is_small(name)})
            return
        own.unlink(missing_ok=True)
        small = [name for name in there if _is_small(name)]
        for name in self._small() - set(small):
            (self.local / name).unlink(missing_ok=True)
        self.store.read_files(small, self.local)
        for step in self._steps() - self.whole:
            remove_whole(self.local / step)
        for step in self.whole:
            self.store.get_whole(step, self.local / step)
        self.sent = {name: state for name in small if (state := self._state(name))}
        if session is not None:
            own.write_bytes(session)

    def _fetch_missing(self, small: set[str]) -> None:
        """What this mirror, the last that wrote to the store, has lost since, and what people did in the store."""
        here, steps = self._small(), self._steps()
        self.store.read_files(sorted(small - here), self.local)
        self.sent = dict.fromkeys(small & here, (-1, -1))  # are sent again
        self.sent |= {name: state for name in small - here if (state := self._state(name))}
        for step in steps - self.whole:
            if (self.local / (step + COMPLETE)).is_file():  # it was sent, and people deleted it
                remove_whole(self.local / step)
        for step in self.whole - steps:
            if not _has_later(step, steps):
                self.store.get_whole(step, self.local / step)

    def begin(self) -> None:
        """Marks the mirror as the last that writes to the store."""
        session = uuid.uuid4().hex.encode()
        self.store.write({_SESSION: session})
        (self.local / _SESSION).write_bytes(session)

    def fetch_description(self) -> None:
        there = self.store.read_files(_DESCRIPTION, self.local)
        for name in set(_DESCRIPTION) - set(there):
            (self.local / name).unlink(missing_ok=True)

    def fetch_checkpoints(self, under: str) -> None:
        """The whole checkpoints of a stage and their scores."""
        there = self.store.sizes(under)
        whole = {name.removesuffix(COMPLETE) for name in there if _is_marker(name)}
        for step in {step for step in self._steps() if step.startswith(f"{under}/")} - whole:
            remove_whole(self.local / step)
        if whole:
            (self.local / under).mkdir(parents=True, exist_ok=True)
        for step in whole:
            self.store.get_whole(step, self.local / step)
        self.store.read_files([name for name in there if _is_small(name)], self.local)

    def send(self) -> None:
        """Sends small files that were changed, then new checkpoints; deletes what was deleted here."""
        self.send_small()
        steps = self._steps()
        for step in sorted(steps - self.whole, key=lambda step: int(step.rpartition("/")[2])):
            if self.store.put_whole(self.local / step, step):
                self.whole.add(step)
        for step in self._replaced(steps):
            self.store.delete_whole(step)
            (self.local / (step + COMPLETE)).unlink(missing_ok=True)
            self.whole.discard(step)

    def send_small(self) -> None:
        """The description of the run first, and what says that something is done last."""
        states = {name: state for name in self._small() if (state := self._state(name))}
        changed = [name for name, state in states.items() if self.sent.get(name) != state]
        for rank in (0, 1, 2):
            for name in self.store.write_files(self.local, [name for name in changed if _rank(name) == rank]):
                self.sent[name] = states[name]
        gone = [name for name in self.sent if name not in states]
        self.store.delete(gone)
        for name in gone:
            del self.sent[name]

    def has_news(self) -> bool:
        steps = self._steps()
        return bool(steps - self.whole or self._replaced(steps))

    def _replaced(self, steps: set[str]) -> set[str]:
        """Checkpoints of the store that were deleted here and have a later one in both places."""
        return {step for step in self.whole - steps if _has_later(step, self.whole & steps)}

    def _steps(self) -> set[str]:
        """Checkpoints, as checkpoints/STAGE/STEP. Those that are being saved have other names."""
        found = self.local.glob("checkpoints/*/*")
        return {path.relative_to(self.local).as_posix() for path in found if path.name.isdigit() and path.is_dir()}

    def _small(self) -> set[str]:
        tops = [path for path in self.local.iterdir() if path.name != "checkpoints"]
        below = [path.rglob("*") if path.is_dir() else [path] for path in tops]
        files = itertools.chain(self.local.glob("checkpoints/*/scores.json"), *below)
        names = (path.relative_to(self.local).as_posix() for path in files if path.is_file())
        return {name for name in names if _is_small(name)}

    def _state(self, name: str) -> tuple[int, int] | None:
        try:
            stat = (self.local / name).stat()
        except FileNotFoundError:
            return None
        return stat.st_size, stat.st_mtime_ns


class _Sender:
    """Sends what is new in the background; what fails is tried again, and told once."""

    def __init__(self, mirror: Mirror, lock: StoreLock):
        self.mirror, self.lock = mirror, lock
        self._failing, self._small_sent = "", time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go, name="uploads", daemon=True)
        self._thread.start()

    def _go(self) -> None:
        while not self._ended.wait(LOOK):
            due = time.monotonic() > self._small_sent + SMALL
            if self.lock.lost or not (due or self.mirror.has_news()):
                continue
            self._small_sent = time.monotonic()
            try:
                self.mirror.send()
                if self._failing:
                    logger.info("%s can be written to again", self.mirror.store)
                self._failing = ""
            except Exception as error:
                if not self._failing:
                    logger.warning(
                        "%s cannot be written to (%s): training goes on in %s, and it is tried again",
                        self.mirror.store, _words(error), self.mirror.local,
                    )  # fmt: skip
                self._failing = _words(error)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def close(self) -> None:
        """Sends what is left, and raises where that cannot be done."""
        self.stop()
        if self.lock.lost:
            raise OSError(f"what was trained last is in {self.mirror.local} alone: {self.lock.lost}")
        for attempt in range(1, TRIES + 1):
            try:
                self.mirror.send()
                break
            except Exception as error:
                if attempt == TRIES:
                    raise OSError(
                        f"{self.mirror.store} cannot be written to ({_words(error)}). What was trained is in "
                        f"{self.mirror.local}: the same command on this machine sends it"
                    ) from error
                time.sleep(2**attempt)


@contextlib.contextmanager
def training(workdir: str | Path) -> Iterator[Path]:
    """The local folder to train in. Of a workdir in a store it has all, and what is new in it goes to the store."""
    address = address_of(workdir)
    if not address:
        yield Path(workdir)
        return
    mirror = Mirror(address, "run" if jax.process_count() == 1 else f"run.{jax.process_index()}")
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(StoreLock(mirror.store)) if is_main() else None
        if lock:
            mirror.fetch()
            mirror.send()  # what an earlier run could not send
            mirror.begin()
        barrier("workdir fetched")
        if not lock:
            mirror.fetch()
        barrier("workdir fetched by all")
        sender = _Sender(mirror, lock) if lock else None
        try:
            yield mirror.local
        except Exception:
            if sender:
                with contextlib.suppress(OSError):  # the first error says more
                    sender.close()
            raise
        except BaseException:
            if sender:
                sender.stop()
            raise
        if sender:
            sender.close()


def reading(workdir: str | Path) -> Path:
    """The local folder of a trained run. Of one in a store the description is there; `fetch_checkpoints` gets more."""
    address = address_of(workdir)
    if not address:
        return Path(workdir)
    mirror = Mirror(address, "read")
    mirror.fetch_description()
    return mirror.local


def fetch_checkpoints(folder: Path) -> None:
    """Gets the checkpoints of a stage, if their folder is in a mirror that `reading` made."""
    mirror, name = _find(folder)
    if mirror and mirror.local.name == "read":
        mirror.fetch_checkpoints(name)


def fetch_output(folder: Path, only: str = "") -> None:
    """Makes a folder that a command writes to, if it is in a mirror, what the store holds of it (or of one file)."""
    mirror, name = _find(folder)
    if mirror and is_main():
        remove_whole(folder)
        names = mirror.store.sizes(name)
        mirror.store.read_files([n for n in names if not only or n == f"{name}/{only}"], mirror.local)
    if mirror:
        barrier("output fetched")


def send_output(path: Path) -> None:
    """Sends a file or folder that a command has written, if it is in a mirror."""
    mirror, name = _find(path)
    if not mirror:
        return
    files = [name] if path.is_file() else [
        file.relative_to(mirror.local).as_posix() for file in path.rglob("*") if file.is_file()
    ]  # fmt: skip
    try:
        mirror.store.write_files(mirror.local, files)
    except Exception as error:
        raise OSError(f"{shown(path)} cannot be written ({_words(error)}); it is in {path}") from error


def shown(path: Path) -> str:
    """A path as people know it: in its store, where it is in a mirror."""
    mirror, name = _find(path)
    return f"{mirror.store}/{name}".rstrip("/") if mirror else str(path)


def is_shared(workdir: Path) -> bool:
    """Whether all processes of a run see the same files in it."""
    return jax.process_count() == 1 or _find(workdir)[0] is None


def _find(path: Path) -> tuple[Mirror | None, str]:
    for place in (path, *path.parents):
        if place in _open:
            name = path.relative_to(place).as_posix()
            return _open[place], "" if name == "." else name
    return None, ""


def _has_later(step: str, others: set[str]) -> bool:
    """Whether a later checkpoint of the same stage is among the others."""
    stage, _, number = step.rpartition("/")
    return any(other.rpartition("/")[0] == stage and int(other.rpartition("/")[2]) > int(number) for other in others)


def _is_marker(name: str) -> bool:
    parts = name.removesuffix(COMPLETE).split("/")
    return name.endswith(COMPLETE) and len(parts) == 3 and parts[0] == "checkpoints" and parts[2].isdigit()


def _is_small(name: str) -> bool:
    """Whether it is a file of the run, and neither part of a checkpoint nor of no use to others."""
    parts = name.split("/")
    if parts[0] == "checkpoints":
        return len(parts) == 3 and parts[2] == "scores.json"
    return not name.startswith(_OF_READERS) and not name.endswith(".tmp") and parts[-1] not in (".lock", _SESSION)


def _rank(name: str) -> int:
    return 0 if name in _DESCRIPTION else 2 if name.endswith(".done") else 1


def _words(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]
