"""What describes a kernel: a `Kernel` or a mapping, with numbers that may be static or traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.losses import gated_crf
from semiseg_jax.ops import Kernel

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(3), (2, 5, 6)).astype(np.float32)
IMAGE = RNG.normal(0, 0.1, (2, 5, 6, 3)).astype(np.float32)
DEPTH = RNG.normal(0, 0.5, (2, 5, 6)).astype(np.float32)


def loss(kernels):
    return gated_crf(PROBS, IMAGE, kernels=kernels, radius=1, features={"depth": DEPTH})


@pytest.mark.parametrize(
    ("kernel", "mapping"),
    [
        (Kernel(xy=6.0, rgb=0.1), {"weight": 1.0, "xy": 6.0, "rgb": 0.1}),
        (Kernel(0.5, rgb=0.2), {"weight": 0.5, "rgb": 0.2}),
        (Kernel(2.0, xy=3.0, others=(("depth", 0.5),)), {"weight": 2.0, "xy": 3.0, "depth": 0.5}),
    ],
)
def test_a_kernel_is_the_mapping_of_its_numbers(kernel, mapping):
    static = jax.jit(loss, static_argnums=0)((kernel,))
    traced, of_mapping = jax.jit(loss)((kernel,)), jax.jit(loss)((mapping,))
    np.testing.assert_allclose([static, traced], [of_mapping, of_mapping], rtol=1e-6)


def test_one_program_serves_every_weight_and_bandwidth_and_they_get_no_gradient():
    traced = []

    @jax.jit
    def value_and_grad(kernels):
        traced.append(1)
        return jax.value_and_grad(loss)(kernels)

    for weight, xy, rgb in ((1.0, 6.0, 0.1), (0.3, 2.0, 0.4)):
        kernels = ({"weight": weight, "xy": xy, "rgb": rgb}, {"weight": 0.2, "xy": xy})
        value, grad = value_and_grad(kernels)
        np.testing.assert_allclose(value, loss(kernels), rtol=1e-6)
        assert not any(map(float, jax.tree.leaves(grad)))
    assert len(traced) == 1


def test_a_number_per_vmapped_element_gives_the_losses_one_by_one():
    weights = jnp.array([0.5, 1.0, 2.0])
    losses = jax.jit(jax.vmap(lambda weight: loss((Kernel(weight, xy=3.0),))))(weights)
    np.testing.assert_allclose(losses, losses[1] * weights, rtol=1e-5)


@pytest.mark.parametrize(
    ("kernels", "error", "message"),
    [
        (
            ({"weight": np.nan, "xy": 6.0},),
            ValueError,
            "kernels has weight nan but a weight must be finite",
        ),
        ((Kernel(-1.0, xy=6.0),), ValueError, "kernels has weight -1.0 but"),
        (({"weight": jnp.float32(np.inf), "xy": 6.0},), ValueError, "kernels has weight .*inf.* but"),
        (({"xy": np.nan},), ValueError, "kernels has xy nan but a bandwidth must be positive"),
        (({"rgb": np.float32(0.0)},), ValueError, "kernels has rgb .*0.0.* but a bandwidth must be positive"),
        (({"xy": None},), TypeError, "kernels has xy None but must be a number"),
        (({"xy": np.ones(2)},), TypeError, "kernels has xy .* but must be a number"),
        ((Kernel(),), ValueError, "kernels has Kernel.* looks at nothing"),
        (
            (Kernel(others=(("heat", 1.0),)),),
            ValueError,
            "unknown key 'heat'; known are weight, xy, depth, rgb",
        ),
        (Kernel(xy=1.0), ValueError, "kernels must be a sequence"),
        ((6.0,), TypeError, "kernels has a float but must hold mappings or Kernels"),
    ],
)
def test_a_wrong_number_raises_an_error_that_names_it(kernels, error, message):
    with pytest.raises(error, match=f"^gated_crf: .*{message}"):
        loss(kernels)
