"""What `semiseg preflight` prints."""

from collections.abc import Iterable, Sequence
from typing import Any

from semiseg_jax.engine.hardware import Topology
from semiseg_jax.engine.prediction import COUNTS, FORMULA

PARTS = ("parameters", "statistics", "optimizer", "averages", "batch", "temporaries", "results", "program", "total")


def tables(topology: Topology, classes: int, rows: Sequence[dict[str, Any]]) -> str:
    """Whether each stage compiles and fits, what a device holds of what, what it sends, and what is predicted of it."""
    chip = topology.chip
    lines = [
        f"{topology.name}: {topology.count} x {chip.kind}, of whose memory {gib(chip.memory)} are for a program; "
        f"{classes} classes"
    ]
    lines += ["", *table(("stage", "compiles", "after", "images", "holds", "fits", "sends"), map(_verdict, rows))]
    compiled = [row for row in rows if "operations" in row]
    if compiled:
        held = ([name(row), *_parts(row["memory"])] for row in compiled)
        lines += ["", *table(("a device holds, MiB", *PARTS), held)]
        work = ("a step, of one device", "operations", "memory traffic", "collectives", "sent", "gradients")
        lines += ["", *table(work, map(_work, compiled))]
    predicted = [row for row in compiled if "predicted" in row]
    if predicted:
        head = ("predicted", "step(1)", *(f"efficiency({count})" for count in COUNTS))
        lines += ["", *table(head, map(_predicted, predicted)), "", FORMULA]
    elif compiled:
        lines += ["", f"No prediction: there are no stated numbers for a {chip.kind}."]
    errors = [f"{name(row)}: {row['error']}" for row in rows if "error" in row]
    return "\n".join([*lines, *([""] if errors else []), *errors])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first to the left."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]


def name(row: dict[str, Any]) -> str:
    return f"{row['stage']} {row['changes']}".strip()


def _verdict(row: dict[str, Any]) -> list[str]:
    compiles = (
        "yes" if "operations" in row else {"memory": "too large", "batch": "not divisible"}.get(row["problem"], "NO")
    )
    seconds, memory = row.get("seconds"), row.get("memory")
    sent = row.get("sent")
    return [
        name(row),
        compiles,
        "" if seconds is None else f"{seconds:.0f} s",
        str(row.get("images", "")),
        gib(memory["total"]) if memory else "",
        {True: "yes", False: "NO", None: ""}[row.get("fits")],
        "" if sent is None else f"{sent / row['gradients']:.2f} x gradients",
    ]


def _parts(memory: dict[str, int]) -> list[str]:
    return [f"{memory[part] / 2**20:.1f}" for part in PARTS]


def _work(row: dict[str, Any]) -> list[str]:
    kinds = ", ".join(f"{found['count']} {kind}" for kind, found in row["collectives"].items()) or "none"
    return [
        name(row),
        f"{row['operations'] / 1e12:.3f} T",
        gib(row["traffic"]),
        kinds,
        mib(row["sent"]),
        mib(row["gradients"]),
    ]


def _predicted(row: dict[str, Any]) -> list[str]:
    found = row["predicted"]
    shares = [f"{100 * share:.0f} %" for share in found["efficiency"].values()]
    return [name(row), f"{1000 * found['step_seconds']:.1f} ms", *shares]


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def mib(size: float) -> str:
    return f"{size / 2**20:.2f} MiB"
