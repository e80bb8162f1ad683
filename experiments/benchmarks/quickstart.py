"""What the README's first command reaches, and how long it takes -> experiments/results/quickstart.{json,svg}.

    python experiments/benchmarks/quickstart.py                     # seeds 0, 1 and 2 of the quickstart as it is
    python experiments/benchmarks/quickstart.py --runs=masks,no_crf,older --seeds=0

Trains, evaluates and predicts 24 images, each command in a process of its own, as people do. Where times are to be
believed, nothing else runs beside it. Rows of the same run and seed are replaced; table and plot show all rows that
there are. `python experiments/results_page.py` brings them into the README.
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
# Run -> what it learns from, and what follows `semiseg train --config=quickstart`.
RUNS = {
    "masks": ("the 12 masks alone", ":labels=masks"),
    "no_crf": (
        "masks and scribbles",
        "--config.method=supervised --config.terms.gated_crf.weight=0 "
        """--config.data.quota='{"dense": 2, "scribble": 6}'""",
    ),
    "older": (
        "as it is now, with the settings of version 0.1",
        "--config.model.norm=group --config.model.widths='(24,48,96,128)' --config.augment.jitter=0.8 "
        "--config.steps=1500 --config.eval.every=500 --config.optimizer.learning_rate=4e-3 "
        "--config.terms.gated_crf.stride=4 --config.terms.gated_crf.start=0.1",
    ),
    "now": ("masks and scribbles, and Gated CRF on all 480 scenes", ""),
}

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", ["now"], f"some of {', '.join(RUNS)}")
flags.DEFINE_list("seeds", ["0", "1", "2"], "a seed also chooses which scenes have masks")
flags.DEFINE_boolean("table", False, "only print the table and draw the plot")


def measure(run: str, seed: int) -> dict[str, Any]:
    what, given = RUNS[run]
    argument, _, more = given.partition(" ") if given.startswith(":") else ("", "", given)
    with tempfile.TemporaryDirectory() as folder:
        workdir = f"--workdir={folder}/run"
        config = f"--config=quickstart{argument}"
        seconds = {
            "train": _run("train", config, f"--config.seed={seed}", workdir, *shlex.split(more)),
            "evaluate": _run("evaluate", workdir),
            "predict": _run("predict", workdir, "--limit=24"),
        }
        scores = json.loads(next(Path(folder, "run", "checkpoints").glob("*/scores.json")).read_text())
        final = json.loads(Path(folder, "run", "evaluation_val.json").read_text())
    curve = {step: round(row["miou"], 4) for step, row in scores.items()}
    miou = round(final["miou"], 4)
    return {"run": run, "what": what, "flags": given, "seed": seed, "curve": curve, "miou": miou, "seconds": seconds}


def _run(*args: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "semiseg_jax.cli", *args], check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - start, 1)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| run | seed | mIoU by step | evaluated | train + evaluate + predict |", "|" + " --- |" * 5]
    for row in rows:
        curve = ", ".join(f"{value:.3f} at {step}" for step, value in row["curve"].items())
        seconds = " + ".join(f"{value:.0f}" for value in row["seconds"].values())
        total = sum(row["seconds"].values())
        lines.append(f"| {row['run']} | {row['seed']} | {curve} | {row['miou']:.4f} | {seconds} = {total:.0f} s |")
    for run in dict.fromkeys(row["run"] for row in rows):
        mean = statistics.mean(row["miou"] for row in rows if row["run"] == run)
        lines.append(f"| {run} | mean | | {mean:.4f} | |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "semiseg"
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    names = list(dict.fromkeys(row["run"] for row in rows))
    for name in names:
        for number, row in enumerate(row for row in rows if row["run"] == name):
            steps, label = [0, *map(int, row["curve"])], name if not number else None
            axes.plot(steps, [0, *row["curve"].values()], marker="o", color=f"C{names.index(name)}", label=label)
    axes.set(xlabel="step", ylabel="mIoU on 96 scenes", ylim=(0, 1), title="semiseg train --config=quickstart")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main(_: list[str]) -> None:
    path = RESULTS / "quickstart.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for run in () if FLAGS.table else FLAGS.runs:
        for seed in map(int, FLAGS.seeds):
            row = measure(run, seed)
            rows = [other for other in rows if (other["run"], other["seed"]) != (run, seed)] + [row]
            rows.sort(key=lambda row: (list(RUNS).index(row["run"]), row["seed"]))
            path.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    plot(rows, RESULTS / "quickstart.svg")


if __name__ == "__main__":
    app.run(main)
