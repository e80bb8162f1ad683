"""Features by name: the same of every network, also with recomputed blocks, and names that do not exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.models import MODELS, feature_shapes, make_model
from semiseg_jax.models.features import outputs_of

SMALL = {
    "unet": {"widths": (4, 8)},
    "deeplab_v2": {"backbone": "resnet18"},
    "deeplab_v3plus": {"backbone": "resnet18"},
}
ASKED = {
    "unet": ("down1", "up0", "down0/conv2"),
    "deeplab_mobile": ("backbone/layer4", "backbone/block_03", "decoder_2"),
    "deeplab_v2": ("backbone/layer4", "backbone/layer1_0"),
    "deeplab_v3plus": ("backbone/layer1", "backbone/layer4_1", "aspp_fuse_norm"),
}


@pytest.mark.parametrize(("name", "remat"), [*((name, False) for name in MODELS), ("unet", True), ("deeplab_v2", True)])
def test_features_of_every_network_have_the_shapes_that_are_listed(name, remat):
    model = make_model(name, 3, remat=remat, **SMALL.get(name, {}))
    listed = feature_shapes(model, (2, 32, 32, 3))
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def run(image):
        variables = model.init(jax.random.key(0), image)
        return outputs_of(model, variables, image, train=True, features=ASKED[name])

    outputs, stats = jax.eval_shape(run, image)
    assert {feature: x.shape for feature, x in outputs["features"].items()} == {f: listed[f] for f in ASKED[name]}
    assert bool(stats) == (name != "unet")


@pytest.mark.heavy
def test_features_are_what_the_network_computes():
    model = make_model("unet", 3, widths=(4, 8))
    image = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    variables = model.init(jax.random.key(0), image)
    outputs, _ = outputs_of(model, variables, image, train=False, features=("up0", "classifier"))
    np.testing.assert_array_equal(outputs["features"]["classifier"], outputs["low_logits"])
    head = variables["params"]["classifier"]
    again = outputs["features"]["up0"] @ head["kernel"][0, 0] + head["bias"]
    np.testing.assert_allclose(again, outputs["low_logits"], rtol=1e-5, atol=1e-6)
    plain, _ = outputs_of(model, variables, image, train=False)
    np.testing.assert_array_equal(plain["logits"], outputs["logits"])


def test_a_name_that_no_module_has_is_refused_with_names_that_exist():
    model = make_model("unet", 3, widths=(4, 8))
    image = jnp.zeros((1, 16, 16, 3))
    with pytest.raises(ValueError, match=r"UNet has no features 'down9'\. Did you mean down\d or .*; `semiseg summary"):
        outputs_of(model, model.init(jax.random.key(0), image), image, train=False, features=("down9",))
