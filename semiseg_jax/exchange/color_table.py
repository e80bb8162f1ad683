"""Tables of colours and the classes that they stand for: how masks in colours say what they show.

    64 128 64    Animal            of CamVid, label_colors.txt
    Animal,64,128,64               a .csv, with a header or without
    Animal:64,128,64::             of CVAT, labelmap.txt
    3,Animal,64,128,64             with a number before each name, which does not count
    {"Animal": [64, 128, 64]}      a .json; or [{"name": "Animal", "color": [64, 128, 64]}], or "#408040"

Several colours may have the same name. Void and the like are pixels to ignore.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiseg_jax.data.types import IGNORE
from semiseg_jax.exchange import parsing
from semiseg_jax.exchange.drawings import LabelFileError
from semiseg_jax.exchange.folder import BACKGROUND

_IGNORED = ("void", "ignore", "ignored", "__ignore__", "unlabeled", "unlabelled")
_BACKGROUNDS = ("background", "_background_")
_NUMBERS = r"(\d{1,4})[\s,;]+(\d{1,4})[\s,;]+(\d{1,4})"
_COLOR_FIRST = re.compile(rf"^{_NUMBERS}[\s,;]+(\S.*)$")
_NAME_FIRST = re.compile(rf"^(\S.*?)[\s,;:]+{_NUMBERS}\s*(:.*)?$")

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class ColorTable:
    """The class of each colour."""

    path: Path
    classes: Sequence[str]  # in the order of the table
    colors: np.ndarray  # [N,3] R, G, B
    names: Sequence[str]  # [N]
    indices: np.ndarray  # [N] uint8 place in `classes`, or 255

    def classes_of(self, codes: np.ndarray) -> np.ndarray:
        """Colours as `codes_of` gives them -> their classes, uint8; all of them must be `known`."""
        known = codes_of(self.colors)
        order = np.argsort(known)
        places = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        return self.indices[order][places]

    def known(self, codes: np.ndarray) -> np.ndarray:
        """bool: which colours are in the table."""
        return np.isin(codes, codes_of(self.colors))

    def nearest(self, color: Color) -> str:
        """The line of the table that is most like a colour, in words."""
        place = int(np.square(self.colors.astype(int) - color).sum(1).argmin())
        return f"{tuple(self.colors[place].tolist())} {self.names[place]}"


def codes_of(colors: np.ndarray) -> np.ndarray:
    """Colours [...,3] R, G, B as numbers [...] int32."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def color_of(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def read_table(path: Path) -> ColorTable:
    """Reads a table of colours in any of the forms above."""
    rows = list(_json_rows(path) if path.suffix.lower() == ".json" else _text_rows(path))
    if not rows:
        raise LabelFileError(f"{path}: has no line with a name and a colour, such as: 64 128 64 tree")
    names, colors = [name for name, _ in rows], [color for _, color in rows]
    numbered = [re.match(r"\d+[\s,;:]+(\D.*)", name) for name in names]
    names = [match[1] if match and all(numbered) else name for match, name in zip(numbered, names, strict=True)]
    twice = [color for color in colors if colors.count(color) > 1] if len(rows) <= 1000 else []
    if twice or len(set(colors)) < len(colors):
        raise LabelFileError(f"{path}: the colour {twice[0] if twice else ''} stands there twice")
    ignored = [name.lower() in _IGNORED for name in names]
    classes = list(dict.fromkeys(name for name, ignore in zip(names, ignored, strict=True) if not ignore))
    if not 2 <= len(classes) <= 254:
        raise LabelFileError(f"{path}: names {len(classes)} classes, but there must be 2 to 254")
    indices = [IGNORE if ignore else classes.index(name) for name, ignore in zip(names, ignored, strict=True)]
    return ColorTable(path, classes, np.array(colors, np.uint8), names, np.array(indices, np.uint8))


def _text_rows(path: Path) -> Iterator[tuple[str, Color]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelFileError(f"{path}: not a readable table in UTF-8 ({error})") from None
    first = True
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        what = f"{path}: line {number}"
        if match := _COLOR_FIRST.match(line):
            yield _row(match[4], match.groups()[:3], what)
        elif match := _NAME_FIRST.match(line):
            yield _row(match[1], match.groups()[1:4], what)
        elif not (first and not re.search(r"\d", line)):  # a header
            raise LabelFileError(f"{what}: is {parsing.brief(line)}, but must be a name and R, G, B")
        first = False


def _json_rows(path: Path) -> Iterator[tuple[str, Color]]:
    content = parsing.read_json(path)
    if isinstance(content, dict):
        content = [{"name": name, "color": color} for name, color in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise LabelFileError(f'{path}: must be {{"name": [R, G, B]}} or a list of {{"name": ..., "color": [R, G, B]}}')
    for number, row in enumerate(content):
        color, what = row.get("color"), f"{path}: entry {number}"
        if isinstance(color, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", color):
            color = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
        if not isinstance(color, list) or len(color) != 3:
            raise LabelFileError(f"{what}: its color is {parsing.brief(color)}, but must be [R, G, B] or '#rrggbb'")
        yield _row(row.get("name"), color, what)


def _row(name: Any, color: Sequence[Any], what: str) -> tuple[str, Color]:
    name = parsing.text(name, f"{what}: its name").strip("\"' ,;")
    try:
        r, g, b = (int(value) for value in color)
    except (TypeError, ValueError, OverflowError):
        raise LabelFileError(f"{what}: the colour of {name!r} is no R, G, B") from None
    if not all(0 <= value <= 255 for value in (r, g, b)):
        raise LabelFileError(f"{what}: the colour of {name!r} is {(r, g, b)}, but must be of 0 to 255")
    return (BACKGROUND if name.lower() in _BACKGROUNDS else name), (r, g, b)
