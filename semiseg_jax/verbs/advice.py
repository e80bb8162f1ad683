"""What a finished stage learned, and what to do next, in a few lines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ALL_CLASSES = 8  # are listed; of more, the best and the worst
RISING = 0.02  # of the score, within the last third of the steps
FALLEN = 0.02


def advice(
    scores: Mapping[int, Mapping[str, float]],
    results: Mapping[str, Any],
    classes: Sequence[str],
    *,
    steps: int,
    metric: str = "miou",
    weighted: bool = False,
    can_grow: bool = True,
) -> list[str]:
    """Lines for the end of training.

    Args:
      scores: step -> metrics, of the checkpoints that were evaluated.
      results: of the last evaluation, with IoU by class.
      classes: their names.
      steps: how many were trained.
      metric: by which the best checkpoint is chosen.
      weighted: whether classes have weights already.
      can_grow: whether the run may go on for more steps in its workdir.
    """
    lines = []
    if "iou" in results:
        iou = np.asarray(results["iou"], float)
        lines.append("IoU by class: " + _listed(iou, classes))
        recall = np.asarray(results.get("class_recall", np.where(iou == 0, 0.0, 1.0)), float)  # NaN: no pixel to find
        lines += _lost(np.where(np.isnan(recall), np.nan, iou), classes, weighted)
        if absent := [name for name, value in zip(classes, recall, strict=True) if np.isnan(value)]:
            lines.append(
                f"the evaluated images hold no {', '.join(absent)}: scores say nothing of that; give more images masks"
            )
    return lines + _course(scores, steps, metric, can_grow)


def _listed(iou: np.ndarray, classes: Sequence[str]) -> str:
    order = [k for k in np.argsort(-np.nan_to_num(iou, nan=-1.0), kind="stable") if np.isfinite(iou[k])]
    shown = [f"{classes[k]} {iou[k]:.2f}" for k in order]
    if len(shown) > ALL_CLASSES:
        half = ALL_CLASSES // 2
        shown = [*shown[:half], "...", *shown[-half:]]
    return ", ".join(shown)


def _lost(iou: np.ndarray, classes: Sequence[str], weighted: bool) -> list[str]:
    """Classes that were not found, or far worse than the others."""
    known = np.isfinite(iou)
    lost = [name for name, value in zip(classes, iou, strict=True) if value == 0]
    middle = float(np.median(iou[known])) if known.any() else 0.0
    weak = [name for name, value in zip(classes, iou, strict=True) if 0 < value < middle / 2]
    rest = "" if weighted else ", or let rare classes count for more (--config.balance_classes=0.5)"
    lines = []
    if lost:
        of = "it" if len(lost) == 1 else "them"
        lines.append(f"warning: no pixel of {', '.join(lost)} was found; train longer, label more images of {of}{rest}")
    if weak:
        of = "it" if len(weak) == 1 else "them"
        lines.append(f"{', '.join(weak)}: found far worse than the others; label more images of {of}{rest}")
    return lines


def _course(scores: Mapping[int, Mapping[str, float]], steps: int, metric: str, can_grow: bool) -> list[str]:
    """Whether more steps would help."""
    known = {step: row[metric] for step, row in sorted(scores.items()) if metric in row}
    if steps not in known or len(known) < 2:
        return []
    last, best = known[steps], max(known, key=lambda step: known[step])
    if known[best] - last > FALLEN:
        return [
            f"{metric} was {known[best]:.3f} at step {best} and {last:.3f} at the end: more steps do not help here, "
            "more labels do. Evaluation and prediction use the best checkpoint"
        ]
    earlier = max(step for step in known if step < steps)
    before = max((step for step in known if step <= steps * 2 / 3), default=earlier)
    if last - known[before] <= RISING:
        return []
    longer = f"--config.steps={2 * steps} in the same command goes on in this workdir"
    how = longer if can_grow else "give it more steps"
    return [f"{metric} was still rising ({known[before]:.3f} at step {before}, {last:.3f} at the end): {how}"]
