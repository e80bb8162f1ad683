"""Configs of runs, and what runs leave in their workdirs."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from semiseg_jax.engine.checkpoints import Checkpoints

CLOCKED = ("images_per_second", "data_seconds", "checkpoint_seconds", "step_seconds_p50", "step_seconds_p90")
CLOCKED += ("step_seconds_p99", "model_flop_utilisation")


def saved_arrays(workdir: Path, step: int, stage: str = "supervised") -> dict[str, np.ndarray]:
    """Every array of a checkpoint (parameters, optimiser state, average, step, rng) by its path."""
    checkpoints = Checkpoints(workdir / "checkpoints" / stage, read_only=True)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # wherever it was saved
    saved = checkpoints.manager.item_metadata(step).state.tree
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), saved)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    tree = checkpoints.manager.restore(step, args=args).state
    checkpoints.close()
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def logged(workdir: Path, kind: str, stage: str = "") -> dict[int, dict]:
    """The rows of metrics.jsonl by step (of a stage), without what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {
        row["step"]: {k: v for k, v in row.items() if k not in CLOCKED}
        for row in rows
        if row["kind"] == kind and stage in ("", row["stage"])
    }


def assert_same_run(one: Path, other: Path, step: int, stage: str = "supervised") -> None:
    """Checkpoints and metrics at `step` are equal, bit for bit."""
    arrays, others = saved_arrays(one, step, stage), saved_arrays(other, step, stage)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    for kind in ("train", "eval"):
        assert logged(one, kind, stage).get(step) == logged(other, kind, stage).get(step)


def on_folder(config: ConfigDict, root: Path, quota: dict[str, int]) -> None:
    config.data.assign = ConfigDict()
    config.data.quota = ConfigDict(quota)
    config.data.name, config.data.path = "folder", str(root)
