"""`semiseg preflight`: whether a config compiles for hardware that is not there, fits it, and what it costs."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config import settings
from semiseg_jax.engine.checkpoints import write_json
from semiseg_jax.engine.hardware import Topology, check_compiler
from semiseg_jax.engine.prediction import COUNTS, FORMULA, Work, efficiency, step_seconds
from semiseg_jax.verbs.compile_process import Found, compiled_stages, tell
from semiseg_jax.verbs.config import number_of_classes
from semiseg_jax.verbs.preflight_offers import Changes, as_flags, for_batch, for_memory, with_changes
from semiseg_jax.verbs.preflight_table import tables

TRIES = 5  # changes that are compiled where a config does not fit as it is
_OFFERS: dict[str, Callable[[ConfigDict, int], Iterator[Changes]]] = {"batch": for_batch, "memory": for_memory}


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What compilers say of each stage of a config; print it for tables."""

    topology: Topology
    classes: int
    rows: list[Found]  # of the config as it is, then of changes to it, whose flags stand in "changes"

    @property
    def fits(self) -> bool:
        """Whether every stage compiles as it is and fits its device."""
        return all("problem" not in row for row in self.rows if not row["changes"])

    def as_json(self) -> dict[str, Any]:
        chip = {key: value for key, value in dataclasses.asdict(self.topology.chip).items() if key != "target"}
        return {
            "topology": self.topology.name,
            "devices": self.topology.count,
            "chip": chip,
            "classes": self.classes,
            "prediction": FORMULA,
            "stages": self.rows,
        }

    def __str__(self) -> str:
        return tables(self.topology, self.classes, self.rows)


def preflight(
    config: ConfigDict,
    topology: str,
    *,
    classes: int = 0,
    propose: bool = True,
    quick: bool = False,
    json: str | Path = "",
) -> Preflight:
    """Compiles the step of every stage for hardware that is not there, and says what a device holds and sends.

    Nothing is trained, downloaded or built. It runs in a process of its own, for minutes where networks are large.

    Args:
      config: from `semiseg_jax.load_config(NAME)` or `semiseg_jax.default_config()`.
      topology: the devices: v5e:2x4, v4:2x2x2, v6e:4x4, v5p:2x2x1, t4, l4, a100:4, h100, h200:8 or cpu:2.
      classes: how many; 0 = those of the dataset, or 21 where it is not there.
      propose: where a stage does not fit, or a batch does not divide, also compile what would.
      quick: compile for TPUs in a hurry, in a part of the time; the program is not the best that the compiler makes,
        and may need more memory.
      json: a file for all numbers.
    """
    run, target = settings(config), Topology.parse(topology)
    check_compiler(target)
    classes, source = number_of_classes(run, classes)
    tell(f"preflight of {run.method} for {target.count} x {target.chip.kind}, {classes} classes ({source})")
    rows = _rows(config, target, classes, {}, (), quick)
    if propose:
        for problem, offers in _OFFERS.items():
            stages = [row["stage"] for row in rows if not row["changes"] and row.get("problem") == problem]
            for changes in itertools.islice(offers(config, target.count), TRIES) if stages else ():
                tell(f"with {as_flags(changes)}:")
                found = _rows(with_changes(config, changes), target, classes, changes, stages, quick)
                rows += found
                if problem == "memory" and all("problem" not in row for row in found):
                    break
    report = Preflight(target, classes, rows)
    print(report, flush=True)
    if json:
        write_json(Path(json), report.as_json())
    return report


def _rows(config: ConfigDict, target: Topology, classes: int, changes: Changes, only: Any, quick: bool) -> list[Found]:
    found = compiled_stages(config, target.name, classes, only, quick=quick)
    for row in found:
        row["quick"] = quick
        row["changes"] = as_flags(changes)
        if not row.get("fits", True):
            row["problem"] = "memory"
        if "operations" in row and target.chip.bandwidth:
            row["predicted"] = _predicted(row, target)
    return found


def _predicted(row: Found, target: Topology) -> dict[str, Any]:
    """What `FORMULA` says. One device sends nothing; several would send gradients and statistics."""
    work = Work(row["operations"], row["traffic"], row["sent"] or row["gradients"])
    seconds = step_seconds(work, target.chip, row["dtype"])
    shares = {str(count): efficiency(work, target.chip, row["dtype"], count) for count in COUNTS}
    return {"step_seconds": seconds, "efficiency": shares}
