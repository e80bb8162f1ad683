"""What runs on NVIDIA GPUs, compiled for them ahead of time on a machine that has none.

    pip install jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION nvidia-cuda-nvcc-cu12  # the version of your jax
    python -m pytest -n 0 -m gpu_compile tests/ops/test_compile_for_gpu.py

Nothing is executed, so this says that programs compile and what is in them, not that their numbers are right: the tests
of the interpreted kernel say that.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from semiseg_jax.losses import gated_crf
from semiseg_jax.ops import _pairwise_probe, mean_field

pytestmark = [
    pytest.mark.gpu_compile,
    pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="needs jax-cuda12-plugin"),
]

# An H200, but for its generation, its shared memory and its threads.
TARGET = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: {shared}
  threads_per_core_limit: {threads} core_count: 40 fpus_per_core: 64 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 320000000000 l2_cache_size: 4194304
  clock_rate_ghz: 1.59 device_memory_size: 15000000000 shared_memory_per_block_optin: {shared}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "GPU of compute capability {major}.{minor}"
"""
GENERATIONS = {"sm_75": (65536, 1024, 7, 5), "sm_80": (166912, 2048, 8, 0), "sm_90": (232448, 2048, 9, 0)}
CASES = [("sm_75", "xla"), *((name, way) for name in ("sm_80", "sm_90") for way in ("xla", "pallas"))]


@functools.cache
def devices(generation):
    """Two devices that can only be compiled for."""
    jax.devices()  # finds the plugin
    values = dict(zip(("shared", "threads", "major", "minor"), GENERATIONS[generation], strict=True))
    described = topologies.get_topology_desc(
        platform="cuda", topology_name=generation, target_config=TARGET.format(**values), topology="1x2x1"
    )
    return described.devices[:2]


def compiled(function, shapes, on, kind=AxisType.Auto):
    """The program for arrays that are split between the devices `on` by their first axis."""
    mesh = Mesh(np.array(on), ("data",), axis_types=(kind,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spread) for shape in shapes]
    # Autotuning would need a device.
    options = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
    return jax.jit(function).lower(*arguments).compile(compiler_options=options)


@pytest.fixture
def trusting(monkeypatch):
    """Takes the kernel without trying it."""
    monkeypatch.setattr(_pairwise_probe, "usable", lambda: True)


def crf_and_gradient(implementation):
    loss = functools.partial(gated_crf, implementation=implementation)
    return jax.value_and_grad(lambda probs, image: loss(probs, image, where=image[..., 0] < 5.0))


SHAPES = ((8, 65, 81, 21), (8, 65, 81, 3))


@pytest.mark.parametrize(("generation", "implementation"), CASES)
def test_gated_crf_and_mean_field_compile(generation, implementation, trusting):
    one = devices(generation)[:1]
    field = functools.partial(mean_field, implementation=implementation)
    for function in (crf_and_gradient(implementation), field):
        program = compiled(function, SHAPES, one).as_text()
        assert ("__gpu$xla.gpu.triton" in program) == (implementation == "pallas")


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(("generation", "implementation"), CASES)
def test_each_device_filters_its_own_images(generation, implementation, kind, trusting):
    program = compiled(crf_and_gradient(implementation), SHAPES, devices(generation), kind)
    text = program.as_text()
    assert "all-gather" not in text
    assert "f32[8,65,81" not in text
    assert "f32[4,65,81" in text


def test_a_network_and_its_gradient_compile_for_the_oldest_generation():
    from semiseg_jax.models.unet import UNet
    from semiseg_jax.ops.convolution import convolution_form

    model = UNet(num_classes=3, widths=(8, 16))
    image = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def loss(image):
        drawn = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), variables)
        return jnp.sum(model.apply(drawn, image) ** 2)

    with convolution_form("library"):  # tracing happens on a CPU
        program = compiled(jax.value_and_grad(loss), (image.shape,), devices("sm_75")[:1])
    assert "convolution" in program.as_text() or "cudnn" in program.as_text()
