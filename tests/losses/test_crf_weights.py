"""gated_crf: which pixels count, what they count, and what is returned."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_devices import loss_and_grad_on_two_devices

from semiseg_jax.losses import gated_crf
from semiseg_jax.ops import Kernel

SHAPE = (2, 6, 7, 3)
COSTS = np.array([[0.0, 1.0, 3.0], [0.5, 0.0, 0.5], [2.0, 0.1, 0.0]], np.float32)
KERNELS = (Kernel(0.9, xy=3.0, rgb=0.1), Kernel(0.2, xy=1.0))
crf = functools.partial(gated_crf, kernels=KERNELS, radius=2)
run = jax.jit(jax.value_and_grad(crf), static_argnames="normalize")
each = jax.jit(functools.partial(crf, reduction="none"), static_argnames="normalize")
RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(3), SHAPE[:3]).astype(np.float32)
IMAGE = RNG.normal(0.05, 0.08, (*SHAPE[:3], 3)).astype(np.float32)
SOURCE, TARGET, WHERE = RNG.uniform(size=(3, *SHAPE[:3])) < 0.7
WEIGHTS = RNG.uniform(0.1, 0.9, SHAPE[:3]).astype(np.float32)


def assert_close(found, expected, rtol=1e-5, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


@pytest.mark.parametrize("masks", [{}, {"source_mask": SOURCE}, {"source_mask": SOURCE, "target_mask": TARGET}])
def test_where_is_both_masks_at_once_and_joins_them_by_and(masks):
    joined = {name: masks.get(name, True) & WHERE for name in ("source_mask", "target_mask")}
    assert_close(run(PROBS, IMAGE, where=WHERE, **masks), run(PROBS, IMAGE, **joined))


@pytest.mark.parametrize("normalize", [False, True])
def test_padding_under_where_changes_nothing_and_may_hold_nan(normalize):
    pads = [(0, 0), (0, 3), (2, 1), (0, 0)]
    probs, image = (np.pad(array, pads, constant_values=np.nan) for array in (PROBS, IMAGE))
    loss, grad = run(probs, image, where=np.pad(np.ones(SHAPE[:3], bool), pads[:3]), normalize=normalize)
    expected, expected_grad = run(PROBS, IMAGE, normalize=normalize)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(grad[:, :6, 2:9], expected_grad, rtol=1e-5, atol=1e-7)
    assert float(jnp.abs(grad).sum()) == pytest.approx(float(jnp.abs(expected_grad).sum()), rel=1e-5)


def test_where_may_be_finer_than_the_prediction_and_a_pixel_counts_if_all_of_it_does():
    fine = np.repeat(np.repeat(WHERE, 2, 1), 2, 2)
    fine[0, 4, 6] = False
    coarse = WHERE.copy()
    coarse[0, 2, 3] = False
    assert_close(run(PROBS, IMAGE, where=fine), run(PROBS, IMAGE, where=coarse))


def pairwise_energy(weights, target):
    """sum_ij t_i w_j k_ij (1 - <p_i, p_j>), by one call for each pixel that pulls."""
    total = 0.0
    for position in np.ndindex(SHAPE[:3]):
        if weights[position]:
            source = np.zeros(SHAPE[:3], bool)
            source[position] = True
            total += weights[position] * float(sums(source, target))
    return total


@jax.jit
def sums(source, target):
    return crf(PROBS, IMAGE, source_mask=source, target_mask=target, reduction="sum")


def test_the_loss_is_the_weighted_mean_over_the_pixels_that_pull():
    weights = WEIGHTS * SOURCE
    found = run(PROBS, IMAGE, source_mask=SOURCE, target_mask=TARGET, weights=WEIGHTS)[0]
    expected = pairwise_energy(weights, TARGET) / weights.sum() * SOURCE.sum() / TARGET.sum()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"source_mask": SOURCE}, {"where": WHERE, "compatibility": COSTS}])
def test_equal_weights_change_nothing_and_only_ratios_matter(options):
    plain, *equal = (run(PROBS, IMAGE, weights=w, **options) for w in (None, np.ones_like(WEIGHTS), WEIGHTS * 0 + 0.01))
    for one in equal:
        assert_close(one, plain)
    assert_close(*(run(PROBS, IMAGE, weights=WEIGHTS * scale, **options) for scale in (0.1, 7.0)))


def test_pixels_of_weight_0_do_not_pull_and_weights_of_nothing_give_exactly_zero():
    weights = np.where(SOURCE, 0.3, 0.0).astype(np.float32)
    loss = run(PROBS, IMAGE, weights=weights)[0]
    scaled = run(PROBS, IMAGE, source_mask=SOURCE, target_mask=np.ones_like(SOURCE))[0] * SOURCE.size / SOURCE.sum()
    np.testing.assert_allclose(loss, scaled, rtol=1e-5)
    loss, grad = run(PROBS, IMAGE, weights=weights * 0)
    assert float(loss) == 0.0
    assert not np.any(grad)


def test_weights_under_where_false_may_be_nan_where_they_are_traced():
    weights = np.where(WHERE, WEIGHTS, np.nan)
    assert_close(run(PROBS, IMAGE, where=WHERE, weights=weights), run(PROBS, IMAGE, where=WHERE, weights=WEIGHTS))


@pytest.mark.parametrize(
    ("options", "normalize"),
    [({}, False), ({"compatibility": COSTS}, True), ({"where": WHERE, "weights": WEIGHTS}, True)],
)
def test_what_each_centre_pays_adds_up_to_the_loss(options, normalize):
    paid = each(PROBS, IMAGE, normalize=normalize, **options)
    assert paid.shape == SHAPE[:3]
    count = WHERE.sum() if "where" in options else WHERE.size
    loss = run(PROBS, IMAGE, normalize=normalize, **options)[0]
    np.testing.assert_allclose(paid.sum() / count, loss, rtol=1e-5)
    if "where" in options:
        assert not np.any(np.asarray(paid)[~WHERE])
        assert np.all(np.asarray(paid)[WHERE] >= 0)


def test_the_sum_is_the_mean_times_the_count_and_each_reduction_has_its_gradient():
    loss, grad = run(PROBS, IMAGE, where=WHERE)
    total, of_sum = jax.jit(jax.value_and_grad(functools.partial(crf, reduction="sum")))(PROBS, IMAGE, where=WHERE)
    assert_close((total / WHERE.sum(), of_sum / WHERE.sum()), (loss, grad))
    of_each = jax.jit(jax.grad(lambda p: crf(p, IMAGE, where=WHERE, reduction="none").sum()))(PROBS)
    assert_close(of_each / WHERE.sum(), grad)


def test_the_border_of_the_reference_is_paid_by_each_centre():
    paid = jax.jit(functools.partial(crf, reduction="none", border="reference"))(PROBS, IMAGE)
    loss = jax.jit(functools.partial(crf, border="reference"))(PROBS, IMAGE)
    np.testing.assert_allclose(paid.mean(), loss, rtol=1e-5)


def test_normalized_values_hardly_depend_on_radius_and_kernels():
    half, grey = np.full((1, 40, 40, 2), 0.5, np.float32), np.zeros((1, 40, 40, 3), np.float32)
    loss = jax.jit(functools.partial(gated_crf, normalize=True), static_argnames="radius")
    kernels = [(Kernel(weight, xy, rgb=0.1),) for weight, xy in ((1.0, 6.0), (50.0, 60.0))]
    values = [float(loss(half, grey, radius=radius, kernels=kernel)) for radius in (2, 5) for kernel in kernels]
    np.testing.assert_allclose(values, 0.49, atol=0.015)


def test_the_normalized_kernel_is_divided_by_the_roots_of_both_masses():
    two = np.eye(2, dtype=np.float32)[None, None]
    loss = jax.jit(functools.partial(gated_crf, radius=1, normalize=True))(two, np.zeros((1, 1, 2, 3), np.float32))
    kernel = np.exp(-1 / 72)
    np.testing.assert_allclose(loss, kernel / (1 + kernel), rtol=1e-5)


def test_the_mass_of_the_kernel_does_not_depend_on_which_pixels_pull():
    options = {"where": WHERE, "normalize": True, "reduction": "sum"}
    total = jax.jit(lambda source: crf(PROBS, IMAGE, source_mask=source, target_mask=TARGET, **options))
    one_by_one = 0.0
    for position in np.argwhere(SOURCE):
        source = np.zeros_like(SOURCE)
        source[tuple(position)] = True
        one_by_one += float(total(source))
    np.testing.assert_allclose(total(SOURCE), one_by_one, rtol=1e-5)


def test_weights_and_normalization_over_two_devices_are_those_of_the_global_batch():
    rng = np.random.default_rng(1)
    shape = (4, 6, 7, 3)
    rows = {
        "logits": rng.normal(size=shape).astype(np.float32),
        "image": rng.normal(0, 0.1, shape).astype(np.float32),
        "where": rng.uniform(size=shape[:3]) < np.array([0.9, 0.9, 0.1, 0.3])[:, None, None],
        "weights": rng.uniform(0.1, 1.0, shape[:3]).astype(np.float32),
    }

    def loss(params, logits, image, axis_name=None, **options):
        return crf(jax.nn.softmax(logits * params), image, axis_name=axis_name, normalize=True, **options)

    expected = jax.jit(jax.value_and_grad(loss))(jnp.float32(2.0), **rows)
    mapped = functools.partial(loss, axis_name="data")
    assert_close(loss_and_grad_on_two_devices(mapped, "shard_map", jnp.float32(2.0), rows), expected)
