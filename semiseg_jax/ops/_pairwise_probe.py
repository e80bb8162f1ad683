"""Whether the Pallas kernel runs here, found out once in each process."""

import functools
import importlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

CAPABILITY = 8.0  # of an NVIDIA GPU, the least that Triton supports


@functools.cache
def usable() -> bool:
    """Where the kernel does not run, a warning says why, once."""
    # A thread of its own knows nothing of the caller's trace, mesh or settings, so the probe really runs.
    with ThreadPoolExecutor(1) as pool:
        reason = pool.submit(why_not).result()
    if reason is not None:
        warnings.warn(f"implementation='pallas' is not possible here: {reason}; XLA is used instead", stacklevel=4)
    return reason is None


def why_not() -> str | None:
    """None where the kernel runs on the default device, else the reason in words."""
    device = jax.local_devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version.lower():
        return f"the default device is {device.device_kind}, not an NVIDIA GPU"
    if float(device.compute_capability) < CAPABILITY:
        return f"{device.device_kind} has compute capability {device.compute_capability}, Triton needs {CAPABILITY}"
    try:
        importlib.import_module("jax.experimental.pallas.triton")
    except ImportError as error:
        return f"this build of jax has no Triton ({error})"
    return failure("pallas")


def failure(implementation: str) -> str | None:
    """Runs a tiny filter both ways -> None where they agree, else what went wrong."""
    from semiseg_jax.ops.kernels import Affinity, Window
    from semiseg_jax.ops.pairwise import filtered

    rng = np.random.default_rng(0)
    p, plane = (jnp.asarray(rng.uniform(size=shape), jnp.float32) for shape in ((1, 5, 7, 3), (1, 1, 5, 7)))
    affinity = Affinity(plane, jnp.ones(1), jnp.full(1, 0.1))
    try:
        found, expected = (
            np.asarray(filtered(p, affinity, Window(1, ((0, 1),), name))) for name in (implementation, "xla")
        )
    except Exception as error:  # whatever a compiler may say
        return f"it does not compile ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
        return f"it is wrong by {np.abs(found - expected).max():.2g} on a small example"
    return None
