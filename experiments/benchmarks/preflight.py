"""Preflight of every method for TPU slices and GPUs that are not there -> experiments/results/preflight.md.

    pip install 'semiseg-jax[tpu-preflight]'                                   # or [gpu-preflight], or both
    python experiments/benchmarks/preflight.py --setting=paper --topologies=v5e:2x4
    python experiments/benchmarks/preflight.py --setting=small --topologies=v5e:2x4,v4:2x2x2,v6e:2x4 --methods=transfer
    python experiments/benchmarks/preflight.py --table                         # only writes the table anew

Each run adds its rows to preflight.json beside the table, by setting, topology and method; rows that nobody ran are
not there. Where a batch does not divide among the devices, the nearest that does is compiled too, and marked. With
--batch=32 another batch is compiled instead. Paper settings take hours on one core.
"""

import datetime
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from absl import app, flags

import semiseg_jax
from semiseg_jax.engine.prediction import FORMULA

RESULTS = Path(__file__).parents[1] / "results"
METHODS = ("total_variation", "transfer", "gated_crf", "label_uncertainty", "adversarial")
# The protocols' datasets, which do not have to be there, and how many classes they have.
PAPER = {
    "total_variation": ("dataset=weizmann_horse", 2),
    "transfer": ("dataset=voc,strong=u2pl", 21),
    "gated_crf": ("dataset=voc,labels=points", 21),
    "label_uncertainty": ("dataset=cityscapes", 3),
    "adversarial": ("dataset=voc", 21),
}
INTRODUCTION = """\
Written by `experiments/benchmarks/preflight.py` from the rows in `preflight.json`. Every step below was
compiled with jax {} on a machine without an accelerator; nothing was run, and rows that nobody compiled are
left out. Compile times are those of a shared machine with two x86 cores, of which a compiler had about a
quarter of one. `sent` is what the compiled step sums over all devices, beside the bytes of gradients:
parameters and batch statistics."""

FLAGS = flags.FLAGS
flags.DEFINE_list("topologies", ["v5e:2x4"], "joined by commas")
flags.DEFINE_list("methods", list(METHODS), "joined by commas")
flags.DEFINE_enum("setting", "paper", ["small", "paper"], "of the configs")
flags.DEFINE_integer("batch", 0, "images an update, instead of the setting's")
flags.DEFINE_boolean("quick", False, "compile for TPUs in a hurry")
flags.DEFINE_boolean("table", False, "only write the table anew from the rows that there are")


def arguments(method: str, setting: str) -> tuple[str, int]:
    """-> (the config's name with arguments, the number of classes)"""
    given, classes = PAPER[method]
    if setting == "paper":
        return f"{method}:setting=paper,{given},path=absent,weights=none", classes
    return f"{method}:strong=disk" if method == "transfer" else method, 6


def rows_of(method: str, topology: str) -> list[dict[str, Any]]:
    spec, classes = arguments(method, FLAGS.setting)
    config = semiseg_jax.load_config(spec)
    if FLAGS.batch:
        config.batch_size = FLAGS.batch
    report = semiseg_jax.preflight(config, topology, classes=classes, quick=FLAGS.quick)
    marks = {
        "setting": FLAGS.setting,
        "topology": topology,
        "method": method,
        "batch": FLAGS.batch,
        "jax": metadata.version("jax"),
        "date": datetime.date.today().isoformat(),
    }
    return [marks | row for row in report.as_json()["stages"]]


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["setting"], row["topology"], row["method"], row["batch"]


def main(_: list[str]) -> None:
    path = RESULTS / "preflight.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for topology in () if FLAGS.table else FLAGS.topologies:
        for method in FLAGS.methods:
            found = rows_of(method, topology)
            rows = [row for row in rows if key(row) != key(found[0])] + found
            path.write_text(json.dumps(rows, indent=1) + "\n")
    rows.sort(key=lambda row: (row["setting"], row["topology"], METHODS.index(row["method"]), row["batch"]))
    (RESULTS / "preflight.md").write_text("\n".join(page(rows)) + "\n")


def page(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "# Preflight of the methods"
    yield ""
    yield INTRODUCTION.format(", ".join(sorted({row["jax"] for row in rows})))
    for setting in ("paper", "small"):
        for topology in dict.fromkeys(row["topology"] for row in rows if row["setting"] == setting):
            yield ""
            yield f"## {setting.capitalize()} settings on {topology}"
            yield ""
            yield from table([row for row in rows if (row["setting"], row["topology"]) == (setting, topology)])
    yield ""
    yield "## The prediction"
    yield ""
    yield "```"
    yield FORMULA
    yield "```"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "| method, stage | images | compiles | after | a device holds | fits | sent / gradients | operations | "
        "predicted step | efficiency 8, 64, 256 |"
    )
    yield "| --- | ---: | --- | ---: | ---: | --- | ---: | ---: | ---: | --- |"
    for row in rows:
        yield f"| {' | '.join(cells(row))} |"


def cells(row: dict[str, Any]) -> list[str]:
    changes = row["changes"] or (f"--config.batch_size={row['batch']}" if row["batch"] else "")
    name = f"{row['method']}, {row['stage']}" if row["stage"] != row["method"] else row["method"]
    name += f" with `{changes}`" if changes else ""
    if "operations" not in row:
        return [name, "", f"no: {row['error']}", *[""] * 7]
    memory = row["memory"]
    gradients = row["gradients"]
    predicted = row.get("predicted")
    return [
        name,
        str(row["images"]),
        "yes, in a hurry" if row.get("quick") else "yes",
        f"{row['seconds']:.0f} s",
        f"{memory['total'] / 2**30:.2f} GiB",
        "yes" if row["fits"] else "no",
        f"{row['sent'] / 2**20:.1f} / {gradients / 2**20:.1f} MiB = {row['sent'] / gradients:.2f}",
        f"{row['operations'] / 1e12:.2f} T",
        f"{1000 * predicted['step_seconds']:.1f} ms" if predicted else "",
        ", ".join(f"{100 * share:.0f} %" for share in predicted["efficiency"].values()) if predicted else "",
    ]


if __name__ == "__main__":
    app.run(main)
