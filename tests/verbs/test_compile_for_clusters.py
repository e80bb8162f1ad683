"""The steps of every method, compiled for TPU slices and GPUs on a machine that has neither. By hand:

    pip install 'semiseg-jax[tpu-preflight]'          # or [gpu-preflight]
    python -m pytest -n 0 -m tpu_compile tests/verbs/test_compile_for_clusters.py        # or gpu_compile

CI runs one of them, `-k one_step`, where libtpu installs.
"""

import importlib.util

import pytest

from semiseg_jax import load_config
from semiseg_jax.verbs.preflight import preflight

METHODS = ("adversarial", "gated_crf", "label_uncertainty", "total_variation", "transfer:strong=disk")


def without(*modules):
    absent = not any(importlib.util.find_spec(module) for module in modules)
    return pytest.mark.skipif(absent, reason=f"needs {modules[0]}")


def check(spec, topology):
    config = load_config(spec)
    config.augment.crop = (64, 64)
    report = preflight(config, topology, classes=6, propose=False, quick=True)
    assert report.fits, str(report)
    for row in report.rows:
        assert row["sent"] <= 1.05 * row["gradients"], str(report)


@pytest.mark.tpu_compile
@without("libtpu")
def test_one_step_compiles_for_a_tpu_slice():
    config = load_config("supervised")
    config.model.widths = (16, 32)
    config.augment.crop = (32, 32)
    assert preflight(config, "v5e:2x4", classes=3, propose=False).fits


@pytest.mark.tpu_compile
@without("libtpu")
@pytest.mark.parametrize("topology", ["v5e:2x4", "v4:2x2x2", "v6e:2x4"])
@pytest.mark.parametrize("spec", METHODS)
def test_every_method_compiles_for_tpu_slices(spec, topology):
    check(spec, topology)


@pytest.mark.gpu_compile
@without("jax_cuda12_plugin", "jax_cuda13_plugin")
@pytest.mark.parametrize("topology", ["t4:2", "a100:2", "h200:2"])
@pytest.mark.parametrize("spec", METHODS)
def test_every_method_compiles_for_gpus(spec, topology):
    check(spec, topology)
