"""Orbax checkpoints of the whole state with the data iterator's, the best and the last kept."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from semiseg_jax.engine import mirror
from semiseg_jax.engine.files import write_whole
from semiseg_jax.engine.parallel import Devices, fetch, is_main
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class Checkpoint(Options):
    """When checkpoints are saved, and which one is the best."""

    every: int = option(0, "steps; 0 = at each evaluation alone", low=0)
    metric: str = option(
        "miou",
        "of the evaluation, by which the best is chosen",
        choices=("miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "boundary_f"),
    )


class CheckpointError(ValueError):
    """A checkpoint that is not there, cannot be read or does not fit; nothing on disk was changed."""


@dataclasses.dataclass(frozen=True)
class _Policy(checkpoint_managers.PreservationPolicy):
    kept: Callable[[Sequence[int]], set[int | None]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        kept = self.kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """False: `parallel.stop_signals` alone asks JAX for the step at which to stop.

        JAX takes the number in the last question for the step at which this process is. A save that asks from the
        background with its own, older one would let the processes agree on a step that they have passed.
        """
        del step
        return False


class Checkpoints:
    """The checkpoints of one stage, and `scores.json` beside them: what each was worth.

    A checkpoint is saved before it is scored, so that a kill during a long evaluation loses no training.
    """

    def __init__(self, directory: Path, metric: str = "miou", *, read_only: bool = False, shared: bool = True):
        """Unless all processes of the run see the same `directory`, each of them keeps all checkpoints in its own."""
        self.directory, self.metric, self.shared = directory, metric, shared
        self.place = mirror.shown(directory)  # as people know it
        if read_only and not directory.is_dir():
            raise CheckpointError(f"{mirror.shown(directory)} does not exist; train first")
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
        own = jax.process_index()
        who = {} if shared else {"primary_host": own, "active_processes": {own}, "barrier_sync_key_prefix": f"{own}"}
        processes = ocp.options.MultiprocessingOptions(**who)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Policy(self._kept),
            create=False,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            multiprocessing_options=processes,
            # Folders made in the background are told of by signals, which all processes of a run would hear.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=shared),
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=processes),
            "iterator": ocp.JsonCheckpointHandler(multiprocessing_options=processes),
        }
        try:
            with _quiet_libraries():
                self.manager = _Manager(directory.absolute(), options=options, item_handlers=handlers)
            scores = directory / "scores.json"
            found = json.loads(scores.read_text()) if scores.exists() else {}
            self.scores: dict[int, dict[str, float]] = {int(step): dict(row) for step, row in found.items()}
        except ValueError as error:  # e.g. the scores are no JSON
            raise CheckpointError(
                f"the checkpoints in {self.place} cannot be read; one of them may be truncated. Nothing was changed: "
                f"move what is broken away to go on from the others. ({error})"
            ) from error

    def _best(self, steps: Sequence[int]) -> int | None:
        """The one of `steps` with the highest score, if any was scored; the last of equal ones."""
        scored = [step for step in sorted(steps, reverse=True) if step in self.scores]
        return max(scored, key=lambda step: self.scores[step].get(self.metric, -1.0), default=None)

    def _kept(self, steps: Sequence[int]) -> set[int | None]:
        return {max(steps, default=None), self._best(steps)}

    def score(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keeps what is a finite number among the metrics of a saved step."""
        numbers = {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}
        self.scores[step] = {name: value for name, value in numbers.items() if np.isfinite(value)}
        self._write_scores()

    def _write_scores(self) -> None:
        if is_main() or not self.shared:
            write_json(self.directory / "scores.json", self.scores)

    def save(self, step: int, state: Any, iterator: Mapping[str, Any]) -> None:
        """Starts saving in the background; a step that is saved already is left alone."""
        if step in self.manager.all_steps():
            return
        state = state if self.shared else _whole_state(state)
        self._check_room(step, state)
        if self.scores.pop(step, None) is not None:  # of a checkpoint that was moved away since
            self._write_scores()
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), iterator=ocp.args.JsonSave(dict(iterator)))
        with _quiet_libraries():
            self.manager.save(step, args=items, force=True)

    def _check_room(self, step: int, state: Any) -> None:
        """Raises where the disk is too full: the libraries would say so in hundreds of lines."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            self.wait()
            last = self.latest()
            kept = f"the last one is of step {last}" if last is not None else "none was saved yet"
            raise OSError(
                f"the checkpoint of step {step} needs {needed / 2**20:,.0f} MiB, but the disk of {self.directory} has "
                f"{free / 2**20:,.0f} MiB left; {kept}. Make room, and the same command goes on from there."
            )

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def choose(self, which: str) -> int:
        """The step of "best" (or the last one, where none has metrics), "last" or a step number."""
        steps = self.manager.all_steps()
        if not steps:
            raise CheckpointError(f"{self.place} holds no finished checkpoint; train first")
        if which == "best":
            best = self._best(steps)
            return max(steps) if best is None else best
        if which == "last":
            return max(steps)
        if not which.isdigit() or int(which) not in steps:
            raise CheckpointError(f"no checkpoint {which!r} in {self.place}; there are: best, last, {steps}")
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

    def like(self, shapes: Any, devices: Devices) -> Any:
        """What `restore` takes to make a state like this on the devices, or on this host if it reads alone."""
        if self.shared:
            return devices.like(shapes)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes)

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
                f"checkpoint {step} in {self.place} does not fit this config (another number of classes, model or "
                f"optimiser?):\n  {shown}"
            )

    def _unreadable(self, step: int, error: Exception) -> str:
        reason = str(error).strip().split("\n")[0][:300]
        return (
            f"checkpoint {step} in {self.place} cannot be read; it may be truncated or of another program. "
            f"It was left as it is: to go on from an earlier one, move {self.place}/{step} away. ({reason})"
        )

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def finish(self) -> None:
        """Waits for what is being saved, and deletes a best one that the last score has beaten."""
        self.wait()
        steps = self.manager.all_steps()
        for step in set(steps) - self._kept(steps):
            self.manager.delete(step)

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def write_json(path: Path, content: Any) -> None:
    """Writes what is no text yet as JSON, through a temporary file."""
    write_whole(path, content if isinstance(content, str) else json.dumps(content, indent=2, allow_nan=False))


SHARDED_ALONE = (
    "the state is sharded over several processes, which only a folder that all of them see can hold: use one as "
    "--workdir, and copy it to the store afterwards"
)


def _whole_state(state: Any) -> Any:
    """The state on this host, which can save it alone."""
    if not all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)):
        raise ValueError(SHARDED_ALONE)
    return fetch(state)


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf, "shape")]


def _key(path: Any) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Holds back warnings that libraries log through absl and that say nothing to our users."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
