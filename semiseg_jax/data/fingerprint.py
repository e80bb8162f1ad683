"""What tells one state of a dataset's files from another."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path


def fingerprint(root: Path, watched: Sequence[Path]) -> str:
    """Names, sizes and times of all files of these files and folders."""
    digest = hashlib.sha256()

    def visit(path: str) -> None:
        digest.update(f"{os.path.relpath(path, root)}\n".encode())
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    visit(entry.path)
                elif entry.is_file():
                    note(entry.name, entry.stat())

    def note(name: str, stat: os.stat_result) -> None:
        digest.update(os.fsencode(name) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())

    for path in watched:
        if path.is_dir():
            visit(str(path))
        elif path.is_file():
            note(os.path.relpath(path, root), path.stat())
    return digest.hexdigest()


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "data"
