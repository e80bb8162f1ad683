"""Reads files of other tools safely: whatever they hold, a `LabelFileError` says what is wrong with them."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from semiseg_jax.data.run_lengths import MOST_PIXELS
from semiseg_jax.exchange.drawings import LabelFileError, Size

_FARTHEST = 1e6  # a place this many pixels away from its image is a mistake
_SHOWN = 20
T = TypeVar("T")


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise LabelFileError(f"{path}: not readable JSON in UTF-8 ({error})") from None


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


def number(value: Any, what: str) -> float:
    """A finite number that can be a place in an image."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FARTHEST:
        raise LabelFileError(f"{what} is {brief(value)}, which is no number up to {_FARTHEST:,.0f}")
    return float(value)


def numbers(values: Any, what: str, count: int | None = None) -> list[float]:
    """A list of such numbers, of this length if one is given."""
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise LabelFileError(f"{what} is {brief(values)}, but must be a list of {count or ''} numbers")
    return [number(value, what) for value in values]


def places(values: Any, what: str) -> np.ndarray:
    """[[x, y], ...] -> [N,2] float y, x."""
    if not isinstance(values, list):
        raise LabelFileError(f"{what} is {brief(values)}, but must be a list of [x, y]")
    return np.array([numbers(pair, what, 2)[::-1] for pair in values], float).reshape(-1, 2)


def image_size(height: Any, width: Any, what: str) -> Size | None:
    """The size that a file gives of its image; None where it gives none."""
    if not height and not width:
        return None
    if not all(isinstance(n, int) or (isinstance(n, float) and n.is_integer()) for n in (height, width)):
        raise LabelFileError(f"{what}: its image is {brief(width)} x {brief(height)}, which are no whole numbers")
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise LabelFileError(f"{what}: its image is {brief(width)} x {brief(height)} pixels, which is refused")
    return int(height), int(width)


def text(value: Any, what: str) -> str:
    """A text that is not empty, without spaces around it."""
    if not isinstance(value, str) or not value.strip() or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise LabelFileError(f"{what} is {brief(value)}, but must be a text")
    return value.strip()


def brief(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    shown = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return shown if len(shown) < 60 else f"{shown[:50]}..."


def rectangle(y0: float, x0: float, y1: float, x1: float) -> np.ndarray:
    """[4,2] the corners y, x of a box."""
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)


def surface(ring: np.ndarray) -> float:
    """Pixels inside of a closed line that does not cross itself."""
    y, x = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
