"""What the claims share: named runs over seeds, each trained and scored once, and the table of their scores.

Each script beside this one measures one paper's claim on real data and keeps every score, by run and seed, in
`experiments/results/NAME.json`; runs that are there are not repeated. All take

    python experiments/claims/NAME.py --data=DIR --weights=mobilenet_v2_imagenet.npz [--sets=...] [--seeds=0,1]

where DIR holds the dataset folders (voc_animals, weizmann_horse, ...) in the layout that the README describes. Whether
all of it still runs tells a trial, of which nothing comes into `experiments/results`:

    python experiments/claims/NAME.py --data=DIR --weights=FILE --seeds=0 --steps-share=0.1

What was measured so far, without training anything:

    python experiments/claims/claims.py NAME
"""

import argparse
import contextlib
import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from papers import PAPERS

import semiseg_jax
from semiseg_jax.engine.checkpoints import write_json
from semiseg_jax.verbs.workdir import as_json

RESULTS = Path(__file__).parents[1] / "results"
Make = Callable[[int], ConfigDict]  # seed -> config


def parse_flags(sets: Sequence[str]) -> argparse.Namespace:
    """`sets` are the datasets that the claim is measured on."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="where the dataset folders are")
    parser.add_argument("--weights", default="", help="MobileNetV2 from ImageNet, in TensorFlow's layout")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"), help="where workdirs are made")
    parser.add_argument("--sets", type=lambda text: text.split(","), default=list(sets))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    parser.add_argument("--steps-share", type=float, default=1.0, help="below 1: a trial with fewer updates")
    flags = parser.parse_args()
    if flags.steps_share < 1:
        flags.data = few_images(flags.data, flags.runs / "few_images")
    return flags


def shortened(config: ConfigDict, share: float) -> ConfigDict:
    """For a trial, which also sees but a few images: a share of all updates."""
    if share == 1:
        return config
    for node, name in (
        (config, "steps"),
        (config.optimizer, "warmup_steps"),
        *((config.get("transfer", {}), name) for name in ("classifier_steps", "l_net_steps")),
    ):
        if node.get(name):
            node[name] = max(2, round(node[name] * share))
    config.eval.every = config.steps
    return config


def quiet(config: ConfigDict, seed: int) -> ConfigDict:
    """The seed in every place, and one evaluation, at the end."""
    config.seed = config.data.seed = seed
    config.eval.every = config.steps
    config.log.every = 100
    config.log.tensorboard = False
    return config


def small_animals(config: ConfigDict) -> None:
    """Animals of Pascal VOC at half their size and with class weights: short runs then tell all of them apart."""
    config.data.train_split, config.data.eval_split = "train+train_aug_extra", "val"
    config.data.canvas = (160, 160)
    config.augment.scale = (0.7, 1.5)
    config.balance_classes = 0.5


class Claim:
    """The runs of one claim; scores go to `experiments/results/NAME.json`, and are not measured twice.

    Those of a trial, with a `share` of the updates below 1, go to a folder of its own below `runs`.
    """

    def __init__(self, name: str, runs: Path, share: float = 1.0):
        folder = RESULTS if share == 1 else runs / f"trial_{share:g}"
        self.path, self.share = folder / f"{name}.json", share
        self.runs = (runs if share == 1 else folder) / name
        self.rows = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return rows

    def run(
        self,
        name: str,
        make: Make,
        seed: int,
        split: str,
        *,
        evaluate: Mapping[str, ConfigDict | None],
        shared: Mapping[str, str] | None = None,
        also: Callable[[Path], Mapping[str, Any]] = lambda workdir: {},
    ) -> None:
        """Trains `name` with `seed`, and scores its last checkpoint on `split` under each way of `evaluate`.

        `shared` names stages, and for whom each is the same: of the runs of a seed that give both, the first trains it
        for all. `also` gives more to note, of the workdir.
        """
        wanted = {way: f"{name}{way} seed {seed}" for way in evaluate}
        if all(key in self.rows for key in wanted.values()):
            return
        workdir = self._folder(f"{name} seed {seed}")
        config = shortened(make(seed), self.share)
        kept = {stage: self._folder(f"{stage} of {whom} seed {seed}") for stage, whom in (shared or {}).items()}
        for stage, folder in kept.items():
            if folder.exists() and not (workdir / "checkpoints" / stage).exists():
                shutil.copytree(folder, workdir / "checkpoints" / stage)
        started = time.perf_counter()
        if semiseg_jax.train(config, workdir).preempted:
            raise KeyboardInterrupt
        seconds = time.perf_counter() - started
        found, more = {}, also(workdir)
        for way, changes in evaluate.items():
            altered = ConfigDict(config.to_dict())
            if changes is not None:
                altered.update(changes)
            scores = semiseg_jax.evaluate(workdir, checkpoint="last", split=split, config=altered)
            classes = json.loads((workdir / "dataset.json").read_text())["classes"]
            plain = as_json(scores, tuple(classes))
            row = {key: plain[key] for key in ("miou", "pixel_accuracy", "mean_accuracy", "boundary_f", "iou")}
            found[wanted[way]] = {
                "run": name + way, "seed": seed, "split": split, "steps": config.steps, "seconds": round(seconds),
                "device": jax.devices()[0].device_kind, **row, **more
            }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = self._read() | found  # runs may go on side by side
        write_json(self.path, self.rows)
        for stage, folder in kept.items():
            if not folder.exists():
                shutil.move(workdir / "checkpoints" / stage, folder)
        shutil.rmtree(workdir / "checkpoints")

    def _folder(self, name: str) -> Path:
        return self.runs / name.replace(" ", "_").replace("/", "-")

    def score(self, name: str, seed: int) -> float:
        return float(self.rows[f"{name} seed {seed}"]["miou"])

    def table(self, prefix: str = "") -> str:
        """mIoU by run: every seed, and their mean."""
        by_run: dict[str, list[float]] = {}
        for row in sorted(self.rows.values(), key=lambda row: row["seed"]):
            if row["run"].startswith(prefix):
                by_run.setdefault(row["run"], []).append(row["miou"])
        lines = ["| run | mIoU by seed | mean |", "| --- | --- | --- |"]
        lines += [f"| {run} | {' '.join(f'{x:.4f}' for x in v)} | {np.mean(v):.4f} |" for run, v in by_run.items()]
        return "\n".join(lines)


def with_choose(source: Path, target: Path, fold: int = 0) -> Path:
    """The folder with three quarters of `train` as `fit` and the `fold`th quarter as `choose`."""
    ids = ids_of(source, "train")
    shuffled = random.Random(0).sample(ids, len(ids))
    quarter = len(ids) // 4
    chosen = set(shuffled[fold * quarter : (fold + 1) * quarter])
    parts = {"fit": sorted(set(ids) - chosen), "choose": sorted(chosen)}
    return derived_folder(source, target, parts | {name: ids_of(source, name) for name in ("train", "test")})


def few_images(source: Path, target: Path, number: int = 16) -> Path:
    """The dataset folders below `source`, each with splits of at most `number` images."""
    for splits in source.glob("*/splits"):
        folder = splits.parent
        names = [path.stem for path in splits.glob("*.txt")]
        ids = {name: ids_of(folder, name) for name in names}
        few = {name: known[:: max(1, len(known) // number)][:number] for name, known in ids.items()}
        derived_folder(folder, target / folder.name, few)
    return target


def derived_folder(source: Path, target: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """A dataset folder with the files of `source` and other splits."""
    target = target.absolute()
    target.mkdir(parents=True, exist_ok=True)
    for item in source.iterdir():
        link = target / item.name
        if item.name != "splits":
            with contextlib.suppress(FileExistsError):  # claims that run side by side share the folder
                link.symlink_to(item.resolve())
    (target / "splits").mkdir(exist_ok=True)
    for name, ids in splits.items():
        path, text = target / "splits" / f"{name}.txt", "\n".join(ids) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return target


def ids_of(folder: Path, split: str) -> list[str]:
    return (folder / "splits" / f"{split}.txt").read_text().split()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Prints what was measured so far of a claim.")
    parser.add_argument("name", choices=[paper.name for paper in PAPERS])
    print(Claim(parser.parse_args().name, Path("runs")).table())
