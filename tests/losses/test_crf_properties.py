"""What gated_crf keeps true for any input: symmetries, masks, precision, transformations, two devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_devices import loss_and_grad_on_two_devices

from semiseg_jax.losses import gated_crf

SHAPE = (2, 6, 6, 3)
KERNELS = ({"weight": 0.9, "xy": 3.0, "rgb": 0.1}, {"weight": 0.2, "xy": 1.0})
COSTS = ((0.0, 1.0, 3.0), (0.5, 0.0, 0.5), (2.0, 0.1, 0.0))
crf = functools.partial(gated_crf, kernels=KERNELS, radius=1)
loss_and_grad = jax.jit(jax.value_and_grad(crf), static_argnames="border")
some_examples = settings(max_examples=8, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**31)


def make_inputs(seed=0, shape=SHAPE):
    """-> probs, image, source mask, target mask"""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(shape[-1]), shape[:3]).astype(np.float32)
    image = rng.normal(0.05, 0.08, (*shape[:3], 3)).astype(np.float32)
    source, target = rng.uniform(size=(2, *shape[:3])) < 0.8
    return probs, image, source, target


def assert_close(result, expected, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol), result, expected)


@some_examples
@given(seed=seeds, order=st.permutations(range(3)))
def test_renaming_the_classes_renames_the_gradient(seed, order):
    probs, image, source, target = make_inputs(seed)
    masks = {"source_mask": source, "target_mask": target}
    loss, grad = loss_and_grad(probs, image, **masks)
    assert_close(loss_and_grad(probs[..., order], image, **masks), (loss, grad[..., np.array(order)]))
    costs = np.array(COSTS, np.float32)
    loss, grad = loss_and_grad(probs, image, compatibility=costs)
    renamed = loss_and_grad(probs[..., order], image, compatibility=costs[order][:, order])
    assert_close(renamed, (loss, grad[..., np.array(order)]))


@some_examples
@given(seed=seeds, move=st.sampled_from(["upside down", "mirror", "transpose"]))
def test_turning_the_picture_turns_the_gradient(seed, move):
    turn = {
        "upside down": lambda array: np.asarray(array)[:, ::-1],
        "mirror": lambda array: np.asarray(array)[:, :, ::-1],
        "transpose": lambda array: np.asarray(array).swapaxes(1, 2),
    }[move]
    probs, image, source, target = make_inputs(seed)
    loss, grad = loss_and_grad(probs, image, source_mask=source, target_mask=target)
    turned = loss_and_grad(turn(probs), turn(image), source_mask=turn(source), target_mask=turn(target))
    assert_close(turned, (loss, turn(grad)))


@some_examples
@given(seed=seeds, classes=st.tuples(st.integers(0, 2), st.integers(0, 2)), masked=st.booleans())
def test_one_certain_class_per_image_costs_exactly_nothing(seed, classes, masked):
    _, image, source, target = make_inputs(seed)
    probs = np.zeros(SHAPE, np.float32)
    for row, label in enumerate(classes):
        probs[row, ..., label] = 1
    masks = {"source_mask": source, "target_mask": target} if masked else {}
    assert float(loss_and_grad(probs, image, **masks)[0]) == 0.0


@some_examples
@given(seed=seeds)
def test_the_loss_is_never_negative_and_a_batch_is_the_mean_of_its_images(seed):
    probs, image, _, _ = make_inputs(seed)
    loss, grad = loss_and_grad(probs, image)
    assert loss >= 0
    alone = [loss_and_grad(probs[i : i + 1], image[i : i + 1]) for i in range(2)]
    assert_close((loss, grad), (np.mean([one for one, _ in alone]), np.concatenate([half / 2 for _, half in alone])))


@pytest.mark.parametrize(("changed", "value"), [("probs", 1e30), ("probs", np.nan), ("image", 1e30), ("image", np.nan)])
def test_pixels_that_both_masks_leave_out_never_matter_however_extreme(changed, value):
    probs, image, source, target = make_inputs()
    out = ~(source | target)
    assert out.any()
    masks = {"source_mask": source, "target_mask": target}
    expected_loss, expected_grad = loss_and_grad(probs, image, **masks)
    (probs if changed == "probs" else image)[out] = value
    loss, grad = loss_and_grad(probs, image, **masks)
    np.testing.assert_array_equal(loss, expected_loss)
    np.testing.assert_array_equal(np.asarray(grad)[~out], np.asarray(expected_grad)[~out])
    assert not np.asarray(grad)[out].any()


@some_examples
@given(seed=seeds)
def test_pixels_that_both_masks_leave_out_may_have_any_prediction_and_colour(seed):
    probs, image, source, target = make_inputs(seed)
    other_probs, other_image, _, _ = make_inputs(seed + 1)
    kept = (source | target)[..., None]
    masks = {"source_mask": source, "target_mask": target}
    changed = loss_and_grad(np.where(kept, probs, other_probs), np.where(kept, image, other_image), **masks)
    jax.tree.map(np.testing.assert_array_equal, changed, loss_and_grad(probs, image, **masks))


@pytest.mark.parametrize(
    ("masks", "border", "costs"),
    [
        (("source_mask",), "exclude", None),
        (("target_mask",), "reference", None),
        (("source_mask", "target_mask"), "reference", None),
        (("where",), "exclude", None),
        (("source_mask",), "exclude", COSTS),
        (("target_mask",), "exclude", COSTS),
    ],
)
def test_nothing_left_by_the_masks_gives_exactly_zero_loss_and_gradient(masks, border, costs):
    probs, image, _, _ = make_inputs()
    nothing = {name: np.zeros(SHAPE[:3], bool) for name in masks}
    costs = None if costs is None else np.array(costs)
    loss, grad = loss_and_grad(probs, image, border=border, compatibility=costs, **nothing)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(SHAPE))


@pytest.mark.parametrize("costs", [None, COSTS])
def test_the_gradient_is_that_of_finite_differences_in_float64(costs):
    probs, image, source, target = make_inputs()
    direction = np.random.default_rng(1).normal(size=SHAPE)

    def loss(logits):
        masks = {"source_mask": source, "target_mask": target}
        return crf(jax.nn.softmax(logits), jnp.asarray(image, jnp.float64), compatibility=costs, **masks)

    with jax.enable_x64(True):
        logits, step = jnp.log(jnp.asarray(probs, jnp.float64)), 1e-4 * direction
        value, grad = jax.jit(jax.value_and_grad(loss))(logits)
        ahead, behind = (jax.jit(loss)(logits + sign * step) for sign in (1, -1))
    assert value.dtype == np.float64
    np.testing.assert_allclose((ahead - behind) / 2e-4, np.vdot(grad, direction), rtol=1e-6)


@pytest.mark.parametrize(("probs_dtype", "image_dtype"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_float32_and_float64_may_be_mixed(probs_dtype, image_dtype):
    probs, image, _, _ = make_inputs()
    expected = loss_and_grad(probs, image)
    with jax.enable_x64(True):
        result = loss_and_grad(jnp.asarray(probs, probs_dtype), jnp.asarray(image, image_dtype))
    assert_close(result, expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)])
def test_half_precision_stays_close_to_float32(dtype, tolerance):
    probs, image, source, _ = make_inputs()
    expected, expected_grad = loss_and_grad(probs, image, source_mask=source)
    loss, grad = loss_and_grad(jnp.asarray(probs, dtype), jnp.asarray(image), source_mask=source)
    assert loss.dtype == jnp.float32
    assert grad.dtype == dtype
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    np.testing.assert_allclose(grad.astype(jnp.float32), expected_grad, atol=tolerance * np.abs(expected_grad).max())


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_at_the_ends_of_the_range_is_finite(dtype):
    _, image, _, _ = make_inputs()
    logits = jnp.asarray(np.random.default_rng(0).uniform(-6e4, 6e4, SHAPE), dtype)
    loss, grad = jax.jit(jax.value_and_grad(lambda z: crf(jax.nn.softmax(z), image.astype(dtype))))(logits)
    assert np.isfinite(loss)
    assert np.isfinite(grad.astype(jnp.float32)).all()


@pytest.mark.parametrize("costs", [None, COSTS])
def test_probabilities_of_exactly_0_and_1_and_huge_logits_give_finite_loss_and_gradient(costs):
    probs, image, _, _ = make_inputs()
    certain = np.eye(3, dtype=np.float32)[probs.argmax(-1)]

    def loss(logits):
        return crf(jax.nn.softmax(logits), image, compatibility=costs)

    value, grad = jax.jit(jax.value_and_grad(loss))(np.where(certain > 0, 1e4, -1e4).astype(np.float32))
    direct, direct_grad = jax.jit(jax.value_and_grad(lambda p: crf(p, image, compatibility=costs)))(certain)
    assert value > 0
    np.testing.assert_allclose(value, direct, rtol=1e-6)
    assert np.isfinite(grad).all()
    assert np.isfinite(direct_grad).all()


def test_a_plain_call_equals_a_jitted_one():
    probs, image, source, target = make_inputs()
    masks = {"source_mask": source, "target_mask": target}
    assert_close(crf(probs, image, **masks), loss_and_grad(probs, image, **masks)[0])


def test_vmap_and_checkpoint_equal_a_loop_of_plain_gradients():
    batch = make_inputs(shape=(4, 6, 6, 3))
    rows = [array.reshape(2, 2, *array.shape[1:]) for array in batch]

    def loss(probs, image, source, target):
        return crf(probs, image, source_mask=source, target_mask=target)

    alone = [loss_and_grad(p, x, source_mask=s, target_mask=t) for p, x, s, t in zip(*rows, strict=True)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    assert_close(jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(loss))))(*rows), expected)


@pytest.mark.parametrize(
    ("counted", "mapper"),
    [
        ("few target pixels", "shard_map"),
        ("one target pixel", "pmap"),
        ("no source pixel", "pmap"),
        ("costs and both masks", "shard_map"),
    ],
)
def test_loss_and_gradient_over_two_devices_are_those_of_the_global_batch(counted, mapper):
    logits, image, source, target = make_inputs(shape=(4, 6, 6, 3))
    params = {"scale": jnp.float32(2.0), "bias": jnp.array([0.1, -0.2, 0.3])}
    rows = {"logits": logits, "image": image}
    if counted != "no source pixel":
        target[0 if counted == "one target pixel" else 2 :] = False
        target[3, 2, 2] = True
        rows["target_mask"] = target
    if counted in ("no source pixel", "costs and both masks"):
        source[2:] = False
        source[2:, 1] = counted == "costs and both masks"
        rows["source_mask"] = source
    options = {"compatibility": COSTS} if counted == "costs and both masks" else {"border": "reference"}

    def loss(params, logits, image, axis_name=None, **masks):
        probs = jax.nn.softmax(logits * params["scale"] + params["bias"])
        return crf(probs, image, axis_name=axis_name, **masks, **options)

    expected = jax.jit(jax.value_and_grad(loss))(params, **rows)
    assert np.abs(expected[1]["bias"]).max() > 1e-4
    result = loss_and_grad_on_two_devices(functools.partial(loss, axis_name="data"), mapper, params, rows)
    assert_close(result, expected)
