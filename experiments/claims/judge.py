"""Whether what a paper claims holds of our runs: the rules of `papers.py` on the rows of `experiments/results`."""

import functools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from papers import Case, Paper, Rule

RESULTS = Path(__file__).parents[1] / "results"
Scores = dict[int, float]  # by seed


@functools.cache
def rows_of(name: str) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())
    return rows


def scores(name: str, run: str) -> Scores:
    found = {row["seed"]: float(row["miou"]) for row in rows_of(name).values() if row["run"] == run}
    if not found:
        raise ValueError(f"experiments/results/{name}.json has no run {run!r}")
    return dict(sorted(found.items()))


def mean(of: Scores) -> float:
    return statistics.fmean(of.values())


def by_seed(of: Scores) -> str:
    return " ".join(f"{value:.3f}" for value in of.values())


def verdict(paper: Paper, case: Case, rule: Rule) -> tuple[bool, str] | None:
    """Whether a rule holds of a case, with the numbers that say so; None where the case has no such runs."""
    other = getattr(case, rule.against)
    if not other:
        return None
    ours, theirs = scores(paper.name, case.ours), scores(paper.name, other)
    if rule.against == "full":
        share = mean(ours) / mean(theirs)
        return share >= rule.share, f"{share:.3f} of all masks"
    gains = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    average, better = statistics.fmean(gains), sum(gain > 0 for gain in gains)
    text = f"{average:+.3f}, better on {better} of {len(gains)}"
    if len(gains) < 4:
        return better == len(gains), text
    error = statistics.stdev(gains) / len(gains) ** 0.5
    return average > 2 * error, f"{text}, standard error {error:.3f}"


def tally(paper: Paper, rule: Rule, of: str) -> list[bool]:
    found = [verdict(paper, case, rule) for case in paper.cases if case.of == of]
    return [result[0] for result in found if result]


def holds(paper: Paper, rule: Rule) -> str:
    paper_only, ours = tally(paper, rule, "paper"), tally(paper, rule, "ours")
    return f"**{_on(paper_only)}**" + (f"; with changes of ours: {_on(ours)}" if ours else "")


def _on(results: Sequence[bool]) -> str:
    good = sum(results)
    if good in (0, len(results)):
        return "holds" if good else "does not hold"
    return f"holds on {good} of {len(results)}"


def shares(paper: Paper) -> str:
    """Our lowest and highest share of full supervision."""
    found = [mean(scores(paper.name, c.ours)) / mean(scores(paper.name, c.full)) for c in paper.cases if c.full]
    return f"{min(found):.2f} to {max(found):.2f}" if len(found) > 1 else f"{found[0]:.2f}"
