"""Alpha-expansion against all labellings of small grids."""

import itertools
import sys

import numpy as np
import pytest

from semiseg_jax.ops import potts_mrf
from semiseg_jax.ops.mrf import _edges, _energy

pytest.importorskip("maxflow")


def energy(labels, unary, beta, connectivity=4, image=None, contrast=None):
    """Pixel by pixel, straight from the formula."""
    total = sum(unary[y, x, labels[y, x]] for y, x in np.ndindex(labels.shape))
    for a, b in itertools.combinations(np.ndindex(labels.shape), 2):
        distance = np.hypot(a[0] - b[0], a[1] - b[1])
        if distance > (1 if connectivity == 4 else 1.5) or labels[a] == labels[b]:
            continue
        weight = 1.0 if image is None else np.exp(-np.sum((image[a] - image[b]) ** 2) / (2 * contrast**2))
        total += beta / distance * weight
    return total


def least_energy(unary, **options):
    height, width, classes = unary.shape
    labellings = itertools.product(range(classes), repeat=height * width)
    return min(energy(np.array(flat).reshape(height, width), unary, **options) for flat in labellings)


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("coloured", [False, True])
def test_two_classes_are_solved_exactly(connectivity, beta, coloured):
    rng = np.random.default_rng(connectivity)
    unary = rng.uniform(size=(3, 3, 2))
    options = {"beta": beta, "connectivity": connectivity}
    if coloured:
        options |= {"image": rng.uniform(size=(3, 3, 3)), "contrast": 0.4}
    labels = potts_mrf(unary, **options)
    np.testing.assert_allclose(energy(labels, unary, **options), least_energy(unary, **options), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_three_classes_come_close_to_the_least_energy(seed):
    unary = np.random.default_rng(seed).uniform(size=(2, 3, 3))
    options = {"beta": 0.25, "connectivity": 8}
    found = energy(potts_mrf(unary, **options), unary, **options)
    assert least_energy(unary, **options) <= found + 1e-9
    assert found <= 1.1 * least_energy(unary, **options)


def test_the_energy_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    unary, image, labels = rng.uniform(size=(4, 5, 3)), rng.uniform(size=(4, 5, 3)), rng.integers(0, 3, (4, 5))
    expected = energy(labels, unary, 0.7, 8, image, 0.5)
    np.testing.assert_allclose(_energy(labels, unary, _edges((4, 5), 0.7, 8, image, 0.5)), expected, rtol=1e-9)


def test_no_pull_gives_the_argmax_and_a_strong_pull_one_class():
    unary = np.random.default_rng(1).uniform(size=(6, 7, 4))
    np.testing.assert_array_equal(potts_mrf(unary, beta=0.0), unary.argmin(-1))
    assert len(np.unique(potts_mrf(unary, beta=100.0))) == 1


def test_noise_is_removed_and_a_coloured_edge_is_kept():
    rng = np.random.default_rng(2)
    truth = np.zeros((20, 20), int)
    truth[:, 10:] = 1
    image = np.repeat(truth[..., None], 3, -1) * 2.0
    noisy = np.where(rng.uniform(size=truth.shape) < 0.2, 1 - truth, truth)
    probs = np.where(noisy[..., None] == np.arange(2), 0.7, 0.3)
    labels = potts_mrf(-np.log(probs), beta=0.8, image=image, contrast=0.5)
    assert (labels == truth).mean() > 0.98
    assert labels.dtype == np.int32


def test_colours_of_any_type_are_the_same_colours():
    rng = np.random.default_rng(0)
    unary, image = rng.normal(size=(8, 8, 3)), rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    found = [potts_mrf(unary, beta=1.0, image=image.astype(kind), contrast=60.0) for kind in (np.uint8, np.float64)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"connectivity": 6}, "connectivity"),
        ({"beta": -1.0}, "beta"),
        ({"beta": np.nan}, "beta"),
        ({"contrast": 0.5}, "image and contrast"),
        ({"image": np.zeros((3, 3, 1)), "contrast": 0.0}, "contrast"),
        ({"image": np.zeros((4, 3, 1)), "contrast": 0.5}, "image is"),
        ({"image": np.full((3, 3, 1), np.nan), "contrast": 0.5}, "image must be finite"),
        ({"unary": np.zeros((3, 3))}, "unary"),
        ({"unary": np.full((3, 3, 2), np.inf)}, "unary must be finite"),
    ],
)
def test_bad_arguments_are_named(options, named):
    options = {"unary": np.zeros((3, 3, 2)), "beta": 1.0} | options
    with pytest.raises(ValueError, match=f"potts_mrf: .*{named}"):
        potts_mrf(options.pop("unary"), **options)


def test_without_pymaxflow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(ModuleNotFoundError, match="pip install PyMaxflow"):
        potts_mrf(np.zeros((2, 2, 2)), beta=1.0)
