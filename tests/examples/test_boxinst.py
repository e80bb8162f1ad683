"""BoxInst, the example of a method from outside that is a sum of terms of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import CLASSES, forward, make_batch, make_config, method_of

from experiments.examples.boxinst import rgb_to_lab
from semiseg_jax.methods.terms import TermInput

pytestmark = pytest.mark.heavy

METHOD = "experiments.examples.boxinst:BoxInst"


def config_with():
    return make_config(METHOD, quota={"box": 1})


def value_of(name, logits, batch, low_logits=None):
    """The value of one term of the loss, and its other metrics."""
    term = method_of(config_with()).terms.active[name]
    outputs = {"logits": logits, "low_logits": logits if low_logits is None else low_logits}

    def value(logits, batch):
        return term(TermInput({**outputs, "logits": logits}, batch, jnp.int32(0)))

    found = jax.vmap(value, axis_name="data")(logits[None], jax.tree.map(lambda x: x[None], batch))
    return jax.tree.map(lambda x: float(x[0]), found)


def one_box(y0, x0, y1, x1, klass=1):
    batch = make_batch(("box",))
    batch["valid"][:] = True
    batch["boxes"][0, 0], batch["box_class"][0] = (y0, x0, y1, x1), (klass, -1, -1)
    return batch


def sure_of(mask):
    """Logits that say class 1 within the mask and background elsewhere."""
    return jnp.stack([jnp.where(mask, -20.0, 20.0), jnp.where(mask, 20.0, -20.0), jnp.full(mask.shape, -60.0)], -1)[
        None
    ]


def test_colours_have_the_lab_values_of_the_standard():
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1], [0.02, 0.02, 0.02]], np.float32)
    lab = [[53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [100, 0, 0], [1.40, 0, 0]]
    np.testing.assert_allclose(rgb_to_lab(colours), lab, atol=0.02)


def test_any_mask_that_touches_all_sides_of_its_box_has_the_right_projections():
    batch, mask = one_box(4, 6, 20, 26), np.zeros((32, 32), bool)
    mask[4:20, 15] = mask[10, 6:26] = True  # a cross
    assert value_of("projection", sure_of(mask), batch)[0] == pytest.approx(0, abs=1e-5)
    mask[4:8] = False
    rows, width = 12, 20  # of 16 rows, and all columns
    expected = 1 - 2 * rows / (rows + 16) + 1 - 2 * width / (width + 20)
    assert value_of("projection", sure_of(mask), batch)[0] == pytest.approx(expected, abs=1e-4)


def test_neighbours_that_look_alike_pay_for_different_classes_and_others_do_not():
    batch, mask = one_box(0, 0, 32, 32), np.zeros((32, 32), bool)
    mask[:, 16:] = True
    batch["image"] = np.where(mask[None, ..., None], 0.9, 0.1).astype(np.float32) * np.ones(3, np.float32)
    paid, metrics = value_of("pairwise", sure_of(mask), batch)
    assert paid == pytest.approx(0, abs=1e-5)  # the only edges across the border are between black and white
    assert 0.8 < metrics["pairwise_alike"] < 1
    batch["image"][:] = 0.5
    edges = 2 * 2 * 32 * 30 + 4 * 30 * 30
    across = 2 * 2 * (32 + 30 + 30)  # both ways, from two columns
    assert value_of("pairwise", sure_of(mask), batch)[0] == pytest.approx((40 - np.log(2)) * across / edges, rel=1e-4)


def test_only_rows_of_boxes_teach_and_padding_does_not():
    config = make_config(METHOD, quota={"dense": 1, "box": 1})
    grey = np.full((2, 32, 32, 3), 0.5, np.float32)
    both = forward(config, make_batch(("dense", "box")) | {"image": grey})[1]
    assert float(both["projection"]) > 0
    assert float(both["pairwise"]) > 0
    none = forward(config, make_batch(("dense", "unlabeled")) | {"image": grey})[1]
    assert float(none["projection"]) == float(none["pairwise"]) == 0
    batch = make_batch(("box",)) | {"image": grey[:1]}
    logits = jax.random.normal(jax.random.key(0), (1, 32, 32, CLASSES))
    other = jnp.where(batch["valid"][..., None], logits, 7.0)
    for name in ("projection", "pairwise"):
        assert value_of(name, logits, batch)[0] == value_of(name, other, batch, low_logits=other)[0]


def test_a_batch_without_boxes_is_refused():
    with pytest.raises(ValueError, match=r"terms\.projection looks at rows of box only"):
        method_of(make_config(METHOD, quota={"dense": 1}))
