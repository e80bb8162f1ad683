"""What the README's first command reaches, and how long it takes -> experiments/results/quickstart.{json,svg}.

    python experiments/benchmarks/quickstart.py --seeds=0,1,2
    python experiments/benchmarks/quickstart.py --name=older --seeds=0 --flags='--config.model.norm=group'

Trains, evaluates and predicts 24 images, each command in a process of its own, as people do; nothing else should run
beside it. Rows of the same name and seed are replaced; the table and the plot show all rows that there are.
"""

import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

RESULTS = Path(__file__).parents[1] / "results"

FLAGS = flags.FLAGS
flags.DEFINE_list("seeds", ["0", "1", "2"], "joined by commas; a seed also chooses which scenes have masks")
flags.DEFINE_string("name", "now", "of the rows")
flags.DEFINE_string("flags", "", "more flags of `semiseg train`")
flags.DEFINE_boolean("table", False, "only print the table and draw the plot")


def measure(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        workdir = f"--workdir={folder}/run"
        seconds = {
            "train": _run("train", "--config=quickstart", f"--config.seed={seed}", workdir, *shlex.split(FLAGS.flags)),
            "evaluate": _run("evaluate", workdir),
            "predict": _run("predict", workdir, "--limit=24"),
        }
        scores = json.loads(Path(folder, "run", "checkpoints", "gated_crf", "scores.json").read_text())
        final = json.loads(Path(folder, "run", "evaluation_val.json").read_text())
    curve = {step: round(row["miou"], 4) for step, row in scores.items()}
    return {"name": FLAGS.name, "seed": seed, "curve": curve, "miou": round(final["miou"], 4), "seconds": seconds}


def _run(*args: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "semiseg_jax.cli", *args], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - start, 1)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| run | seed | mIoU by step | evaluated | train + evaluate + predict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        curve = ", ".join(f"{value:.3f} at {step}" for step, value in row["curve"].items())
        seconds = " + ".join(f"{value:.0f}" for value in row["seconds"].values())
        total = sum(row["seconds"].values())
        lines.append(f"| {row['name']} | {row['seed']} | {curve} | {row['miou']:.4f} | {seconds} = {total:.0f} s |")
    for name in dict.fromkeys(row["name"] for row in rows):
        mean = statistics.mean(row["miou"] for row in rows if row["name"] == name)
        lines.append(f"| {name} | mean | | {mean:.4f} | |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "semiseg"
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    names = list(dict.fromkeys(row["name"] for row in rows))
    for row in rows:
        steps = [0, *map(int, row["curve"])]
        label = row["name"] if row is next(other for other in rows if other["name"] == row["name"]) else None
        axes.plot(steps, [0, *row["curve"].values()], marker="o", color=f"C{names.index(row['name'])}", label=label)
    axes.set(xlabel="step", ylabel="mIoU on 96 scenes", ylim=(0, 1), title="semiseg train --config=quickstart")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main(_: list[str]) -> None:
    path = RESULTS / "quickstart.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for seed in () if FLAGS.table else map(int, FLAGS.seeds):
        row = measure(seed)
        rows = [other for other in rows if (other["name"], other["seed"]) != (row["name"], seed)] + [row]
        rows.sort(key=lambda row: (row["name"] == "now", row["name"], row["seed"]))
        path.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    plot(rows, RESULTS / "quickstart.svg")


if __name__ == "__main__":
    app.run(main)
