"""Accelerators by their stated numbers, and devices that a program can be compiled for where they are not.

Numbers are those that the makers state: TPUs cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; GPUs NVIDIA's data
sheets of T4, L4, A100 (80 GB SXM), H100 SXM and H200 SXM, without sparsity. The network beyond a machine is that of a
usual cluster: one adapter a GPU of 200 Gb/s beside an A100 and of 400 Gb/s beside H100 and H200 (NVIDIA DGX), and for
T4 and L4 the share of a GPU in the 100 Gb/s of a cloud's machine with eight. What JAX multiplies float32 with, by
default, is bfloat16 on a TPU and TF32 on NVIDIA GPUs from Ampere on.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

GPU_SHARE = 0.75  # of a GPU's memory that JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
CPUS = "cpu"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator. Rates are a second; nothing is measured here."""

    kind: str
    platform: str  # of JAX: tpu, cuda or cpu
    memory: float  # bytes that a program may use
    bfloat16: float = 0.0  # operations of products, an addition being one
    float32: float = 0.0  # the same, as JAX multiplies float32 by default
    bandwidth: float = 0.0  # bytes between the chip and its memory
    link: float = 0.0  # bytes that a chip sends to its neighbours in a machine or slice, all directions together
    group: int = 1  # chips that such links join
    network: float = 0.0  # bytes a chip that leave the group
    target: str = ""  # what XLA is told of a GPU


_GPU = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: {per_core}
  threads_per_core_limit: {threads} core_count: {cores} fpus_per_core: {fpus} block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {cache}
  clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {shared}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{name}"
"""


def _tpu(kind: str, gib: int, tflops: float, bandwidth: float, link: float, group: int) -> Chip:
    """`network` is 100 Gb/s of a host with four chips, the least of all generations."""
    products = tflops * 1e12
    return Chip(kind, "tpu", gib * 2**30, products, products, bandwidth * 1e9, link * 1e9, group, 100e9 / 8 / 4)


def _gpu(
    kind: str,
    gb: float,
    tflops: tuple[float, float],
    bandwidth: float,
    link: float,
    network: float,
    core: dict[str, Any],
) -> Chip:
    memory, rate = int(gb * 1e9), int(bandwidth * 1e9)
    target = _GPU.format(name=kind, memory=memory, bandwidth=rate, **core)
    bfloat16, float32 = (1e12 * value for value in tflops)
    return Chip(kind, "cuda", GPU_SHARE * memory, bfloat16, float32, rate, link * 1e9, 8, network * 1e9, target=target)


_TURING = {"major": 7, "minor": 5, "threads": 1024, "per_core": 65536, "shared": 65536, "cache": 4194304,
           "cores": 40, "fpus": 64, "clock": 1.59}  # fmt: skip
_AMPERE = {"major": 8, "minor": 0, "threads": 2048, "per_core": 167936, "shared": 166912, "cache": 41943040,
           "cores": 108, "fpus": 64, "clock": 1.41}  # fmt: skip
_ADA = {"major": 8, "minor": 9, "threads": 1536, "per_core": 102400, "shared": 101376, "cache": 50331648,
        "cores": 58, "fpus": 128, "clock": 2.04}  # fmt: skip
_HOPPER = {"major": 9, "minor": 0, "threads": 2048, "per_core": 233472, "shared": 232448, "cache": 52428800,
           "cores": 132, "fpus": 128, "clock": 1.98}  # fmt: skip

CHIPS = {
    "v4": _tpu("TPU v4", 32, 275, 1228, 300, 4096),  # 2400 Gb/s over six links
    "v5e": _tpu("TPU v5e", 16, 197, 819, 200, 256),  # 1600 Gb/s over four
    "v5p": _tpu("TPU v5p", 95, 459, 2765, 600, 8960),  # 4800 Gb/s over six
    "v6e": _tpu("TPU v6e", 32, 918, 1640, 448, 256),  # 3584 Gb/s over four
    "t4": _gpu("Tesla T4", 16, (65, 8.1), 320, 16, 1.56, _TURING),  # has no bfloat16: products are float16's
    "l4": _gpu("NVIDIA L4", 24, (121, 60), 300, 32, 1.56, _ADA),
    "a100": _gpu("NVIDIA A100", 80, (312, 156), 2039, 300, 25, _AMPERE),
    "h100": _gpu("NVIDIA H100", 80, (989, 494), 3350, 450, 50, _HOPPER),
    "h200": _gpu("NVIDIA H200", 141, (989, 494), 4800, 450, 50, _HOPPER),
}
# Which package holds a platform's compiler, and the extra that installs it.
_COMPILERS = {
    "tpu": (("libtpu",), "libtpu", "tpu-preflight"),
    "cuda": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "the CUDA plugin of this jax", "gpu-preflight"),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """So many chips of one kind, in a shape."""

    name: str  # as it was asked for
    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @classmethod
    def parse(cls, text: str) -> "Topology":
        """Reads "v5e:2x4", "v4:2x2x2", "h200:8", "h100" (one) or "cpu:2".

        >>> Topology.parse("v5e:2x4").count
        8
        """
        kind, _, shape = text.strip().lower().partition(":")
        if kind not in (*CHIPS, CPUS) or not re.fullmatch(r"|[1-9]\d*(x[1-9]\d*)*", shape):
            raise ValueError(
                f"topology {text!r} must be KIND:SHAPE, such as v5e:2x4, v4:2x2x2, h200:8 or cpu:2; known kinds: "
                f"{', '.join((*CHIPS, CPUS))}"
            )
        sides = tuple(int(side) for side in shape.split("x")) if shape else (1,)
        chip = CHIPS[kind] if kind != CPUS else Chip("CPU", CPUS, _memory_here() / math.prod(sides))
        axes = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}.get(kind, 1)
        if len(sides) != axes:
            shown = {1: "a number, such as h200:8", 2: "ROWSxCOLUMNS, such as v5e:2x4", 3: "AxBxC, such as v4:2x2x2"}
            raise ValueError(f"topology {text!r}: the shape of {kind} is {shown[axes]}")
        return cls(f"{kind}:{shape or 1}", chip, sides)


def _memory_here() -> float:
    """Bytes of this machine's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def check_compiler(topology: Topology) -> None:
    """Raises where the compiler for a topology is not installed."""
    platform = topology.chip.platform
    if platform == CPUS:
        return
    modules, what, extra = _COMPILERS[platform]
    if not any(importlib.util.find_spec(module) for module in modules):
        raise ValueError(f"compiling for {topology.name} needs {what}: pip install 'semiseg-jax[{extra}]'")


def devices_of(topology: Topology) -> np.ndarray:
    """Devices to compile for. Those of a CPU are real; set `jax_num_cpu_devices` before JAX is used."""
    check_compiler(topology)
    here = jax.devices(CPUS)  # finds the plugins, too
    chip, count = topology.chip, topology.count
    if chip.platform == CPUS:
        return np.array(here[:count])
    if chip.platform == "tpu":
        options: dict[str, Any] = {}
        if count < 4:  # a slice smaller than a host has to be told so
            options["chips_per_host_bounds"] = [*topology.shape, 1][:3]
        if topology.name.startswith("v4"):  # whose two cores are one device, as JAX has them on a real one
            options["chip_config_name"] = "megacore"
        return np.array(topologies.get_topology_desc(topology.name, "tpu", **options).devices).reshape(-1)
    hosts = count // chip.group if count % chip.group == 0 else 1
    described = topologies.get_topology_desc(
        platform="cuda",
        topology_name=topology.name,
        target_config=chip.target,
        topology=f"1x{hosts}x{count // hosts}",
    )
    return np.array(described.devices).reshape(-1)


def compiler_options(topology: Topology, *, quick: bool = False) -> dict[str, bool | int | float]:
    """What a compiler without its device has to do without: trying out kernels. A TPU's may also be in a hurry."""
    if quick and topology.chip.platform == "tpu":
        return {"exec_time_optimization_effort": -1.0}
    if topology.chip.platform == "cuda":
        return {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
    return {}
