"""Diffusion of affinities and labels over a graph of superpixels, or over the pixel grid."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.sparse.linalg import cg

from semiseg_jax.ops._checks import check_float, check_shape, compute_dtype, concrete
from semiseg_jax.ops.kernels import prepare
from semiseg_jax.ops.pairwise import Features, Sigmas, filtered, plain_terms, without_explicit_axes


def self_diffusion(affinity: jax.Array, *, steps: int = 20, neighbors: int | None = None) -> jax.Array:
    r"""Sharpens an affinity matrix by letting it diffuse over its own graph.

    .. math::
      W_0 = W, \quad W_{t+1} = W_t P + I, \quad P = D^{-1} W, \qquad W^* = W_T D^{-1}

    with D the row sums. Nodes that share many neighbours come closer. Scores of labels are `W* @ seeds`.

    Args:
      affinity: [...,N,N], at least 0, any floating dtype; computed in float32.
      steps: T. The constant mode grows with T, so T stays finite; 20 suits a few hundred superpixels.
      neighbors: rows of P keep their largest `neighbors` entries (ties are kept); all by default.

    Returns:
      [...,N,N]. A node without neighbours keeps an affinity of 1 to itself and none to others.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.ops import self_diffusion
      >>> chain = jnp.eye(3, k=1) + jnp.eye(3, k=-1) + jnp.eye(3)  # 0 - 1 - 2
      >>> print(bool(self_diffusion(chain)[0, 2] > 0))  # the ends now know each other
      True

    References:
      Wang and Tu, Affinity Learning via Self-diffusion for Image Segmentation and Clustering, CVPR 2012.
    """
    name = "self_diffusion"
    _check_affinity(name, affinity)
    if steps < 0:
        raise ValueError(f"{name}: steps is {steps} but must be at least 0")
    affinity = affinity.astype(compute_dtype(affinity))
    nodes = affinity.shape[-1]
    transition = affinity
    if neighbors is not None:
        if not 1 <= neighbors <= nodes:
            raise ValueError(f"{name}: neighbors is {neighbors} but must be between 1 and {nodes}")
        least = lax.top_k(affinity, neighbors)[0][..., -1:]
        transition = jnp.where(affinity >= least, affinity, 0.0)
    transition *= _inverse(jnp.sum(transition, axis=-1))[..., None]
    identity = jnp.eye(nodes, dtype=affinity.dtype)

    def step(current: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.matmul(current, transition, precision="highest") + identity, None

    diffused = lax.scan(step, affinity, None, length=steps)[0]
    degree = jnp.sum(affinity, axis=-1)
    return diffused * jnp.where(degree > 0, _inverse(degree), 1.0)[..., None, :]


def label_diffusion(affinity: jax.Array, seeds: jax.Array, *, alpha: float = 0.95) -> jax.Array:
    r"""Where diffusion of labels over a graph ends, in closed form.

    .. math::
      F = (1 - \alpha) (I - \alpha D^{-1/2} W D^{-1/2})^{-1} Y

    Args:
      affinity: [...,N,N], symmetric, at least 0, any floating dtype; computed in float32.
      seeds: [...,N,C] what is known at each node.
      alpha: in [0,1): how much a node takes from its neighbours instead of its own seed.

    Returns:
      [...,N,C]. A node without neighbours keeps (1 - alpha) of its seed.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.ops import label_diffusion
      >>> chain = jnp.eye(4, k=1) + jnp.eye(4, k=-1)  # 0 - 1 - 2 - 3, labelled at both ends
      >>> seeds = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
      >>> print(label_diffusion(chain, seeds).argmax(-1))
      [0 0 1 1]

    References:
      Zhou et al., Learning with Local and Global Consistency, 2004.
    """
    name = "label_diffusion"
    _check_affinity(name, affinity)
    _check_alpha(name, alpha)
    check_shape(name, "seeds", seeds, (*affinity.shape[:-1], "C"))
    affinity = affinity.astype(compute_dtype(affinity))
    root = jnp.sqrt(_inverse(jnp.sum(affinity, axis=-1)))
    spread = alpha * root[..., :, None] * affinity * root[..., None, :]
    identity = jnp.eye(affinity.shape[-1], dtype=affinity.dtype)
    return (1.0 - alpha) * jnp.linalg.solve(identity - spread, seeds.astype(affinity.dtype))


def grid_diffusion(
    seeds: jax.Array,
    features: Features,
    *,
    radius: int = 5,
    xy_sigma: Sigmas = None,
    alpha: float | jax.Array = 0.95,
    steps: int = 50,
    implementation: str | None = None,
) -> jax.Array:
    r"""Label diffusion over the pixel grid: `label_diffusion` with the kernel of `local_filter` as affinity.

    The matrix is never built: conjugate gradients solve for the F of each image with one filter pass a step.

    Args:
      seeds: [B,H,W,C] what is known at each pixel, any floating dtype; computed in float32.
      features: as in `local_filter`.
      radius: as in `local_filter`.
      xy_sigma: as in `local_filter`.
      implementation: as in `local_filter`.
      alpha: in [0,1): how much a pixel takes from its neighbours instead of its own seed.
      steps: conjugate-gradient steps at most; 50 reach about 1e-4 of the closed form at alpha 0.95.

    Returns:
      [B,H,W,C] float32.

    Examples:
      >>> import jax.numpy as jnp
      >>> from semiseg_jax.ops import grid_diffusion
      >>> image = jnp.zeros((1, 1, 6, 1)).at[:, :, 3:].set(9.0)  # dark | bright
      >>> seeds = jnp.zeros((1, 1, 6, 2)).at[0, 0, 0, 0].set(1.0).at[0, 0, 5, 1].set(1.0)
      >>> print(grid_diffusion(seeds, image, radius=1).argmax(-1))
      [[[0 0 0 1 1 1]]]
    """
    name = "grid_diffusion"
    check_shape(name, "seeds", seeds, ("B", "H", "W", "C"))
    check_float(name, "seeds", seeds)
    _check_alpha(name, alpha)
    seeds = seeds.astype(compute_dtype(seeds))
    terms = plain_terms(name, seeds.shape[:3], features, xy_sigma, None)
    affinity, window = prepare(name, terms, seeds, radius, implementation)
    alpha = jnp.asarray(alpha, seeds.dtype)

    def solve(seeds: jax.Array, planes: jax.Array) -> jax.Array:
        seeds, mine = seeds[None], affinity._replace(planes=planes[:, None])
        root = jnp.sqrt(_inverse(filtered(jnp.ones_like(seeds[..., :1]), mine, window)))

        def remainder(scores: jax.Array) -> jax.Array:
            return scores - alpha * root * filtered(root * scores, mine, window)

        solution: jax.Array = cg(remainder, (1.0 - alpha) * seeds, maxiter=steps, tol=1e-6)[0]
        return solution[0]

    # Steps and step sizes of one image are no business of the others.
    every_image = jax.vmap(solve, in_axes=(0, 1))
    return without_explicit_axes(every_image, seeds)(seeds, affinity.planes)


def _check_affinity(name: str, affinity: jax.Array) -> None:
    shape = np.shape(affinity)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"{name}: affinity is {list(shape)} but must be [...,N,N]")
    check_float(name, "affinity", affinity)


def _check_alpha(name: str, alpha: float | jax.Array) -> None:
    seen = concrete(alpha)
    if seen is not None and not 0.0 <= seen < 1.0:
        raise ValueError(f"{name}: alpha is {alpha} but must be in [0,1)")


def _inverse(degree: jax.Array) -> jax.Array:
    """1 / degree, and 0 for nodes without neighbours."""
    return jnp.where(degree > 0, 1.0 / jnp.where(degree > 0, degree, 1.0), 0.0)
