"""Mean-field inference in a locally connected CRF, to sharpen predictions after the network."""

import functools
import numbers
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.ops._checks import check_float, check_mask, check_probs, check_shape, compute_dtype
from semiseg_jax.ops.kernels import Affinity, Kernels, Window, kernel_terms, prepare
from semiseg_jax.ops.pairwise import filtered, only_where


def mean_field(
    probs: jax.Array,
    image: jax.Array,
    *,
    kernels: Kernels = ({"weight": 3.0, "xy": 3.0}, {"weight": 5.0, "xy": 6.0, "rgb": 0.2}),
    radius: int = 5,
    iterations: int = 5,
    compatibility: jax.Array | Sequence[Sequence[float]] | None = None,
    features: Mapping[str, jax.Array] | None = None,
    where: jax.Array | None = None,
    implementation: str | None = None,
) -> jax.Array:
    r"""Mean-field inference of a CRF whose Gaussian kernels reach over a window, as post-processing of a prediction.

    .. math::
      Q_i \leftarrow \mathrm{softmax}\Big(\log P_i - M \sum_{0 < |j-i|_\infty \le r}
      \frac{\sum_m w_m}{\sqrt{n_i n_j}}\, k_{ij} Q_j\Big), \qquad n_i = \sum_m w_m + \sum_j k_{ij}

    with the kernels of `gated_crf` and M = -1 on the diagonal (Potts) or the given costs. Dividing by the kernel's mass
    makes the weights mean the same at every radius: with all neighbours alike, Potts adds almost `sum_m w_m` to the
    logit of their class. Each iteration is one pass of `local_filter`.

    Args:
      probs: [B,H,W,K] predicted class probabilities, any floating dtype; computed in float32.
      image: [B,h,w,3] standardised colours, at the resolution of `probs` or higher.
      kernels: Gaussian terms, each a `semiseg_jax.ops.Kernel` or a mapping with `weight` and the bandwidths `xy`
        (pixels), `rgb` and names of `features`. Their numbers may be traced.
      radius: the window is (2 radius + 1) pixels wide.
      iterations: how often every pixel is updated.
      compatibility: [K,K] cost of each pair of classes; Potts by default.
      features: more modalities by name, [B,h,w] or [B,h,w,F].
      where: [B,H,W] bool, pixels that exist; the others neither pull nor change.
      implementation: as in `local_filter`.

    Returns:
      [B,H,W,K] float32 probabilities.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.ops import mean_field
      >>> probs = jnp.full((1, 9, 9, 2), 0.5).at[..., 0].set(0.8).at[..., 1].set(0.2)
      >>> probs = probs.at[0, 4, 4].set(jnp.array([0.3, 0.7]))  # one pixel disagrees with its neighbours
      >>> image = jnp.zeros((1, 9, 9, 3))  # of the same colour
      >>> print(int(mean_field(probs, image)[0, 4, 4].argmax()))
      0

    References:
      Kraehenbuehl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, 2011;
      Teichmann and Cipolla, Convolutional CRFs for Semantic Segmentation, 2018, for the window.
    """
    name = "mean_field"
    check_shape(name, "probs", probs, ("B", "H", "W", "K"))
    check_float(name, "probs", probs)
    if isinstance(iterations, bool) or not isinstance(iterations, numbers.Integral) or iterations < 0:
        raise ValueError(f"{name}: iterations is {iterations!r} but must be an int of at least 0")
    probs = probs.astype(compute_dtype(probs))
    classes = probs.shape[-1]
    if compatibility is None:
        matrix = -jnp.eye(classes, dtype=probs.dtype)
    else:
        check_shape(name, "compatibility", jnp.asarray(compatibility), (classes, classes))
        matrix = jnp.asarray(compatibility, probs.dtype)
    if where is None:
        valid = jnp.ones(probs.shape[:3], bool)
    else:
        valid = check_mask(name, "where", where, probs.shape[:3])
    check_probs(name, "probs", probs, valid)
    terms = kernel_terms(name, kernels, image, features, probs.shape[:3], valid)
    affinity, window = prepare(name, terms, probs, radius, implementation)
    # What does not exist may hold anything, NaN too.
    known = jnp.where(valid[..., None], probs, 1.0)
    _, affinity = only_where(valid, probs, affinity)
    beliefs = _iterate(known, affinity, matrix, valid.astype(probs.dtype), window, int(iterations))
    return jnp.where(valid[..., None], beliefs, probs)


@functools.partial(jax.jit, static_argnames=("window", "iterations"))
def _iterate(
    probs: jax.Array, affinity: Affinity, matrix: jax.Array, valid: jax.Array, window: Window, iterations: int
) -> jax.Array:
    log_probs = jnp.log(jnp.maximum(probs, 1e-8))
    scale = valid[..., None] * per_root_mass(valid, affinity, window)[..., None]
    weight = jnp.sum(affinity.weights)

    def update(beliefs: jax.Array, _: None) -> tuple[jax.Array, None]:
        message = weight * scale * filtered(scale * beliefs, affinity, window)
        cost = jnp.matmul(message, matrix.T, precision="highest")
        return jax.nn.softmax(log_probs - cost), None

    return lax.scan(update, jax.nn.softmax(log_probs), None, length=iterations)[0]


def per_root_mass(valid: jax.Array, affinity: Affinity, window: Window) -> jax.Array:
    """1 / sqrt(n_i), [B,H,W], of the kernel's mass n_i = sum_m w_m + sum_j k_ij over the valid pixels j."""
    mass = jnp.sum(affinity.weights) + filtered(valid[..., None], affinity, window)[..., 0]
    return lax.rsqrt(jnp.where(mass > 0, mass, 1.0))
