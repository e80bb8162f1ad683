"""Folders in stores such as gs:// and s3://, or any other that fsspec knows, copied from and to local ones.

An object of a store is there whole or not at all, but of a folder a part can be there. A folder that is of use only as
a whole has an object beside it, NAME.complete, that lists its files: it is written last and deleted first.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COMPLETE = ".complete"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://?(.*)", re.DOTALL)  # one letter would be a drive
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_BATCH = 64 * 2**20  # bytes that are read into memory at a time


def address_of(place: str | Path) -> str:
    """SCHEME://... of a place in a store, also where a Path made one slash of two; "" of a local one."""
    found = _ADDRESS.fullmatch(str(place))
    return f"{found[1]}://{found[2].rstrip('/')}" if found else ""


def refuse(place: str | Path, what: str) -> None:
    """Raises where what must be local is in a store."""
    if address := address_of(place):
        raise ValueError(
            f"{what} is {address}, but it must be on a disk of this machine: copy it first (`gcloud storage cp -r`, "
            "`aws s3 cp --recursive`) and name the copy"
        )


def cache_of(address: str, kind: str) -> Path:
    """The local folder that holds a copy of what is at an address. XDG_CACHE_HOME moves it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semiseg_jax" / kind
    name = re.sub(r"\W+", "_", address.rpartition("/")[2]) or "root"
    return cache / f"{name}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"


class Store:
    """A folder of a store. Names are those of its objects below it."""

    def __init__(self, address: str):
        self.address = address_of(address)
        self.fs, self.root = _filesystem(self.address)

    def __str__(self) -> str:
        return self.address

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def sizes(self, under: str = "") -> dict[str, int]:
        """Names and sizes of all objects below a folder."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self._path(under), detail=True)
        except FileNotFoundError:
            return {}
        except Exception as error:  # of the libraries of stores, each its own
            raise OSError(f"{self.address} cannot be read: {_first_line(error)}") from error
        start = f"{self.root}/"
        return {path[len(start) :]: int(info["size"]) for path, info in found.items() if path.startswith(start)}

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of those objects that are there."""
        paths = {self._path(name): name for name in names}
        plain = [path for path in paths if not glob.has_magic(path)]
        found = self.fs.cat(plain, on_error="return") if plain else {}
        for path in paths.keys() - set(plain):  # which `cat` would take for patterns
            with contextlib.suppress(FileNotFoundError):
                found[path] = self.fs.cat_file(path)
        for path, content in found.items():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError | KeyError):
                raise OSError(f"{self.address}/{paths[path]} cannot be read: {_first_line(content)}") from content
        return {paths[path]: content for path, content in found.items() if isinstance(content, bytes)}

    def write(self, contents: Mapping[str, bytes]) -> None:
        if contents:
            self.fs.pipe({self._path(name): content for name, content in contents.items()})

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object if it is not there -> whether it did. Of several that try at once, one does."""
        try:
            self.fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if re.search("pre-?condition|conditional", repr(error), re.IGNORECASE):  # another was faster
                return False
            raise OSError(f"{self.address} cannot be written to: {_first_line(error)}") from error
        return True

    def delete(self, names: Iterable[str]) -> None:
        paths = [self._path(name) for name in names]
        plain = [path for path in paths if not glob.has_magic(path)]
        if plain:
            self.fs.rm(plain)
        for path in set(paths) - set(plain):
            self.fs.rm_file(path)

    def write_files(self, folder: Path, names: Iterable[str]) -> list[str]:
        """Writes files that may change meanwhile, as they are when they are read -> those that were there."""
        done: list[str] = []
        batch: dict[str, bytes] = {}
        for name in names:
            try:
                batch[name] = (folder / name).read_bytes()
            except FileNotFoundError:
                continue
            if sum(map(len, batch.values())) > _BATCH:
                self.write(batch)
                done += batch
                batch = {}
        self.write(batch)
        return done + list(batch)

    def read_files(self, names: Iterable[str], folder: Path) -> list[str]:
        """Copies objects to files, each of which appears when it is whole -> those that were there."""
        left, done = list(names), []
        while left:
            part, left = left[:256], left[256:]
            for name, content in self.read(part).items():
                path = _inside(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
                temporary.write_bytes(content)
                temporary.replace(path)
                done.append(name)
        return done

    def copy_files(self, names: Iterable[str], folder: Path) -> None:
        """Copies large objects to files, each of which appears when it is whole."""
        paths = {name: _inside(folder, name) for name in names}
        arriving = {name: path.with_name(f"{path.name}.{os.getpid()}.tmp") for name, path in paths.items()}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get([self._path(name) for name in paths], [str(path) for path in arriving.values()])
        for name, path in paths.items():
            arriving[name].replace(path)

    def put_whole(self, folder: Path, name: str) -> bool:
        """Copies a local folder, which appears when it is whole -> False where it was being deleted meanwhile."""
        files = _files(folder)
        there = self.sizes(name)
        self.delete(self._there([name + COMPLETE]))
        self.delete(f for f in there if f.removeprefix(f"{name}/") not in files)
        try:
            self.fs.put([str(folder / file) for file in files], [self._path(f"{name}/{file}") for file in files])
        except FileNotFoundError:
            if folder.is_dir() and _files(folder) == files:
                raise
            return False
        if not files or _files(folder) != files:
            return False
        marker = json.dumps({"id": uuid.uuid4().hex, "files": files}).encode()
        self.write({name + COMPLETE: marker})
        _marker(folder).write_bytes(marker)
        return True

    def get_whole(self, name: str, folder: Path) -> bool:
        """Makes a local folder the store's, unless it is already -> False where the store has none that is whole."""
        marker = self.read([name + COMPLETE]).get(name + COMPLETE)
        if marker is None:
            return False
        if folder.is_dir() and _marker(folder).is_file() and _marker(folder).read_bytes() == marker:
            return True
        files = json.loads(marker)["files"]
        arriving = folder.with_name(f"arriving.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        try:
            local = {file: _inside(arriving, file) for file in files}
            for path in local.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get([self._path(f"{name}/{file}") for file in files], [str(path) for path in local.values()])
            if _files(arriving) != files:
                raise OSError(f"{self.address}/{name} is damaged: its files are not those that it was written with")
            shutil.rmtree(folder, ignore_errors=True)
            arriving.replace(folder)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        _marker(folder).write_bytes(marker)
        return True

    def delete_whole(self, name: str) -> None:
        self.delete(self._there([name + COMPLETE]))
        self.delete(self.sizes(name))

    def _there(self, names: Iterable[str]) -> list[str]:
        self.fs.invalidate_cache()
        return [name for name in names if self.fs.exists(self._path(name))]


def remove_whole(folder: Path) -> None:
    """Removes a local copy of a whole folder."""
    _marker(folder).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _filesystem(address: str) -> tuple[Any, str]:
    scheme = address.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(address)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        how = f"pip install 'semiseg-jax[{extra}]'" if extra else f"install the package of fsspec for {scheme}://"
        raise ValueError(f"{address} cannot be reached: a package is missing ({error}); {how}") from None
    except ValueError as error:
        raise ValueError(
            f"{address} cannot be reached: {_first_line(error)}. gs:// and s3:// are known with the extras gcs and s3"
        ) from None
    return fs, str(root).rstrip("/")


def _files(folder: Path) -> dict[str, int]:
    """Files below a folder and their sizes, which may be deleted meanwhile."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"an object of the store is called {name!r}, which would be written outside of {folder}")
    return path


def _marker(folder: Path) -> Path:
    return folder.with_name(folder.name + COMPLETE)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:300]
