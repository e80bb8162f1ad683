"""Diffusion over graphs and over the pixel grid, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.ops import grid_diffusion, label_diffusion, self_diffusion


def random_affinity(nodes, seed=0):
    points = np.random.default_rng(seed).normal(size=(nodes, 2))
    return np.exp(-np.sum((points[:, None] - points[None]) ** 2, -1)).astype(np.float32)


def grid_affinity(image, radius, xy_sigma):
    """[H,W,F] -> [HW,HW], the kernel of every pair of pixels in float64."""
    height, width = image.shape[:2]
    pixels = list(np.ndindex(height, width))
    affinity = np.zeros((len(pixels), len(pixels)))
    for i, a in enumerate(pixels):
        for j, b in enumerate(pixels):
            dy, dx = a[0] - b[0], a[1] - b[1]
            if 0 < max(abs(dy), abs(dx)) <= radius:
                squared = (dy * dy + dx * dx) / xy_sigma**2 + np.sum((image[a] - image[b]) ** 2)
                affinity[i, j] = np.exp(-squared / 2)
    return affinity


def two_clusters():
    """Nodes 0-4 and 5-9, tightly joined inside and loosely between."""
    affinity = np.full((10, 10), 0.01, np.float32)
    affinity[:5, :5] = affinity[5:, 5:] = 0.5
    np.fill_diagonal(affinity, 1.0)
    return affinity


sharpen = jax.jit(self_diffusion, static_argnames=("steps", "neighbors"))
solve = jax.jit(label_diffusion)


@jax.jit(static_argnames=("radius", "steps"))
def diffuse(seeds, features, xy_sigma, alpha, *, radius, steps=50):
    return grid_diffusion(seeds, features, xy_sigma=xy_sigma, alpha=alpha, radius=radius, steps=steps)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_self_diffusion_is_the_recursion(steps):
    affinity = random_affinity(9).astype(np.float64)
    transition = affinity / affinity.sum(1, keepdims=True)
    expected = affinity.copy()
    for _ in range(steps):
        expected = expected @ transition + np.eye(9)
    expected /= affinity.sum(1)[None, :]
    np.testing.assert_allclose(sharpen(jnp.asarray(affinity), steps=steps), expected, rtol=1e-5)


def test_self_diffusion_restricted_to_neighbours_cuts_weak_links():
    affinity = two_clusters()
    near = sharpen(affinity, steps=10, neighbors=5)
    # All rows of P stay inside a cluster: what crosses is the untouched start alone.
    assert float(near[:5, 5:].max()) < 0.02
    assert float(near[:5, :5].min()) > 0.2


def test_self_diffusion_of_an_isolated_node_is_finite_and_its_own():
    affinity = random_affinity(6)
    affinity[2] = affinity[:, 2] = 0.0
    diffused = sharpen(affinity)
    assert np.isfinite(diffused).all()
    np.testing.assert_allclose(diffused[2], np.eye(6)[2])
    np.testing.assert_allclose(diffused[:, 2], np.eye(6)[2])


def test_self_diffusion_is_batched_and_differentiable():
    affinity = jnp.stack([random_affinity(5, 0), random_affinity(5, 1)])
    together = sharpen(affinity, steps=4)
    np.testing.assert_allclose(together[1], sharpen(affinity[1], steps=4), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda w: sharpen(w, steps=4))(affinity), together, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda w: sharpen(w, steps=4).sum())(affinity)).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95])
def test_label_diffusion_is_where_the_iteration_ends(alpha):
    affinity = random_affinity(8).astype(np.float64)
    root = 1 / np.sqrt(affinity.sum(1))
    spread = root[:, None] * affinity * root[None]
    seeds = np.eye(8)[:, :3]
    scores = np.zeros_like(seeds)
    for _ in range(2000):
        scores = alpha * spread @ scores + (1 - alpha) * seeds
    found = solve(jnp.asarray(affinity, jnp.float32), jnp.asarray(seeds), alpha=alpha)
    np.testing.assert_allclose(found, scores, atol=1e-5)


def test_label_diffusion_fills_clusters_from_one_seed_each():
    seeds = np.zeros((10, 2), np.float32)
    seeds[0, 0] = seeds[7, 1] = 1.0
    labels = solve(two_clusters(), seeds).argmax(-1)
    np.testing.assert_array_equal(labels, [0] * 5 + [1] * 5)


def test_label_diffusion_of_an_isolated_node_keeps_its_seed():
    affinity = random_affinity(4)
    affinity[1] = affinity[:, 1] = 0.0
    scores = solve(affinity, jnp.eye(4), alpha=0.9)
    np.testing.assert_allclose(scores[1], 0.1 * np.eye(4)[1], atol=1e-6)


def test_grid_diffusion_equals_the_closed_form_of_its_affinity():
    radius = 2
    rng = np.random.default_rng(3)
    image, seeds = rng.normal(size=(5, 6, 2)), np.zeros((5, 6, 3))
    seeds[0, 0, 0] = seeds[4, 1, 1] = seeds[2, 5, 2] = 1.0
    affinity = jnp.asarray(grid_affinity(image, radius, 2.0), jnp.float32)
    expected = solve(affinity, jnp.asarray(seeds.reshape(30, 3), jnp.float32))
    found = diffuse(seeds[None], image[None], 2.0, 0.95, radius=radius)
    np.testing.assert_allclose(found[0].reshape(30, 3), expected, atol=1e-5)


def test_an_image_diffuses_alike_alone_and_beside_another():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 7, 2)) * np.array([0.3, 5.0])[:, None, None, None]
    seeds = rng.uniform(size=(2, 6, 7, 3)) * np.array([1.0, 100.0])[:, None, None, None]
    together = diffuse(seeds, image, 2.0, 0.99, radius=1, steps=10)
    for row in range(2):
        alone = diffuse(seeds[row : row + 1], image[row : row + 1], 2.0, 0.99, radius=1, steps=10)
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_grid_diffusion_spreads_clicks_up_to_the_edges_of_colour():
    truth = np.zeros((24, 24), int)
    truth[6:18, 8:20] = 1
    image = np.repeat(truth[..., None] * 3.0, 3, -1)[None] + np.random.default_rng(0).normal(0, 0.3, (1, 24, 24, 3))
    seeds = np.zeros((1, 24, 24, 2), np.float32)
    seeds[0, 2, 2, 0] = seeds[0, 12, 12, 1] = 1.0
    scores = diffuse(seeds, image, None, 0.99, radius=3, steps=100)
    assert (np.asarray(scores[0].argmax(-1)) == truth).mean() > 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: self_diffusion(jnp.ones((3, 4))), "self_diffusion: affinity"),
        (lambda: self_diffusion(jnp.ones((3, 3)), steps=-1), "self_diffusion: steps"),
        (lambda: self_diffusion(jnp.ones((3, 3)), neighbors=4), "self_diffusion: neighbors"),
        (lambda: label_diffusion(jnp.ones((3, 3)), jnp.ones((4, 2))), "label_diffusion: seeds"),
        (lambda: label_diffusion(jnp.ones((3, 3)), jnp.ones((3, 2)), alpha=1.0), "label_diffusion: alpha"),
        (lambda: grid_diffusion(jnp.ones((1, 3, 3, 2)), None, alpha=np.nan), "grid_diffusion: alpha is nan"),
        (lambda: grid_diffusion(jnp.ones((3, 3)), None), "grid_diffusion: seeds"),
        (lambda: grid_diffusion(jnp.ones((1, 3, 3, 1)), jnp.ones((1, 4, 3, 1))), "grid_diffusion: features"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
