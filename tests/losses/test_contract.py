"""What all losses promise alike, over one table of them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from two_devices import loss_and_grad_on_two_devices

from semiseg_jax import losses
from semiseg_jax.ops import _checks

BATCH, HEIGHT, WIDTH, CLASSES = 4, 5, 6, 3


class Case(NamedTuple):
    """A loss, what its inputs are by argument name, which of them receive a gradient, its masks and weights.

    Without names of weights there is no reduction either. `numbers` are options at values that change nothing, given
    the `extra` arguments.
    """

    loss: Callable[..., Any]
    inputs: dict[str, str]
    scores: tuple[str, ...]
    masks: tuple[str, ...] = ("where",)
    weights: tuple[str, ...] = ("weights",)
    numbers: dict[str, float] = {}  # noqa: RUF012
    extra: dict[str, Any] = {}  # noqa: RUF012


LABELLED = ({"logits": "logits", "labels": "labels"}, ("logits",))
CASES = {
    "partial_cross_entropy": Case(losses.partial_cross_entropy, *LABELLED, numbers={"label_smoothing": 0.0}),
    "focal_loss": Case(losses.focal_loss, *LABELLED, numbers={"gamma": 2.0}),
    "dice_loss": Case(
        functools.partial(losses.dice_loss, per_image=True), *LABELLED, numbers={"alpha": 0.5, "beta": 0.5}
    ),
    "lovasz_softmax": Case(functools.partial(losses.lovasz_softmax, per_image=True), *LABELLED),
    "total_variation": Case(
        losses.total_variation,
        {"probs": "probs"},
        ("probs",),
        numbers={"contrast": 1e6},
        extra={"image": np.random.default_rng(3).normal(size=(BATCH, HEIGHT, WIDTH, 3)).astype(np.float32)},
    ),
    "curvilinear_total_variation": Case(
        functools.partial(losses.curvilinear_total_variation, sigma=0.5),
        {"probs": "probs"},
        ("probs",),
        numbers={"sigma": 0.5},
        extra={"max_sigma": 0.5},
    ),
    "gated_crf": Case(
        functools.partial(losses.gated_crf, radius=2), {"probs": "probs", "image": "image"}, ("probs",), weights=()
    ),
    "uncertainty_cross_entropy": Case(
        losses.uncertainty_cross_entropy,
        {"mean": "logits", "variance": "variance", "labels": "labels"},
        ("mean", "variance"),
    ),
    "discriminator_loss": Case(
        losses.discriminator_loss,
        {"real_logits": "map", "fake_logits": "map"},
        ("real_logits", "fake_logits"),
        ("real_where", "fake_where"),
        ("real_weights", "fake_weights"),
        {"label_smoothing": 0.0},
    ),
    "adversarial_loss": Case(losses.adversarial_loss, {"fake_logits": "map"}, ("fake_logits",)),
    "confident_self_training": Case(
        losses.confident_self_training,
        {"logits": "logits", "confidence": "confidence"},
        ("logits",),
        numbers={"threshold": 0.2},
    ),
}
REGIONS = ("dice_loss", "lovasz_softmax")
WEIGHTED = [name for name, case in CASES.items() if case.weights]


@pytest.fixture(scope="module", params=CASES)
def name(request):
    """Every loss in turn; module scope keeps the tests of one loss, which share compiled programs, together."""
    return request.param


@pytest.fixture(scope="module")
def weighted_name(name):
    if name not in WEIGHTED:
        pytest.skip("no weights")
    return name


def make_inputs(name, seed=0):
    rng = np.random.default_rng(seed)

    def draw(kind):
        shape = BATCH, HEIGHT, WIDTH
        if kind == "labels":
            return rng.integers(0, 2, shape).astype(np.int32)
        scores = rng.normal(0, 2, shape if kind in ("map", "confidence", "variance") else (*shape, CLASSES))
        activation = {"variance": jax.nn.softplus, "confidence": jax.nn.sigmoid, "probs": jax.nn.softmax}
        scores = scores * 0.05 if kind == "image" else activation.get(kind, np.asarray)(scores)
        scores = np.array(scores, np.float32)
        # The same confidences for every image: self-training then keeps equally many pixels of each.
        return np.repeat(scores[:1], BATCH, axis=0) if kind == "confidence" else scores

    return {argument: draw(kind) for argument, kind in CASES[name].inputs.items()}


def make_masks(name, keep):
    """`keep` [B,1,1] or [B,H,W] -> every mask of the loss."""
    keep = np.broadcast_to(keep, (BATCH, HEIGHT, WIDTH))
    return {argument: np.array(keep) for argument in CASES[name].masks}


def make_weights(name, weights):
    """[B,1,1] or [B,H,W] -> all weights of the loss."""
    weights = np.broadcast_to(weights, (BATCH, HEIGHT, WIDTH)).astype(np.float32)
    return {argument: np.array(weights) for argument in CASES[name].weights}


def some_pixels():
    return np.random.default_rng(2).uniform(size=(BATCH, HEIGHT, WIDTH)) < 0.7


def cast(inputs, dtype):
    return {key: jnp.asarray(x, dtype) if x.dtype == np.float32 else x for key, x in inputs.items()}


def extremes(name, size):
    """Logits of -size, 0 and size; probabilities, confidences of exactly 0 and 1; variances of 0 and size."""
    signs = np.random.default_rng(1).integers(-1, 2, (BATCH, HEIGHT, WIDTH, CLASSES)).astype(np.float32)
    one_hot = np.eye(CLASSES, dtype=np.float32)[signs.argmax(-1)]
    plane = signs[..., 0]
    kinds = {"logits": size * signs, "map": size * plane, "variance": size * abs(plane), "confidence": abs(plane)}
    changed = {argument: (kinds | {"probs": one_hot}).get(kind) for argument, kind in CASES[name].inputs.items()}
    return make_inputs(name) | {argument: array for argument, array in changed.items() if array is not None}


def public_name(name):
    return getattr(CASES[name].loss, "func", CASES[name].loss).__name__


def expect_error(name, error, arguments, message, jit=False):
    """The error starts with the name of the public function."""
    function = CASES[name].loss
    with pytest.raises(error, match=f"^{public_name(name)}: {message}"):
        (jax.jit(function) if jit else function)(**arguments)


def split_scores(name, arguments):
    scores = {key: arguments[key] for key in CASES[name].scores}
    return scores, {key: arguments[key] for key in arguments if key not in scores}


@functools.cache
def with_grads(name):
    """(inputs, masks or weights) -> loss and the gradient of every input that receives one.

    One compiled program serves with and without masks and weights, which are all true and 1 where they are not given.
    """

    def loss(scores, others):
        return CASES[name].loss(**scores, **others)

    compiled = jax.jit(jax.value_and_grad(loss))
    # What half precision becomes is the same for any compiler.
    quickly = jax.jit(jax.value_and_grad(loss))

    def call(inputs, **others):
        scores, others = split_scores(name, make_masks(name, True) | make_weights(name, 1.0) | inputs | others)
        half = any(x.dtype == jnp.float16 for x in scores.values())
        return (quickly if half else compiled)(scores, others)

    return call


@functools.cache
def of_each_image(name):
    """The loss and gradients of each image alone, by `vmap`."""

    def loss(scores, others):
        return CASES[name].loss(**scores, **others)

    inputs = {key: x[:, None] for key, x in make_inputs(name).items()}
    return jax.jit(jax.vmap(jax.value_and_grad(loss)))(*split_scores(name, inputs))


def assert_close(found, expected, rtol=1e-5, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


def test_a_loss_is_a_float32_scalar_and_its_gradient_has_the_dtype_of_the_input(name):
    inputs = cast(make_inputs(name), jnp.float16)
    loss, grads = with_grads(name)(inputs)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert float(loss) > 0
    for argument, grad in grads.items():
        assert grad.dtype == jnp.float16
        assert grad.shape == inputs[argument].shape
        assert np.asarray(grad, np.float32).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_caller_who_allows_no_implicit_promotion(name, dtype):
    keep = np.ones((BATCH, 1, 1), bool)
    given = cast(make_inputs(name) | make_masks(name, keep) | make_weights(name, keep), dtype)
    numbers = {key: jnp.asarray(value, dtype) for key, value in CASES[name].numbers.items()}
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        given = {key: jnp.asarray(x) for key, x in (given | CASES[name].extra | numbers).items()}
        static = {"max_sigma": 0.5} if "max_sigma" in given else {}
        scores, others = split_scores(name, {key: x for key, x in given.items() if key not in static})
        loss = jax.value_and_grad(lambda scores, others: CASES[name].loss(**scores, **others, **static))
        assert jax.eval_shape(loss, scores, others)[0].dtype == jnp.float32


def test_half_precision_inputs_stay_close_to_float32(name):
    loss, expected = (with_grads(name)(cast(make_inputs(name), kind))[0] for kind in (jnp.float16, jnp.float32))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float32, 1e4), (jnp.float16, 1e4), (jnp.float16, 6e4)])
def test_extreme_inputs_keep_loss_and_gradient_finite(name, dtype, size):
    loss, grads = with_grads(name)(cast(extremes(name, size), dtype))
    assert np.isfinite(loss)
    for grad in grads.values():
        assert np.isfinite(np.asarray(grad, np.float32)).all()


def test_a_batch_that_is_all_masked_gives_exactly_zero_loss_and_gradient(name):
    for inputs in (make_inputs(name), extremes(name, 1e4)):
        loss, grads = with_grads(name)(inputs, **make_masks(name, False))
        assert float(loss) == 0.0
        for grad in grads.values():
            np.testing.assert_array_equal(grad, np.zeros(grad.shape))


@pytest.mark.parametrize("value", [1e30, np.inf, np.nan])
@pytest.mark.parametrize("by", ["mask", "weight 0"])
def test_masked_out_pixels_do_not_matter_whatever_they_hold(name, value, by):
    inputs, keep = make_inputs(name), some_pixels()
    if by == "weight 0" and name not in WEIGHTED:
        pytest.skip("no weights")
    masks = make_masks(name, keep) if by == "mask" else make_weights(name, keep)
    expected, expected_grads = with_grads(name)(inputs, **masks)
    dirty = make_inputs(name)
    for argument in dirty.keys() - {"labels"}:
        dirty[argument][~keep] = value
    loss, grads = with_grads(name)(dirty, **masks)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(loss, expected)
    jax.tree.map(np.testing.assert_array_equal, grads, expected_grads)
    for grad in grads.values():
        assert not np.asarray(grad)[~keep].any()


def test_weights_of_0_and_1_are_a_mask_and_only_their_ratios_matter(weighted_name):
    name, keep = weighted_name, some_pixels()
    expected = with_grads(name)(make_inputs(name), **make_masks(name, keep))
    for scale in (1.0, 1e-3, 64.0):
        found = with_grads(name)(make_inputs(name), **make_weights(name, scale * keep))
        assert_close(found, expected, atol=1e-6)


def test_an_image_counts_by_its_weight_exactly_below_1_too(weighted_name):
    name, weights = weighted_name, np.array([0.1, 0.0, 0.3, 0.02])
    alone, _ = of_each_image(name)
    loss, _ = with_grads(name)(make_inputs(name), **make_weights(name, weights[:, None, None]))
    # Losses of regions count images alike, but for those in which nothing counts.
    weights = weights > 0 if name in REGIONS else weights
    np.testing.assert_allclose(loss, np.average(alone, weights=weights), rtol=1e-5)


def test_a_value_map_adds_up_to_the_sum_which_is_the_mean_times_what_counts(weighted_name):
    name, keep = weighted_name, some_pixels()
    weights = np.random.default_rng(4).uniform(0.1, 0.9, (BATCH, 1, 1)) * np.ones(keep.shape)
    scores, others = split_scores(name, make_inputs(name) | make_weights(name, weights) | make_masks(name, keep))

    def reduced(reduction):
        return lambda scores: CASES[name].loss(**scores, **others, reduction=reduction)

    def mapped(scores):
        maps = reduced("none")(scores)
        return sum(map(jnp.sum, jax.tree.leaves(maps))), maps

    @jax.jit
    def all_three(scores):
        by_map = jax.value_and_grad(mapped, has_aux=True)(scores)
        return by_map, jax.value_and_grad(reduced("sum"))(scores), reduced("mean")(scores)

    ((value, maps), grads), (expected, expected_grads), mean = all_three(scores)
    for one in jax.tree.leaves(maps):
        assert one.shape == (BATCH, HEIGHT, WIDTH)
        assert not np.asarray(one)[~keep].any()
        assert np.asarray(one).any()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(grads, expected_grads, atol=1e-6)
    np.testing.assert_allclose(expected, mean * what_counts(name, weights * keep), rtol=1e-5)


def what_counts(name, weighed):
    if name in REGIONS:
        return BATCH
    if "total_variation" in name:
        ends = (weighed[:, 1:], weighed[:, :-1]), (weighed[:, :, 1:], weighed[:, :, :-1])
        return sum(np.minimum(*pair).sum() for pair in ends)
    kept = make_inputs(name).get("confidence", np.ones(weighed.shape)) > 0.2
    return np.sum(weighed * kept)


# The others are called without `jit` below, for their labels, and by their doctests.
@pytest.mark.parametrize("cheap", ["total_variation", "discriminator_loss", "confident_self_training"])
def test_jit_equals_a_plain_call(cheap):
    inputs = make_inputs(cheap)
    np.testing.assert_allclose(CASES[cheap].loss(**inputs), with_grads(cheap)(inputs)[0], rtol=1e-5)


def test_what_is_no_argument_of_the_jitted_function_may_be_an_array_from_outside(name, monkeypatch):
    monkeypatch.setattr(_checks, "CHECKED_PIXELS", 16)  # of larger arrays a part is looked at
    arguments = make_inputs(name) | make_masks(name, True) | make_weights(name, 1.0)
    scores, others = split_scores(name, jax.tree.map(jnp.asarray, arguments))
    gradients = jax.eval_shape(jax.grad(lambda scores: CASES[name].loss(**scores, **others)), scores)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, scores)


def test_a_batch_is_the_mean_of_its_images_which_vmap_gives_in_one_call(name):
    mapped, grads = of_each_image(name)
    loss, expected_grads = with_grads(name)(make_inputs(name))
    np.testing.assert_allclose(loss, np.mean(mapped), rtol=1e-5)
    for argument, grad in grads.items():
        np.testing.assert_allclose(grad[:, 0] / BATCH, expected_grads[argument], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("own_gradient", ["total_variation", "gated_crf"])
def test_rematerialisation_gives_the_same_gradient(own_gradient):
    inputs, scores = make_inputs(own_gradient), CASES[own_gradient].scores
    _, expected = with_grads(own_gradient)(inputs)

    @jax.jit
    @jax.grad
    @jax.checkpoint
    def rematerialised(scores):
        return CASES[own_gradient].loss(**(inputs | scores))

    assert_close(rematerialised({key: inputs[key] for key in scores}), expected, rtol=1e-4)


def compare_on_two_devices(name, mapper, keep):
    """Value and gradient of the parameters of a small model, which begins as the identity, against the chain rule."""
    case, inputs, masks = CASES[name], make_inputs(name), make_masks(name, keep)

    def loss(params, **rows):
        rows |= {key: rows[key] * params[key]["scale"] + params[key]["shift"] for key in case.scores}
        return case.loss(**rows, axis_name="data")

    params = {key: {"scale": jnp.float32(1.0), "shift": jnp.zeros(inputs[key].shape[3:])} for key in case.scores}
    found = loss_and_grad_on_two_devices(loss, mapper, params, inputs | masks)
    value, grads = with_grads(name)(inputs, **masks)
    expected_grads = {
        key: {"scale": jnp.vdot(grads[key], inputs[key]), "shift": jnp.sum(grads[key], axis=(0, 1, 2))} for key in grads
    }
    assert_close(found, (value, expected_grads), atol=1e-6)


def test_loss_and_gradient_over_two_devices_are_those_of_the_global_batch(name):
    keep = np.ones((BATCH, HEIGHT, WIDTH), bool)
    keep[BATCH // 2 :] = False
    keep[-1, 1:3, 2:4] = True
    compare_on_two_devices(name, "shard_map", keep)


@pytest.mark.parametrize("mechanism", ["partial_cross_entropy", "total_variation", "gated_crf"])
def test_a_device_on_which_nothing_counts_changes_nothing_under_pmap(mechanism):
    compare_on_two_devices(mechanism, "pmap", np.arange(BATCH)[:, None, None] < BATCH // 2)


def test_a_batch_on_a_mesh_with_explicit_axes_gives_the_same_loss_and_gradient(name):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    inputs, masks = make_inputs(name), make_masks(name, some_pixels())
    spread = jax.device_put(inputs | masks, NamedSharding(mesh, PartitionSpec("data")))
    if name in ("curvilinear_total_variation", "gated_crf", "lovasz_softmax"):
        assert_close(with_grads(name)(spread), with_grads(name)(inputs, **masks))
    else:  # what has no rules of its own fails while it is traced or not at all
        loss = jax.value_and_grad(lambda scores, others: CASES[name].loss(**scores, **others))
        jax.jit(loss).trace(*split_scores(name, spread))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_input_where_double_precision_is_on_whatever_the_options_are(name, dtype):
    with jax.enable_x64(True):
        given = cast(make_inputs(name), dtype)
        scores, others = split_scores(name, given)
        options = {key: np.float64(value) for key, value in CASES[name].numbers.items()} | CASES[name].extra
        options |= {"class_weights": np.ones(CLASSES)} if "class_weights" in parameters(name) else {}
        loss = jax.value_and_grad(lambda scores, others: CASES[name].loss(**scores, **others, **options))
        value, grads = jax.eval_shape(loss, scores, others)
    assert value.dtype == dtype
    assert {grad.dtype for grad in grads.values()} == {np.dtype(dtype)}


def parameters(name):
    return inspect.signature(CASES[name].loss).parameters


@pytest.mark.parametrize("with_numbers", [name for name, case in CASES.items() if case.numbers])
def test_numbers_may_be_traced(with_numbers):
    case, inputs = CASES[with_numbers], make_inputs(with_numbers)
    loss = jax.jit(lambda inputs, numbers: case.loss(**inputs, **case.extra, **numbers))
    expected, _ = with_grads(with_numbers)(inputs)
    np.testing.assert_allclose(loss(inputs, case.numbers), expected, rtol=1e-5)
    for number in case.numbers:
        assert abs(loss(inputs, case.numbers | {number: 0.4}) - expected) > 1e-4 * expected


@pytest.mark.parametrize("jit", [False, True])
def test_a_wrong_rank_raises_an_error_that_names_function_and_argument(name, jit):
    arguments = make_inputs(name) | make_masks(name, True) | make_weights(name, 1.0)
    for argument, array in arguments.items():
        expect_error(name, ValueError, arguments | {argument: array[0, 0]}, rf"{argument} is \[", jit)


def test_a_mask_of_the_wrong_shape_raises_an_error_that_names_function_and_argument(name):
    for argument, one in (make_masks(name, True) | make_weights(name, 1.0)).items():
        for shape in ((BATCH, HEIGHT, WIDTH - 1), (BATCH, HEIGHT - 1, WIDTH), (1, HEIGHT, WIDTH)):
            arguments = make_inputs(name) | {argument: np.ones(shape, one.dtype)}
            expect_error(name, ValueError, arguments, rf"{argument} is \[")


@pytest.mark.parametrize("jit", [False, True])
def test_a_wrong_number_type_raises_an_error_that_names_function_and_argument(name, jit):
    inputs = make_inputs(name) | make_weights(name, 1.0)
    for argument, array in inputs.items():
        wrong = array.astype(np.float32 if argument == "labels" else np.int32)
        expect_error(name, TypeError, inputs | {argument: wrong}, f"{argument} is {wrong.dtype}", jit)


@pytest.mark.parametrize("jit", [False, True])
def test_a_mask_of_fractions_is_refused_in_favour_of_weights(weighted_name, jit):
    inputs = make_inputs(weighted_name)
    for argument, mask in make_masks(weighted_name, True).items():
        wrong = inputs | {argument: mask.astype(np.float32)}
        expect_error(weighted_name, TypeError, wrong, f"{argument} is float32 but must be bool.*weights", jit)


def test_a_mask_may_be_of_integers(weighted_name):
    inputs, masks = make_inputs(weighted_name), make_masks(weighted_name, some_pixels())
    shaped = jax.eval_shape(CASES[weighted_name].loss, **inputs, **jax.tree.map(lambda x: x.astype(np.uint8), masks))
    assert shaped.shape == ()


@pytest.mark.parametrize("value", [-0.5, np.nan, np.inf])
def test_weights_that_are_negative_or_not_finite_are_told(weighted_name, value):
    for argument in CASES[weighted_name].weights:
        weights = make_weights(weighted_name, 1.0)
        weights[argument][1, 2, 3] = value
        expect_error(weighted_name, ValueError, make_inputs(weighted_name) | weights, f"{argument} must be finite")


@pytest.mark.parametrize("with_labels", [name for name, case in CASES.items() if "labels" in case.inputs])
@pytest.mark.parametrize("stray", [CLASSES, -1, 254])
def test_labels_that_are_no_class_are_told_where_they_count(with_labels, stray):
    inputs = make_inputs(with_labels)
    inputs["labels"][1, 2, 3] = stray
    expect_error(with_labels, ValueError, inputs, f"labels has {stray} but must have classes, 0 to 2, or ignore_label")
    keep = np.ones((BATCH, HEIGHT, WIDTH), bool)
    keep[1, 2, 3] = False
    plain = CASES[with_labels].loss(**inputs, **make_masks(with_labels, keep))
    np.testing.assert_allclose(plain, with_grads(with_labels)(inputs, **make_masks(with_labels, keep))[0], rtol=1e-5)
    ignored = make_inputs(with_labels)
    ignored["labels"][1, 2, 3] = 255
    np.testing.assert_array_equal(with_grads(with_labels)(inputs)[0], with_grads(with_labels)(ignored)[0])


@pytest.mark.parametrize("with_numbers", [name for name, case in CASES.items() if case.numbers])
def test_an_option_that_is_not_a_number_is_told(with_numbers):
    case = CASES[with_numbers]
    for number in case.numbers:
        for value in (float("nan"), np.ones(2)):
            wrong = make_inputs(with_numbers) | case.extra | case.numbers | {number: value}
            expect_error(with_numbers, ValueError, wrong, f"{number} is ")


def test_an_unknown_reduction_is_told(weighted_name):
    wrong = make_inputs(weighted_name) | {"reduction": "average"}
    expect_error(weighted_name, ValueError, wrong, "reduction is 'average' but must be one of mean, sum, none")


def test_a_list_raises_an_error_that_names_function_and_argument(name):
    arguments = make_inputs(name) | make_masks(name, True) | make_weights(name, 1.0)
    for argument, array in arguments.items():
        expect_error(name, TypeError, arguments | {argument: array.tolist()}, f"{argument} is a list but must be")


@pytest.mark.parametrize("public", losses.__all__)
def test_every_loss_is_documented_with_its_arguments_and_an_example(public):
    function = getattr(losses, public)
    documentation = inspect.getdoc(function)
    sections = [documentation.index(f"\n{section}:\n") for section in ("Args", "Returns", "Examples")]
    assert sections == sorted(sections)
    for argument in inspect.signature(function).parameters:
        assert f"\n  {argument}: " in documentation
    assert ">>> " in documentation[sections[2] :]


def test_every_loss_is_in_the_table():
    assert {public_name(name) for name in CASES} == set(losses.__all__)
