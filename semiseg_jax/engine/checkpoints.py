"""Orbax checkpoints of the whole state with the data iterator's, the best and the last kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from semiseg_jax.data.records import quiet_libraries


class CheckpointError(ValueError):
    """A checkpoint that is not there, cannot be read or does not fit; nothing on disk was changed."""


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, directory: Path, metric: str = "miou", *, read_only: bool = False):
        self.directory, self.metric = directory, metric
        if read_only and not directory.is_dir():
            raise CheckpointError(f"{directory} does not exist; train first")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(1),
                    checkpoint_managers.BestN(n=1, get_metric_fn=self._rank, keep_checkpoints_without_metrics=False),
                ]
            ),
            best_fn=self._rank,
            create=not read_only,
            read_only=read_only,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "iterator": ocp.JsonCheckpointHandler()}
        try:
            with quiet_libraries():
                self.manager = ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers)
        except ValueError as error:  # e.g. the metrics of a step are no JSON
            raise CheckpointError(
                f"the checkpoints in {directory} cannot be read; one of them may be truncated. Nothing was changed: "
                f"move the broken step's folder away to go on from the others. ({error})"
            ) from error

    def _rank(self, metrics: Mapping[str, float]) -> float:
        value = metrics.get(self.metric, float("nan"))
        return float(value) if np.isfinite(value) else -1.0

    def save(self, step: int, state: Any, iterator: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Starts saving in the background; a step that is saved already is left alone."""
        if step in self.manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), iterator=ocp.args.JsonSave(dict(iterator)))
        with quiet_libraries():
            self.manager.save(step, args=items, metrics=dict(metrics) if metrics else None, force=True)

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def choose(self, which: str) -> int:
        """The step of "best" (or the last one, where none has metrics), "last" or a step number."""
        steps = self.manager.all_steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no finished checkpoint; train first")
        if which == "best":
            best = self.manager.best_step()
            return max(steps) if best is None else best
        if which == "last":
            return max(steps)
        if not which.isdigit() or int(which) not in steps:
            raise CheckpointError(f"no checkpoint {which!r} in {self.directory}; there are: best, last, {steps}")
        return int(which)

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """`state` gives structure, shapes and devices -> (state, iterator state)."""
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        self._check_fits(step, like)
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(like), iterator=ocp.args.JsonRestore())
            restored = self.manager.restore(step, args=items)
        except Exception as error:
            raise CheckpointError(self._unreadable(step, error)) from error
        return restored.state, restored.iterator

    def _check_fits(self, step: int, like: Any) -> None:
        try:
            metadata = self.manager.item_metadata(step)
            stored = {_key(path): tuple(leaf.shape) for path, leaf in _leaves(metadata.state.tree)}
        except Exception as error:
            raise CheckpointError(self._unreadable(step, error)) from error
        wanted = {_key(path): tuple(leaf.shape) for path, leaf in _leaves(like)}
        wrong = [
            f"{name}: {stored.get(name, 'absent')} in the checkpoint, {wanted.get(name, 'absent')} in this run"
            for name in sorted(stored.keys() | wanted.keys())
            if stored.get(name) != wanted.get(name)
        ]
        if wrong:
            shown = "\n  ".join(wrong[:6]) + (f"\n  ... and {len(wrong) - 6} more" if len(wrong) > 6 else "")
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} does not fit this config (another number of classes, model or "
                f"optimiser?):\n  {shown}"
            )

    def _unreadable(self, step: int, error: Exception) -> str:
        reason = str(error).strip().split("\n")[0][:300]
        return (
            f"checkpoint {step} in {self.directory} cannot be read; it may be truncated or of another program. "
            f"It was left as it is: to go on from an earlier one, move {self.directory / str(step)} away. ({reason})"
        )

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def write_json(path: Path, content: Any) -> None:
    """Writes through a temporary file, so that a kill never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(content if isinstance(content, str) else json.dumps(content, indent=2, allow_nan=False))
    temporary.replace(path)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf, "shape")]


def _key(path: Any) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)
