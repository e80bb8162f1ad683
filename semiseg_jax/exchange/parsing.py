"""Reads files of other tools safely: whatever they hold, a `LabelFileError` says what is wrong with them."""

import json
import math
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from semiseg_jax.data.run_lengths import MOST_PIXELS
from semiseg_jax.exchange.drawings import LabelFileError, Ring, Size

_FARTHEST = 1_000_000  # a place this many pixels away from its image is a mistake
_MAX_OUTLINE = 20_000_000  # rows that one outline crosses; filling takes memory and time for each
_SHOWN = 20
T = TypeVar("T")


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelFileError(f"{path}: not readable JSON in UTF-8 ({str(error)[:200]})") from None


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file."""
    try:
        return parse_xml(path.read_bytes(), str(path))
    except OSError as error:
        raise LabelFileError(f"{path}: not readable ({error})") from None


def parse_xml(content: bytes, where: str) -> ElementTree.Element:
    """The root of an XML text. Entities and document types are refused: they can make little text endless."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()

    def refuse(*_: Any) -> None:
        raise LabelFileError(f"{where}: declares a DOCTYPE or entities, which no annotation tool writes")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content, True)
        return builder.close()
    except LabelFileError:
        raise
    except (expat.ExpatError, ValueError, LookupError, AssertionError) as error:
        raise LabelFileError(f"{where}: not readable XML ({error})") from None


def files_below(source: Path, suffix: str) -> list[Path]:
    """The file itself, or all files of a folder and those below that end so; hidden ones are skipped."""
    if not source.is_dir():
        return [source]
    found = sorted(path for path in source.rglob(f"*{suffix}") if path.is_file() and not hidden(path, source))
    if not found:
        raise LabelFileError(f"{source}: holds no {suffix} file")
    return found


def hidden(path: Path, root: Path) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(root).parts)


def beside(path: Path, root: Path, name: str) -> str:
    """The name of an image as it is seen from `root`, if a file gives it as seen from the file's own folder."""
    name = name.replace("\\", "/")
    if PureWindowsPath(name).is_absolute() or name.startswith("/"):
        return name
    return posixpath.normpath(posixpath.join(path.parent.relative_to(root).as_posix(), name))


def each(paths: Sequence[Path], read: Callable[[Path], T]) -> Iterator[T]:
    """What `read` makes of every file; all problems are reported together."""
    problems = []
    for path in paths:
        try:
            yield read(path)
        except LabelFileError as error:
            problems.append(str(error))
    refuse_all(problems)


def refuse_all(problems: Sequence[str]) -> None:
    """Raises a LabelFileError of the problems, if there are any."""
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise LabelFileError("\n  ".join([*problems[:_SHOWN], *more]))


def number(value: Any, what: str, low: float = -_FARTHEST, high: float = _FARTHEST, *, written: bool = False) -> float:
    """A finite number between two limits, which can be a place in an image; `written`: or a text that says it."""
    read = value
    if written and isinstance(value, str):
        try:
            read = float(value)
        except ValueError:
            read = math.nan
    if isinstance(read, bool) or not isinstance(read, int | float) or not low <= read <= high:
        raise LabelFileError(f"{what} is {brief(value)}, not a number between {low:,.10g} and {high:,.10g}")
    return float(read)


def written(value: Any, what: str, low: float = -_FARTHEST, high: float = _FARTHEST) -> float:
    """Such a number from XML, where all values are texts, or from JSON."""
    return number(value, what, low, high, written=True)


def whole(value: Any, what: str, low: int, high: int) -> int:
    """A whole number between two limits, from XML or JSON."""
    read = written(value, what, low, high)
    if not read.is_integer():
        raise LabelFileError(f"{what} is {brief(value)}, not a whole number")
    return int(read)


def numbers(values: Any, what: str, count: int | None = None) -> list[float]:
    """A list of numbers, of this length if one is given."""
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise LabelFileError(f"{what} is {brief(values)}, but must be a list of {count or ''} numbers")
    return [number(value, what) for value in values]


def places(values: Any, what: str) -> np.ndarray:
    """[[x, y], ...] -> [N,2] float y, x."""
    if not isinstance(values, list):
        raise LabelFileError(f"{what} is {brief(values)}, but must be a list of [x, y]")
    return np.array([numbers(pair, what, 2)[::-1] for pair in values], float).reshape(-1, 2)


def outline(corners: Iterable[Sequence[float]] | Ring, what: str) -> Ring:
    """[N,2] y, x of a closed line, from y, x pairs."""
    ring = np.array(list(corners), np.float64)
    if len(ring) < 3:
        raise LabelFileError(f"{what} has {len(ring)} corners, but an area needs three")
    if np.abs(np.diff(ring[:, 0], append=ring[:1, 0])).sum() > _MAX_OUTLINE:
        raise LabelFileError(f"{what} has too long an outline")
    return ring


def image_size(height: Any, width: Any, what: str) -> Size:
    """A size that an image can have."""
    size = (
        whole(height, f"{what}: the height of its image", 1, _FARTHEST),
        whole(width, f"{what}: the width of its image", 1, _FARTHEST),
    )
    if size[0] * size[1] > MOST_PIXELS:
        raise LabelFileError(
            f"{what}: an image of {size[1]}x{size[0]} is refused, as of more than {MOST_PIXELS:,} pixels"
        )
    return size


def given_size(height: Any, width: Any, what: str) -> Size | None:
    """The size that a file gives of its image; None where it gives none."""
    return image_size(height, width, what) if height or width else None


def text(value: Any, what: str) -> str:
    """A text that is not empty, without spaces around it."""
    if not isinstance(value, str) or not value.strip() or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise LabelFileError(f"{what} is {brief(value)}, but must be a text")
    return value.strip()


def fields(value: Any, what: str) -> Mapping[str, Any]:
    """An object of JSON."""
    if not isinstance(value, dict):
        raise LabelFileError(f"{what} is {brief(value)}, not an object in braces")
    return value


def listed(value: Any, what: str) -> list[Any]:
    """A list of JSON; empty where there is none."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise LabelFileError(f"{what} is {brief(value)}, not a list")
    return value


def brief(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    shown = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return shown if len(shown) < 60 else f"{shown[:50]}..."
