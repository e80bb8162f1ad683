"""What all losses promise alike, over one table of them."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from two_devices import loss_and_grad_on_two_devices

from semiseg_jax import losses

BATCH, HEIGHT, WIDTH, CLASSES = 4, 5, 6, 3


class Case(NamedTuple):
    """A loss, what its inputs are by argument name, which of them receive a gradient, and its masks."""

    loss: Callable[..., jax.Array]
    inputs: dict[str, str]
    scores: tuple[str, ...]
    masks: tuple[str, ...] = ("where",)


CASES = {
    "partial_cross_entropy": Case(losses.partial_cross_entropy, {"logits": "logits", "labels": "labels"}, ("logits",)),
    "total_variation": Case(losses.total_variation, {"probs": "probs"}, ("probs",)),
    "curvilinear_total_variation": Case(losses.curvilinear_total_variation, {"probs": "probs"}, ("probs",)),
    "gated_crf": Case(
        functools.partial(losses.gated_crf, radius=2),
        {"probs": "probs", "image": "image"},
        ("probs",),
        ("source_mask", "target_mask"),
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
    ),
    "adversarial_loss": Case(losses.adversarial_loss, {"fake_logits": "map"}, ("fake_logits",)),
    "confident_self_training": Case(
        losses.confident_self_training, {"logits": "logits", "confidence": "confidence"}, ("logits",)
    ),
}


@pytest.fixture(scope="module", params=CASES)
def name(request):
    """Every loss in turn; module scope keeps the tests of one loss, which share compiled programs, together."""
    return request.param


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


def expect_error(name, error, arguments, message, jit=False):
    """The error starts with the name of the public function."""
    function = CASES[name].loss
    public_name = getattr(function, "func", function).__name__
    with pytest.raises(error, match=f"^{public_name}: {message}"):
        (jax.jit(function) if jit else function)(**arguments)


@functools.cache
def with_grads(name):
    """Compiled (inputs, **masks) -> loss and the gradient of every input that receives one."""
    case = CASES[name]

    def split(scores, others, masks):
        return case.loss(**scores, **others, **masks)

    compiled = jax.jit(jax.value_and_grad(split))

    def call(inputs, **masks):
        scores = {key: inputs[key] for key in case.scores}
        return compiled(scores, {key: inputs[key] for key in inputs if key not in scores}, masks)

    return call


def test_a_loss_is_a_float32_scalar_and_its_gradient_has_the_dtype_of_the_input(name):
    inputs = cast(make_inputs(name), jnp.bfloat16)
    loss, grads = with_grads(name)(inputs)
    assert loss.shape == ()
    assert loss.dtype == jnp.float32
    assert float(loss) > 0
    for argument, grad in grads.items():
        assert grad.dtype == jnp.bfloat16
        assert grad.shape == inputs[argument].shape
        assert np.asarray(grad, np.float32).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_caller_who_allows_no_implicit_promotion(name, dtype):
    inputs, masks = cast(make_inputs(name), dtype), make_masks(name, np.ones((BATCH, 1, 1), bool))
    case = CASES[name]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        others = {key: jnp.asarray(x) for key, x in inputs.items() if key not in case.scores}
        scores = {key: jnp.asarray(inputs[key]) for key in case.scores}
        masks = {key: jnp.asarray(x) for key, x in masks.items()}
        loss = jax.jit(jax.value_and_grad(lambda scores: case.loss(**scores, **others, **masks)))(scores)[0]
    np.testing.assert_allclose(loss, with_grads(name)(inputs, **masks)[0], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)])
def test_half_precision_inputs_stay_close_to_float32(name, dtype, tolerance):
    loss, expected = (with_grads(name)(cast(make_inputs(name), kind))[0] for kind in (dtype, jnp.float32))
    np.testing.assert_allclose(loss, expected, rtol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "size"), [(jnp.float32, 1e4), (jnp.bfloat16, 1e4), (jnp.float16, 1e4), (jnp.float16, 6e4)]
)
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
def test_masked_out_pixels_do_not_matter_whatever_they_hold(name, value):
    inputs = make_inputs(name)
    keep = np.random.default_rng(2).uniform(size=(BATCH, HEIGHT, WIDTH)) < 0.7
    masks = make_masks(name, keep)
    expected, expected_grads = with_grads(name)(inputs, **masks)
    dirty = make_inputs(name)
    for argument in dirty.keys() - {"labels"}:
        dirty[argument][~keep] = value
    loss, grads = with_grads(name)(dirty, **masks)
    assert np.isfinite(loss)
    np.testing.assert_array_equal(loss, expected)
    jax.tree.map(np.testing.assert_array_equal, grads, expected_grads)


def test_jit_equals_a_plain_call(name):
    inputs = make_inputs(name)
    np.testing.assert_allclose(CASES[name].loss(**inputs), with_grads(name)(inputs)[0], rtol=1e-5)


def test_vmap_equals_a_loop_and_a_batch_is_the_mean_of_its_images(name):
    inputs = {key: x[:, None] for key, x in make_inputs(name).items()}

    def loss(scores, others):
        return CASES[name].loss(**scores, **others)

    scores = {key: inputs.pop(key) for key in CASES[name].scores}
    mapped, grads = jax.jit(jax.vmap(jax.value_and_grad(loss)))(scores, inputs)
    alone = [with_grads(name)(jax.tree.map(lambda x, i=i: x[i], scores | inputs)) for i in range(BATCH)]
    np.testing.assert_allclose(mapped, [value for value, _ in alone], rtol=1e-5)
    for argument, grad in grads.items():
        np.testing.assert_allclose(grad, [one[argument] for _, one in alone], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(with_grads(name)(make_inputs(name))[0], np.mean(mapped), rtol=1e-5)


def test_rematerialisation_gives_the_same_gradient(name):
    inputs, scores = make_inputs(name), CASES[name].scores
    _, expected = with_grads(name)(inputs)

    @jax.jit
    @jax.grad
    @jax.checkpoint
    def rematerialised(scores):
        return CASES[name].loss(**(inputs | scores))

    grads = rematerialised({key: inputs[key] for key in scores})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), grads, expected)


@pytest.mark.parametrize(("mapper", "second_device"), [("pmap", "no pixel"), ("shard_map", "few pixels")])
def test_loss_and_gradient_over_two_devices_are_those_of_the_global_batch(name, mapper, second_device):
    case, inputs = CASES[name], make_inputs(name)
    keep = np.ones((BATCH, HEIGHT, WIDTH), bool)
    keep[BATCH // 2 :] = False
    if second_device == "few pixels":
        keep[-1, 1:3, 2:4] = True
    params = {"scale": jnp.float32(0.7), "shift": jnp.array([0.1, -0.2, 0.3])}

    def loss(params, **rows):
        for argument in case.scores:
            x = rows[argument] * params["scale"]
            x = x + (params["shift"] if x.ndim == 4 else params["shift"][0])
            activation = {"probs": jax.nn.softmax, "variance": jax.nn.softplus}.get(case.inputs[argument])
            rows[argument] = activation(x) if activation else x
        return case.loss(**rows)

    rows = inputs | make_masks(name, keep)
    expected, expected_grads = jax.jit(jax.value_and_grad(loss))(params, **rows)
    value, grads = loss_and_grad_on_two_devices(functools.partial(loss, axis_name="data"), mapper, params, rows)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), grads, expected_grads)


def test_a_batch_on_a_mesh_with_explicit_axes_gives_the_same_loss_and_gradient(name):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    inputs = make_inputs(name) | make_masks(name, True)
    spread = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    scores = CASES[name].scores

    @jax.jit
    def call(inputs):
        others = {key: array for key, array in inputs.items() if key not in scores}
        chosen = {key: inputs[key] for key in scores}
        return jax.value_and_grad(lambda scores: CASES[name].loss(**scores, **others))(chosen)

    found, expected = call(spread), call(inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)


def test_double_precision_gives_double_precision_where_it_is_on(name):
    expected, _ = with_grads(name)(make_inputs(name))
    with jax.enable_x64(True):
        loss, grads = with_grads(name)(cast(make_inputs(name), jnp.float64))
    assert loss.dtype == jnp.float64
    assert {grad.dtype for grad in grads.values()} == {np.dtype(np.float64)}
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_single_precision_stays_single_precision_where_double_precision_is_on(name):
    with jax.enable_x64(True):
        loss, grads = jax.eval_shape(with_grads(name), cast(make_inputs(name), jnp.float32))
    assert loss.dtype == jnp.float32
    assert {grad.dtype for grad in grads.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("jit", [False, True])
def test_a_wrong_rank_raises_an_error_that_names_function_and_argument(name, jit):
    arguments = make_inputs(name) | make_masks(name, True)
    for argument, array in arguments.items():
        expect_error(name, ValueError, arguments | {argument: array[0, 0]}, rf"{argument} is \[", jit)


def test_a_mask_of_the_wrong_shape_raises_an_error_that_names_function_and_argument(name):
    for argument in CASES[name].masks:
        for shape in ((BATCH, HEIGHT, WIDTH - 1), (BATCH, HEIGHT - 1, WIDTH), (1, HEIGHT, WIDTH)):
            arguments = make_inputs(name) | {argument: np.ones(shape, bool)}
            expect_error(name, ValueError, arguments, rf"{argument} is \[")


@pytest.mark.parametrize("jit", [False, True])
def test_a_wrong_number_type_raises_an_error_that_names_function_and_argument(name, jit):
    inputs = make_inputs(name)
    for argument, array in inputs.items():
        wrong = array.astype(np.float32 if argument == "labels" else np.int32)
        expect_error(name, TypeError, inputs | {argument: wrong}, f"{argument} is {wrong.dtype}", jit)


def test_a_list_raises_an_error_that_names_function_and_argument(name):
    arguments = make_inputs(name) | make_masks(name, True)
    for argument, array in arguments.items():
        expect_error(name, TypeError, arguments | {argument: array.tolist()}, f"{argument} is a list but must be")


@pytest.mark.parametrize("public_name", losses.__all__)
def test_every_loss_is_documented_with_its_arguments_and_an_example(public_name):
    function = getattr(losses, public_name)
    documentation = inspect.getdoc(function)
    sections = [documentation.index(f"\n{section}:\n") for section in ("Args", "Returns", "Examples")]
    assert sections == sorted(sections)
    for argument in inspect.signature(function).parameters:
        assert f"\n  {argument}: " in documentation
    assert ">>> " in documentation[sections[2] :]


def test_every_loss_is_in_the_table():
    functions = {getattr(case.loss, "func", case.loss) for case in CASES.values()}
    assert functions == {getattr(losses, name) for name in losses.__all__}
