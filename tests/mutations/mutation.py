"""What a mutation is, and which tests belong to each room."""

import dataclasses
from pathlib import Path

# Room -> the tests that must notice a fault in it.
ROOMS: dict[str, tuple[str, ...]] = {
    "losses": ("tests/losses",),
    "ops": ("tests/ops",),
    "models": ("tests/models",),
    "data": ("tests/data",),
    "engine": ("tests/engine",),
    "methods": ("tests/methods",),
    "verbs": ("tests/verbs",),
    "config": ("tests/test_config.py", "tests/test_config_files.py", "tests/test_cli.py"),
    "exchange": ("tests/exchange", "tests/notebook/test_label_folder.py", "tests/exports", "tests/report/test_page.py"),
}


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One fault that a tired engineer could make.

    Attributes:
      id: its name, which begins with the room.
      what: the fault in a few words.
      file: below `semiseg_jax/`, unless it begins with another folder of the repository.
      edits: pairs of old and new text. The first whose old text is in the file exactly once is used, so that one
        mutation fits several versions of the code. A triple names a file of its own first.
      first: parts of names of tests; those that match run before the others of the room.
      tests: instead of the tests of its room.
    """

    id: str
    what: str
    file: str
    edits: tuple[tuple[str, ...], ...]
    first: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()

    @property
    def room(self) -> str:
        return self.id.partition("-")[0]

    @property
    def test_paths(self) -> tuple[str, ...]:
        return self.tests or ROOMS[self.room]

    def apply(self, tree: Path) -> tuple[Path, str, str] | None:
        """-> (file, its text, its text with the fault), or None where no old text is found exactly once."""
        for *other, old, new in self.edits:
            path = tree / _in_repository(other[0] if other else self.file)
            text = path.read_text() if path.is_file() else ""
            if text.count(old) == 1:
                return path, text, text.replace(old, new)
        return None


def _in_repository(file: str) -> str:
    return file if file.startswith(("configs/", "semiseg_jax/")) else f"semiseg_jax/{file}"
