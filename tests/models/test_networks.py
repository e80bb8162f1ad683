"""Segmentation networks and backbones: shapes, dtypes, derivatives, strides, parameter counts, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from random_weights import fill

from semiseg_jax.models import MODELS, Classifier, Discriminator, make_backbone, make_model, mobilenet, resnet, summary
from semiseg_jax.ops.convolution import convolution_form

SMALL = {
    "deeplab_mobile": {"channels": 16, "skip_channels": 8},
    "deeplab_v2": {"backbone": "resnet18"},
    "deeplab_v3plus": {"backbone": "resnet18", "channels": 16},
    "unet": {"widths": (8, 16)},
}
CLASSES = 3


@pytest.fixture
def shallow(monkeypatch):
    """Backbones of one block a group: all kinds of layers, and a fraction of the compilation."""
    monkeypatch.setattr(resnet, "DEPTHS", {18: ((1, 1, 1, 1), False)})
    monkeypatch.setattr(
        mobilenet, "GROUPS", [(expansion, *rest, 1, stride) for expansion, *rest, _, stride in mobilenet.GROUPS]
    )
    monkeypatch.setattr(mobilenet, "STAGES", {1: "stem", 2: "layer1", 3: "layer2", 5: "layer3", 7: "layer4"})


def images(batch: int = 1, height: int = 33, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)


def outputs(model, image, **options):
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.eval_shape(lambda v, x: model.apply(v, x, method="outputs", **options), variables, image)


def init(model):
    return model.init(jax.random.key(0), images())


def count(model):
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda: init(model))["params"]))


def test_every_network_is_tested():
    assert SMALL.keys() == MODELS.keys()


@pytest.mark.parametrize(("batch", "size"), [(2, (65, 97)), (1, (1, 1)), (0, (32, 40))])
@pytest.mark.parametrize("name", SMALL)
def test_logits_have_the_size_of_the_image(name, size, batch, shallow):
    found = outputs(make_model(name, CLASSES, **SMALL[name]), images(batch, *size))
    assert found["logits"].shape == (batch, *size, CLASSES)
    assert found["logits"].dtype == found["low_logits"].dtype == jnp.float32
    assert "variance" not in found


def slope(model, variables, image):
    """params -> a number that depends on all of them."""
    rest = {name: value for name, value in variables.items() if name != "params"}

    def loss(params):
        logits, _ = model.apply({"params": params, **rest}, image, train=True, mutable=["batch_stats"])
        return jnp.mean(jnp.square(logits - 1))

    return loss


def test_forward_derivatives_of_a_step_are_those_of_reverse():
    """The change of the loss along a direction is the gradient's share in it."""
    model, image = make_model("unet", CLASSES, **SMALL["unet"]), images(2, 32, 32)
    variables, _ = fill(model, image)
    random = np.random.default_rng(1)
    along = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), variables["params"])

    @jax.jit
    def both(params):
        loss = slope(model, variables, image)
        gradient, (_, change) = jax.grad(loss)(params), jax.jvp(loss, (params,), (along,))
        return change, sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, along)))

    forward, reverse = both(variables["params"])
    assert abs(forward) > 1e-3
    np.testing.assert_allclose(forward, reverse, rtol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives_exist_reverse_over_forward(name, shallow):
    model, image = make_model(name, CLASSES, **SMALL[name]), images(2, 32, 32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def products(params):
        loss = slope(model, jax.tree.map(jnp.zeros_like, variables), image)
        return jax.grad(lambda params: jax.jvp(loss, (params,), (params,))[1])(params)

    found = jax.eval_shape(products, variables["params"])
    assert jax.tree.structure(found) == jax.tree.structure(variables["params"])


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_traced_for_a_batch_over_explicit_axes(name, shallow):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Explicit,))
    model, image = make_model(name, CLASSES, **SMALL[name]), images(2, 32, 32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def placed(x, spec):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        arguments = jax.tree.map(lambda x: placed(x, P()), variables), placed(image, P("data"))
        logits, gradients = jax.eval_shape(
            lambda variables, image: (
                model.apply(variables, image),
                jax.grad(slope(model, variables, image))(variables["params"]),
            ),
            *arguments,
        )
    assert logits.sharding.spec[0] == "data"
    assert jax.tree.structure(gradients) == jax.tree.structure(variables["params"])


@pytest.mark.parametrize(
    "model",
    [*(make_model(name, CLASSES) for name in SMALL), Classifier(CLASSES), make_backbone("mobilenet_v2")],
    ids=lambda model: type(model).__name__,
)
def test_images_that_are_not_standardised_floats_are_refused(model):
    name = type(model).__name__
    with pytest.raises(TypeError, match=rf"{name}: image is uint8 but must be floating, standardised; give .*standard"):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"{name}: image is \[1,3,64,64\] but must be \[B,H,W,3\]"):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize("model", [*(make_model(name, CLASSES, **SMALL[name]) for name in SMALL), Discriminator(4)])
def test_products_that_make_logits_have_full_precision_on_every_backend(model, shallow):
    image = np.zeros((1, 65, 65, 3), np.float32)  # for the discriminator a map of three classes
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    with convolution_form("library"):
        jaxpr = jax.make_jaxpr(model.apply)(variables, image)
    products = [
        equation for equation in jaxpr.jaxpr.eqns if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    # The last ones: the classifier, and the interpolation along rows and columns.
    assert len(products) > 3
    for equation in products[-3:]:
        assert set(equation.params["precision"]) == {jax.lax.Precision.HIGHEST}, equation


@pytest.mark.parametrize(("stride", "low"), [(8, 9), (16, 5), (32, 3)])
def test_output_stride_sets_the_size_of_the_low_logits(stride, low, shallow):
    found = outputs(make_model("deeplab_v2", CLASSES, backbone="resnet18", output_stride=stride), images(1, 65, 65))
    assert found["low_logits"].shape == (1, low, low, CLASSES)
    found = outputs(make_model("deeplab_v3plus", CLASSES, backbone="resnet18", output_stride=stride), images(1, 65, 65))
    assert found["low_logits"].shape == (1, 17, 17, CLASSES)


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_backbones_name_their_stages(backbone, stride, shallow):
    model = make_backbone(backbone, output_stride=stride)
    image = images(1, 64, 96)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    stages = jax.eval_shape(model.apply, variables, image)
    sizes = {name: stage.shape[1:3] for name, stage in stages.items()}
    nominal = {"stem": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    assert sizes == {name: (64 // min(s, stride), 96 // min(s, stride)) for name, s in nominal.items()}


def test_dilated_mobilenet_sees_what_the_strided_one_sees(shallow):
    """Every other pixel of the dilated features is what stride gives."""
    image = images(1, 97, 65)
    strided, dilated = (make_backbone("mobilenet_v2", output_stride=stride, norm="none") for stride in (32, 16))
    variables, _ = fill(strided, image)
    np.testing.assert_allclose(
        jax.jit(dilated.apply)(variables, image)["layer4"][:, ::2, ::2],
        jax.jit(strided.apply)(variables, image)["layer4"],
        atol=1e-4,
    )


def test_parameter_counts_are_the_published_ones():
    assert count(make_model("deeplab_v2", 21)) == 44_048_532
    assert count(Classifier(1000)) == 25_557_032
    assert count(Classifier(1000, backbone="resnet18")) == 11_689_512
    assert count(Classifier(1000, backbone="mobilenet_v2")) == 3_504_872
    assert count(Classifier(1001, backbone="mobilenet_v2", layout="tensorflow", norm="none")) == 3_489_097


def test_variance_is_positive_and_bounded():
    model, image = make_model("unet", CLASSES, variance=True, widths=(4,)), images(2)
    variables = jax.jit(model.init)(jax.random.key(0), image)
    for bias in (-1e9, 0.0, 1e9):
        variables["params"]["variance"]["bias"] = jnp.full((1,), bias)
        variance = model.apply(variables, image, method="outputs")["variance"]
        assert variance.shape == image.shape[:3]
        assert 0 < float(variance.min()) <= float(variance.max()) <= 1e4


@pytest.mark.parametrize("name", SMALL)
def test_parameters_and_outputs_are_float32_in_half_precision_too(name, shallow):
    model, image = make_model(name, CLASSES, dtype="bfloat16", variance=True, **SMALL[name]), images(2)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found, updated = jax.eval_shape(
        lambda v: model.apply(v, image, train=True, mutable=["batch_stats"], method="outputs"), variables
    )
    assert {x.dtype for x in jax.tree.leaves((found, updated))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", [pytest.param("deeplab_v2", marks=pytest.mark.heavy), "unet"])
def test_remat_changes_memory_only(name, shallow):
    """Gradients of both are finite, and the same."""
    image = images(2, 32, 32)
    plain, saving = (make_model(name, CLASSES, remat=remat, **SMALL[name]) for remat in (False, True))
    variables, _ = fill(plain, image)
    assert jax.tree.structure(jax.eval_shape(saving.init, jax.random.key(0), image)) == jax.tree.structure(variables)

    def gradients(model):
        def loss(params):
            logits, _ = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
            return jnp.sum(jnp.square(logits - 1))

        return jax.tree.leaves(jax.jit(jax.grad(loss))(variables["params"]))

    for one, other in zip(gradients(plain), gradients(saving), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, atol=1e-3 * max(np.abs(one).max(), 1e-3))


def test_class_activation_maps_add_up_to_the_logits(shallow):
    model = Classifier(CLASSES, backbone="resnet18")
    image = images(2, 64, 48)
    variables, _ = fill(model, image)
    found = jax.jit(functools.partial(model.apply, method="outputs"))(variables, image)
    bias = variables["params"]["classifier"]["bias"]
    np.testing.assert_allclose(found["cam"].mean((1, 2)) + bias, found["logits"], rtol=1e-4, atol=1e-6)


def test_summary_counts_work_and_parameters():
    model = Classifier(1000)
    found = summary(model, (1, 224, 224, 3))
    assert found.parameters == 25_557_032
    assert found.multiply_adds == pytest.approx(4.09e9, rel=1e-2)  # as published for ResNet-50
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ["backbone/conv1", *(f"backbone/layer{i}" for i in range(1, 5)), "classifier"]
    assert rows["backbone/layer3"].output == (1, 14, 14, 1024)
    assert "25,557,032" in str(found)


def test_summary_counts_depthwise_convolutions_too():
    found = summary(Classifier(1000, backbone="mobilenet_v2"), (1, 224, 224, 3))
    assert found.multiply_adds == pytest.approx(0.301e9, rel=1e-2)  # as published for MobileNetV2


@pytest.mark.heavy
def test_training_memory_is_estimated_within_a_factor_of_two():
    model = make_model("deeplab_v3plus", CLASSES, backbone="resnet18", norm="batch")
    image = images(2, 128, 128)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def loss(params, stats):
        logits, _ = model.apply({"params": params, "batch_stats": stats}, image, train=True, mutable=["batch_stats"])
        return jnp.mean(logits**2)

    compiled = jax.jit(jax.grad(loss)).lower(variables["params"], variables["batch_stats"]).compile()
    memory = compiled.memory_analysis()
    # Without an optimiser: parameters, gradients and what the gradient needs.
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    found = summary(model, image)
    estimate = found.training_bytes("sgd") - 4 * found.parameters
    assert 0.5 < estimate / needed < 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make_backbone("vgg16"), "unknown backbone 'vgg16'; known: resnet18, .*, mobilenet_v2"),
        (lambda: init(make_backbone("resnet18", output_stride=4)), "output_stride is 4; known: 32, 16, 8"),
        (lambda: init(make_backbone("resnet18", layout="tensorflow")), "layout is 'tensorflow'; known: torchvision"),
        (lambda: init(make_backbone("resnet18", norm="layer")), r"unknown model\.norm 'layer'; known: batch"),
        (lambda: init(make_model("deeplab_v2", 3, aspp_branches=5)), "aspp_branches is 5; known: 1, 2, 3, 4"),
        (lambda: make_model("deeplab_v2", 3, rates=3), "has no option rates; its options: .*aspp_branches"),
    ],
)
def test_unknown_options_fail_with_the_known_ones(build, message):
    with pytest.raises(ValueError, match=message):
        build()
