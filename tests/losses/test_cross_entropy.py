"""partial_cross_entropy against numpy, at its edges, and over two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from semiseg_jax.losses import partial_cross_entropy

IGNORE = 255
SHAPES = [(1, 4, 4, 2), (2, 5, 7, 3), (3, 1, 9, 5), (1, 1, 1, 4)]


def make_batch(shape=(2, 5, 7, 3), seed=0, ignored=0.4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, shape).astype(np.float32)
    labels = rng.integers(0, shape[-1], shape[:3])
    labels[rng.uniform(size=labels.shape) < ignored] = IGNORE
    labels.flat[0] = 0
    return logits, labels.astype(np.int32)


def numpy_loss(logits, labels, ignore_label=IGNORE, class_weights=None, where=None):
    """Pixel by pixel, in float64."""
    total = count = 0.0
    for index in np.ndindex(labels.shape):
        label = labels[index]
        if label == ignore_label or (where is not None and not where[index]):
            continue
        row = logits[index].astype(np.float64)
        shifted = row - row.max()
        weight = 1.0 if class_weights is None else class_weights[label]
        total += weight * (np.log(np.exp(shifted).sum()) - shifted[label])
        count += weight
    return total / max(count, 1.0)


def loss_and_grad(logits, labels, **options):
    return jax.value_and_grad(lambda x: partial_cross_entropy(x, labels, **options))(jnp.asarray(logits))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("label_dtype", [np.int32, np.uint8, np.int16])
def test_equals_a_pixelwise_numpy_computation(shape, label_dtype):
    logits, labels = make_batch(shape)
    loss = partial_cross_entropy(jnp.asarray(logits), jnp.asarray(labels.astype(label_dtype)))
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, numpy_loss(logits, labels), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)])
def test_low_precision_logits_stay_close_to_float32(shape, dtype, tolerance):
    logits, labels = make_batch(shape)
    loss = partial_cross_entropy(jnp.asarray(logits, dtype), labels)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, numpy_loss(logits, labels), rtol=tolerance)


@pytest.mark.parametrize("ignore_label", [0, 2, -1, 254])
def test_the_ignore_label_can_be_chosen(ignore_label):
    logits, labels = make_batch()
    labels = np.where(labels == IGNORE, ignore_label, labels)
    loss = partial_cross_entropy(logits, labels, ignore_label=ignore_label)
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, ignore_label), rtol=1e-5)


@pytest.mark.parametrize("stray", [-1, 3, 200])
def test_labels_outside_the_classes_count_as_ignored(stray):
    logits, labels = make_batch()
    strange = np.where(labels == IGNORE, stray, labels)
    np.testing.assert_array_equal(partial_cross_entropy(logits, strange), partial_cross_entropy(logits, labels))


@pytest.mark.parametrize("weights", [(1.0, 2.0, 0.5), (0.0, 1.0, 3.0), [5.0, 5.0, 5.0]])
def test_class_weights_give_the_weighted_mean(weights):
    logits, labels = make_batch()
    loss = partial_cross_entropy(logits, labels, class_weights=weights)
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, class_weights=weights), rtol=1e-5)


def test_where_leaves_pixels_out_of_sum_and_mean():
    logits, labels = make_batch()
    where = np.random.default_rng(1).uniform(size=labels.shape) < 0.5
    loss = partial_cross_entropy(logits, labels, where=where)
    np.testing.assert_allclose(loss, numpy_loss(logits, labels, where=where), rtol=1e-5)
    np.testing.assert_array_equal(loss, partial_cross_entropy(logits, np.where(where, labels, IGNORE).astype(np.int32)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked_by", ["ignore label", "where", "class weights"])
def test_a_batch_without_any_label_gives_exactly_zero_loss_and_gradient(shape, masked_by):
    logits, labels = make_batch(shape)
    options = {}
    if masked_by == "ignore label":
        labels = np.full_like(labels, IGNORE)
    elif masked_by == "where":
        options["where"] = np.zeros(labels.shape, bool)
    else:
        options["class_weights"] = np.zeros(shape[-1])
    loss, grad = loss_and_grad(logits, labels, **options)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(shape))


@pytest.mark.parametrize("value", [1e4, -1e4, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("masked_by", ["ignore label", "where"])
def test_masked_out_pixels_do_not_change_the_loss_however_extreme_their_logits(value, masked_by):
    logits, labels = make_batch()
    masked = labels == IGNORE
    options = {}
    if masked_by == "where":
        labels, options = np.where(masked, 1, labels), {"where": ~masked}
    expected, expected_grad = loss_and_grad(logits, labels, **options)
    logits[masked] = value
    loss, grad = loss_and_grad(logits, labels, **options)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(grad, expected_grad)
    assert np.isfinite(loss)
    assert not np.asarray(grad)[masked].any()


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_huge_logits_on_labelled_pixels_keep_loss_and_gradient_finite(scale):
    logits, labels = make_batch()
    loss, grad = loss_and_grad(logits * scale, labels)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()


def test_a_class_ruled_out_by_minus_infinity_keeps_loss_and_gradient_finite():
    logits, labels = make_batch()
    labels = np.where(labels == 2, 0, labels)
    expected = numpy_loss(logits[..., :2], labels)
    logits[..., 2] = -np.inf
    loss, grad = loss_and_grad(logits, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_probabilities_minus_target_over_the_count(shape):
    logits, labels = make_batch(shape)
    counts = labels != IGNORE
    probs = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    target = np.eye(shape[-1])[np.where(counts, labels, 0)]
    expected = (probs - target) * counts[..., None] / counts.sum()
    for transform in (lambda f: f, jax.jit):
        grad = transform(jax.grad(partial_cross_entropy))(jnp.asarray(logits), labels)
        np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_jit_and_vmap_equal_plain_calls():
    logits, labels = make_batch((4, 5, 7, 3))
    np.testing.assert_allclose(
        jax.jit(partial_cross_entropy)(logits, labels), partial_cross_entropy(logits, labels), rtol=1e-6
    )
    mapped = jax.vmap(partial_cross_entropy)(logits[:, None], labels[:, None])
    alone = [partial_cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(mapped, np.stack(alone), rtol=1e-6)


def mapped_loss_and_grad(mapper):
    """(params, logits, labels) on two devices -> global loss and gradient, as the train step takes them."""

    def step(params, logits, labels):
        def global_loss(params):
            loss = partial_cross_entropy(logits * params["scale"] + params["bias"], labels, axis_name="data")
            return jax.lax.pmean(loss, "data")

        loss, grads = jax.value_and_grad(global_loss)(params)
        return loss, jax.lax.pmean(grads, "data")

    if mapper == "pmap":
        devices = jax.devices()[:2]
        pmapped = jax.pmap(step, "data", in_axes=(None, 0, 0), out_axes=None, devices=devices)
        return lambda params, *rows: pmapped(params, *(row.reshape(2, -1, *row.shape[1:]) for row in rows))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    check = mapper == "shard_map"
    specs = (P(), P("data"), P("data"))
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=(P(), P()), check_vma=check))


@pytest.mark.parametrize("mapper", ["pmap", "shard_map", "shard_map without check"])
@pytest.mark.parametrize("second_half", ["few labels", "no label"])
def test_loss_and_gradient_over_two_devices_are_those_of_the_global_batch(mapper, second_half):
    logits, labels = make_batch((4, 5, 7, 3), ignored=0.2)
    labels[2:] = IGNORE
    if second_half == "few labels":
        labels[3, 2, :2] = 1
    params = {"scale": jnp.float32(0.7), "bias": jnp.array([0.1, -0.2, 0.3])}

    def single(params):
        return partial_cross_entropy(logits * params["scale"] + params["bias"], labels)

    expected_loss, expected = jax.value_and_grad(single)(params)
    loss, grads = mapped_loss_and_grad(mapper)(params, logits, labels)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, expected)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": np.zeros((5, 7, 3), np.float32)}, ValueError, r"logits is \[5,7,3\]"),
        ({"logits": np.zeros((2, 3, 5, 7), np.float32)}, ValueError, r"logits is \[2,3,5,7\], channels first"),
        ({"logits": np.zeros((2, 5, 7, 3), np.int32)}, TypeError, "logits is int32"),
        ({"logits": np.zeros((2, 5, 7, 1), np.float32)}, ValueError, r"logits is \[2,5,7,1\], of one class"),
        ({"labels": np.zeros((2, 5, 6), np.int32)}, ValueError, r"labels is \[2,5,6\] but must be \[2,5,7\]"),
        ({"labels": np.zeros((2, 5, 7, 1), np.int32)}, ValueError, "labels is"),
        ({"labels": np.zeros((2, 5, 7), np.float32)}, TypeError, "labels is float32"),
        ({"where": np.ones((2, 5), bool)}, ValueError, r"where is \[2,5\]"),
        ({"class_weights": np.ones(4)}, ValueError, r"class_weights is \[4\] but must be \[3\]"),
        ({"class_weights": 1.0}, ValueError, "class_weights is"),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_wrong_arguments_raise_an_error_that_names_the_argument(changes, error, message, jit):
    logits, labels = make_batch()
    arguments = {"logits": logits, "labels": labels} | changes
    function = jax.jit(partial_cross_entropy) if jit else partial_cross_entropy
    with pytest.raises(error, match=f"partial_cross_entropy: {message}"):
        function(**arguments)


jitted = jax.jit(partial_cross_entropy)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(4)))
def test_renaming_the_classes_does_not_change_the_loss(seed, order):
    logits, labels = make_batch((1, 4, 5, 4), seed)
    renamed = np.where(labels == IGNORE, IGNORE, np.argsort(order)[labels % 4]).astype(np.int32)
    weights = np.array([1.0, 2.0, 0.5, 3.0], np.float32)
    np.testing.assert_allclose(
        jitted(logits, labels, class_weights=weights),
        jitted(logits[..., order], renamed, class_weights=weights[list(order)]),
        rtol=1e-5,
    )


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**31), value=st.floats(width=32), ignored=st.floats(0, 1))
def test_masked_out_pixels_do_not_change_the_loss(seed, value, ignored):
    logits, labels = make_batch((1, 4, 5, 4), seed, ignored)
    changed = np.where((labels == IGNORE)[..., None], np.float32(value), logits)
    np.testing.assert_array_equal(jitted(logits, labels), jitted(changed, labels))
