"""Compiles the train steps of a config for a topology: the process that `semiseg preflight` starts.

It is a process of its own because compilers abort. It reads one line of JSON, a job, and writes a line of JSON as each
stage starts and as it is done. It ends when its input is closed.
"""

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from semiseg_jax.config import from_json, settings
from semiseg_jax.data.fields import USUAL_CANVAS
from semiseg_jax.data.pipeline import Layout
from semiseg_jax.engine import hardware
from semiseg_jax.engine.collectives import collectives
from semiseg_jax.engine.operations import products
from semiseg_jax.engine.parallel import AXIS, Devices, rows_per_device
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import Stage, make_method
from semiseg_jax.ops.convolution import convolution_form
from semiseg_jax.verbs.train import guard
from semiseg_jax.verbs.workdir import dummy_batch

GEOMETRY = {"points": 32, "strokes": 32, "boxes": 16}  # of an image, where no dataset is asked


def main() -> None:
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    topology = hardware.Topology.parse(job["topology"])
    if topology.chip.platform == hardware.CPUS:
        jax.config.update("jax_num_cpu_devices", topology.count)
    try:
        config = with_weights(settings(from_json(job["config"])), job["classes"])
        stages = [stage for stage in make_method(config, job["classes"]).stages() if wanted(stage.name, job)]
        devices = hardware.devices_of(topology)
    except (ValueError, jax.errors.JaxRuntimeError) as error:  # no such slice, or a config that cannot run
        _say(event="refused", error=str(error))
        return
    for stage in stages:
        _say(event="start", stage=stage.name)
        # What is traced here would else suit the CPU that traces it.
        with convolution_form("auto" if topology.chip.platform == hardware.CPUS else "library"):
            found = compile_stage(stage, topology, devices, job["classes"], quick=job["quick"])
        _say(event="done", stage=stage.name, **found)


def wanted(stage: str, job: Mapping[str, Any]) -> bool:
    return stage not in job["skip"] and (not job["only"] or stage in job["only"])


def with_weights(config: Settings, classes: int) -> Settings:
    """With weights of classes that no dataset was asked for; they change no program."""
    if not config.balance_classes:
        return config
    return config.replace(class_weights=(1.0,) * classes, balance_classes=0.0)


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _end_with_input() -> None:
    sys.stdin.read()  # nothing more is sent: it ends when the other side is closed, or gone
    os._exit(0)


def compile_stage(
    stage: Stage, topology: hardware.Topology, devices: np.ndarray, classes: int, *, quick: bool = False
) -> dict[str, Any]:
    """What the compiled step of one stage needs, or why there is none."""
    try:
        traced, state, batch = trace(stage, devices, classes)
        lowered = traced.lower()
    except ValueError as error:
        return {"problem": "batch" if "batch" in str(error) else "error", "error": str(error)}
    start = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=hardware.compiler_options(topology, quick=quick))
    except jax.errors.JaxRuntimeError as error:
        return {"seconds": time.monotonic() - start, **out_of_memory(str(error))}
    config, chip = stage.config, topology.chip
    memory = memory_of(compiled, state, batch)
    operations, moved = products(traced.jaxpr)
    cost = compiled.cost_analysis() or {}
    return {
        "seconds": round(time.monotonic() - start, 1),
        "dtype": config.dtype,
        "images": batch["seed"].shape[0],
        "crop": list(config.augment.crop),
        "gradients": sum(leaf.size * leaf.dtype.itemsize for leaf in agreed_on(state)),
        "memory": memory,
        "fits": memory["total"] <= chip.memory,
        **sent_of(compiled),
        "operations": operations,
        # A compiler that leaves products to libraries does not count what they read and write.
        "traffic": max(moved, float(cost.get("bytes accessed", 0.0))),
        "compiler": {"operations": cost.get("flops"), "traffic": cost.get("bytes accessed")},
    }


def trace(stage: Stage, devices: np.ndarray, classes: int) -> tuple[Any, Any, Mapping[str, Any]]:
    """-> (the stage's step, traced for the devices, shapes of its state and of its batch)"""
    config = stage.config
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    mapped = Devices(mesh, "shard_map", config.shard_state)  # pmap sends the same, and holds as much
    rows = rows_per_device(config.batch_size, sum(config.data.quota.values()), mapped.count, config.accumulate)
    state = jax.eval_shape(stage.init, jax.random.PRNGKey(0), dummy_batch(config.augment.crop, classes))
    state = mapped.like(state)
    layout = Layout(canvas_of(config), **GEOMETRY)
    batch = example_shapes(layout, classes, rows * mapped.count * config.accumulate, mapped)
    step: Any = mapped.map(guard(stage, config.augment))
    return step.trace(state, batch), state, batch


def canvas_of(config: Settings) -> tuple[int, int]:
    """Where images lie before they are augmented; no dataset is asked how large they are."""
    height, width = config.data.canvas
    return (height or USUAL_CANVAS, width or USUAL_CANVAS)


def example_shapes(layout: Layout, classes: int, rows: int, devices: Devices) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a batch of `Example`, split between devices."""
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((*layout.canvas, 3), np.uint8),
        "mask": (layout.canvas, np.uint8),
        "points": ((layout.points, 3), np.float32),
        "strokes": ((layout.strokes, 5), np.float32),
        "boxes": ((layout.boxes, 4), np.float32),
        "box_class": ((layout.boxes,), np.int32),
        "tags": ((classes,), np.int8),
        "size": ((2,), np.int32),
        "seed": ((), np.uint32),
        "kind": ((), np.int32),
        "id": ((2,), np.int32),
    }
    split = NamedSharding(devices.mesh, P(AXIS))
    return {key: jax.ShapeDtypeStruct((rows, *shape), kind, sharding=split) for key, (shape, kind) in shapes.items()}


def memory_of(compiled: Any, state: Any, batch: Any) -> dict[str, int]:
    """Bytes that one device holds while the step runs, by what they are."""
    networks = state.networks.values()
    stats = compiled.memory_analysis()
    found = {
        "parameters": held([network.params for network in networks]),
        "statistics": held([network.batch_stats for network in networks]),
        "optimizer": held([network.opt_state for network in networks]),
        "averages": held([network.ema for network in networks]),
        "batch": held(batch),
        "temporaries": stats.temp_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    total = stats.argument_size_in_bytes + sum(found[name] for name in ("temporaries", "results", "program"))
    return {**found, "total": total}


def agreed_on(state: Any) -> list[Any]:
    """Arrays whose change devices have to agree on at each step: parameters, and statistics of batches."""
    return jax.tree.leaves([network.variables for network in state.networks.values()])


def held(tree: Any) -> int:
    """Bytes of the arrays of a tree on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "shape")
    )


def sent_of(compiled: Any) -> dict[str, Any]:
    """What a step sends between devices: how often, and how many bytes."""
    found = collectives(compiled.as_text())
    return {
        "collectives": {kind: {"count": count, "bytes": size} for kind, (count, size) in found.items()},
        "sent": sum(size for _, size in found.values()),
    }


def out_of_memory(message: str) -> dict[str, Any]:
    """What a compiler says that ran out of a device's memory, or of something else.

    >>> out_of_memory("RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded ...")["memory"]
    {'total': 22011707392}
    """
    line = next((line for line in message.splitlines() if line.strip()), "")
    if "RESOURCE_EXHAUSTED" not in message:
        return {"problem": "error", "error": line}
    found: dict[str, Any] = {"problem": "memory", "fits": False, "error": line}
    if used := re.search(r"[Uu]sed ([\d.]+)([KMGT]) of", message):
        found["memory"] = {"total": int(float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1))}
    return found


if __name__ == "__main__":
    main()
