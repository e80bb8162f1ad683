"""What a compiled program sends between devices, read from its text."""

import re
from collections.abc import Mapping

KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
)  # fmt: skip
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


def collectives(program_text: str) -> Mapping[str, tuple[int, int]]:
    """{kind: (how many, bytes)} of what sends something in `compiled.as_text()`.

    Bytes are those of whole arrays: what is summed, what is gathered, what is summed before it is scattered. A ring of
    many devices sends all of that twice for an all-reduce and once for the others. What stands in a loop counts once.
    """
    sizes: dict[str, int] = {}
    found: dict[str, tuple[int, int]] = {}
    for line in program_text.splitlines():
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        name, result, operation, rest = match.groups()
        sizes[name] = _bytes(result)
        kind = operation.removesuffix("-start")
        if kind not in KINDS:
            continue
        given = sum(sizes.get(operand, 0) for operand in re.findall(r"%([\w.-]+)", rest.split("), ")[0]))
        # What starts an asynchronous one may give what it was given beside the result.
        size = max(given, sizes[name] - given if operation != kind else sizes[name])
        count, so_far = found.get(kind, (0, 0))
        found[kind] = (count + 1, so_far + size)
    return found


def _bytes(shape: str) -> int:
    return sum(_bits(dtype) * _elements(sides) for dtype, sides in _ARRAY.findall(shape)) // 8


def _bits(dtype: str) -> int:
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits[1]) if digits else 8  # pred


def _elements(sides: str) -> int:
    count = 1
    for side in sides.split(","):
        count *= int(side or 1)
    return count
