"""Runs as a report knows them, made up: nothing is trained."""

import numpy as np

from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix
from semiseg_jax.report.content import Panel, Run, Score

CLASSES = ("background", "cat", "<dog>")
COLORS = ((30, 30, 30), (200, 60, 60), (60, 60, 200))


def panel(name, seed, **facts):
    rng = np.random.default_rng(seed)
    views = {title: rng.integers(0, 256, (24, 32, 3), np.uint8) for title in ("image", "prediction", "truth")}
    return Panel(name, views, **facts)


def make_run(name="first", seed=0, hits=90, **config):
    rng = np.random.default_rng(seed)
    truth, top = rng.integers(0, 3, 3000), rng.uniform(0.3, 1, 3000)
    predicted = np.where(rng.integers(0, 100, 3000) < hits, truth, (truth + 1) % 3)
    score = Score(
        "val", 10, 12,
        ConfusionMatrix.from_model_output(truth, predicted, 3), Calibration.from_model_output(truth, predicted, top),
    )  # fmt: skip
    history = [
        {"stage": "supervised", "step": step, "kind": kind, **values}
        for step in (10, 20, 30)
        for kind, values in (
            ("train", {"loss": 1 / step + seed, "cross_entropy": 1 / step, "main_rate": 0.1, "step_seconds_p50": 2.0}),
            ("eval", {"miou": 0.02 * step + 0.01 * seed, "iou": [0.1, None, 0.3]}),
        )
    ]
    return Run(
        name=name,
        config={"method": "supervised", "seed": seed, "steps": 30, "log.every": 10 + seed, **config},
        classes=CLASSES,
        colors=COLORS,
        checkpoint=30,
        labels="12 dense",
        cost={"steps": "30", "parameters": "0.81 M"},
        history=history,
        versions={"python": "3.11", "packages": {"jax": "0.10"}, "devices": ["cpu x1"]},
        score=score,
        training=[panel("training: dense", 1)],
        worst=[panel("a & b", 2, miou=0.25, confidence=0.7)],
        unsure=[panel("c", 3, miou=0.5, confidence=0.4)],
    )
