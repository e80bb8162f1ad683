"""The term of boxes: candidate labels, when the network may correct them, and what the variance learns from."""

import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import CLASSES, assert_close, forward, gradients, initial, make_batch, make_config, method_of, select
from ml_collections import ConfigDict

from semiseg_jax.data.types import IGNORE
from semiseg_jax.methods.terms import TermInput

SIDE = 32
FIRST, SECOND = (slice(3, 17), slice(4, 20)), (slice(10, 28), slice(12, 29))  # the boxes of method_steps.make_batch


def config_with(**options):
    config = make_config("label_uncertainty", quota={"dense": 1, "box": 1})
    config.terms.boxes.update({"bootstrap_start": 0.0} | options)
    return config


def box_batch(boxes=None, classes=None):
    batch = make_batch(["box"])
    batch["valid"][:] = True
    if boxes is not None:
        batch["boxes"][:], batch["box_class"][:] = 0, -1
        batch["boxes"][0, : len(boxes)] = boxes
        batch["box_class"][0, : len(boxes)] = classes
    return batch


def logits_of(labels, strength=4.0):
    return strength * np.eye(CLASSES, dtype=np.float32)[labels]


def targets(batch, labels, variance=1e3, step=1, **options):
    """What the term makes of a prediction of `labels` [H,W]."""
    term = method_of(config_with(**options)).terms.active["boxes"]
    outputs = {
        "logits": jnp.asarray(logits_of(labels))[None],
        "variance": jnp.full((1, SIDE, SIDE), variance) if np.ndim(variance) == 0 else jnp.asarray(variance)[None],
    }
    found = term.targets(TermInput(outputs, batch, jnp.asarray(step))).__dict__
    return {name: np.asarray(value[0]) for name, value in found.items()}


def test_inside_is_any_class_whose_box_covers_the_pixel_and_outside_is_background():
    found = targets(box_batch(), np.zeros((SIDE, SIDE), int), bootstrap_start=1.0)
    expected = np.zeros((SIDE, SIDE, CLASSES), bool)
    expected[(*FIRST, 1)] = True
    expected[(*SECOND, 2)] = True
    np.testing.assert_array_equal(found["candidates"], expected)
    np.testing.assert_array_equal(found["inside"], expected.any(-1))
    np.testing.assert_array_equal(found["outside"], ~expected.any(-1))


def test_ignore_regions_and_padding_are_neither_inside_nor_outside():
    batch = box_batch([(3, 4, 17, 20), (20, 0, 32, 32)], [1, 255])
    batch["valid"][0, :, 25:] = False
    found = targets(batch, np.zeros((SIDE, SIDE), int))
    assert not (found["inside"] | found["outside"])[20:].any()
    assert not (found["inside"] | found["outside"])[:, 25:].any()


def object_in_first_box():
    """A cross that touches all four sides of the box."""
    labels = np.zeros((SIDE, SIDE), int)
    labels[3:17, 9:15] = 1
    labels[7:12, 4:20] = 1
    return labels


ONE_BOX = ([(3, 4, 17, 20)], [1])


def test_bootstrapping_flips_background_of_high_variance_and_leaves_out_the_rest():
    labels, variance = object_in_first_box(), np.full((SIDE, SIDE), 1e3, np.float32)
    variance[:, 10:] = 0.1
    found = targets(box_batch(*ONE_BOX), labels, variance)
    box = np.zeros((SIDE, SIDE), bool)
    box[FIRST] = True
    wrong = box & (labels == 0)
    np.testing.assert_array_equal(found["flipped"], wrong & (variance > 8))
    np.testing.assert_array_equal(found["inside"], box & ~(wrong & (variance < 8)))
    assert found["candidates"][found["flipped"]].tolist() == [[True, False, False]] * int(found["flipped"].sum())
    kept = box & (labels == 1)
    assert found["candidates"][kept].tolist() == [[False, True, False]] * int(kept.sum())


@pytest.mark.parametrize(("step", "flips"), [(14, False), (15, True)])
def test_bootstrapping_starts_when_it_says(step, flips):
    found = targets(box_batch(*ONE_BOX), object_in_first_box(), step=step, bootstrap_start=0.3)
    assert found["flipped"].any() == flips


def small_object():
    labels = np.zeros((SIDE, SIDE), int)
    labels[3:17, 9:10] = 1
    labels[7:8, 4:20] = 1
    return labels  # 29 of 224 pixels


def object_off_a_side():
    labels = object_in_first_box()
    labels[:, 16:] = 0
    return labels


def object_in_two_parts():
    labels = object_in_first_box()
    labels[:, 10:13] = 0
    labels[3:17, 4:6] = labels[3:17, 18:20] = 1
    return labels


@pytest.mark.parametrize("make", [small_object, object_off_a_side, object_in_two_parts])
def test_a_box_that_its_object_does_not_fill_or_cross_is_not_corrected(make):
    found = targets(box_batch(*ONE_BOX), make())
    assert not found["passes"][0]
    assert not found["flipped"].any()
    assert found["inside"].sum() == 14 * 16


def test_of_a_box_that_the_crop_cuts_little_may_be_filled():
    labels = object_in_first_box()
    labels[3:17, 4:20] = 0
    labels[3:17, 0:2] = 1  # the object lies at the left border of the crop
    found = targets(box_batch([(3, 0, 17, 20)], [1]), labels)
    assert not found["passes"][0]  # most columns hold nothing of it
    labels[9, :20] = 1
    assert targets(box_batch([(3, 0, 17, 20)], [1]), labels)["passes"][0]


def test_where_boxes_overlap_all_of_them_must_be_trusted():
    labels = object_in_first_box()
    found = targets(box_batch(), labels)  # the second box holds no object of its class
    overlap = np.zeros((SIDE, SIDE), bool)
    overlap[10:17, 12:20] = True
    assert found["passes"].tolist() == [True, False, False]
    assert found["flipped"].any()
    assert not found["flipped"][overlap].any()


@pytest.mark.parametrize("seed", range(3))
def test_corrected_labels_are_never_positive_outside_of_boxes(seed):
    rng = np.random.default_rng(seed)
    found = targets(box_batch(), rng.integers(0, CLASSES, (SIDE, SIDE)), rng.uniform(0, 50, (SIDE, SIDE)))
    assert not found["candidates"][found["outside"]].any()
    assert not (found["inside"] & found["outside"]).any()


def test_boxes_as_masks_and_boxes_left_out():
    labels = object_in_first_box()
    as_masks = targets(box_batch(*ONE_BOX), labels, inside="foreground")
    assert as_masks["inside"].sum() == 14 * 16
    assert not as_masks["flipped"].any()
    left_out = targets(box_batch(*ONE_BOX), labels, inside="ignore")
    assert not left_out["inside"].any()
    np.testing.assert_array_equal(left_out["outside"], as_masks["outside"])


@pytest.mark.parametrize("inside", ["uncertainty", "foreground"])
def test_class_weights_weigh_what_is_inside_of_boxes(inside):
    batch = select(make_batch(["box"]), [0])
    plain = config_with(inside=inside)
    alike, apart, none = (ConfigDict(plain.to_dict()) for _ in range(3))
    alike.class_weights, apart.class_weights, none.class_weights = (2.0,) * CLASSES, (1.0, 1.0, 5.0), (1.0, 0.0, 0.0)
    value = [float(forward(config, batch)[1]["boxes_inside"]) for config in (plain, alike, apart, none)]
    assert value[0] == pytest.approx(value[1], rel=1e-5)
    assert abs(value[0] - value[2]) > 1e-3
    assert value[3] == 0


def test_class_weights_go_with_a_variance_of_exact_masks():
    config = config_with(scope="all")
    config.class_weights = (1.0, 0.0, 0.0)
    label = make_batch(["dense"])["label"]
    background = gradients(config, make_batch(["dense"]))[0]
    others_left_out = gradients(config, make_batch(["dense"]) | {"label": np.where(label > 0, IGNORE, label)})[0]
    assert_close(background, others_left_out, 1e-5)


def test_exact_masks_teach_the_variance_nothing_in_the_default_scope():
    batch = make_batch(["dense", "box"])
    variance = lambda grads: np.abs(grads["segmenter"]["variance"]["kernel"]).max()  # noqa: E731
    assert variance(gradients(config_with(), select(batch, [0]))[0]) == 0
    assert variance(gradients(config_with(), select(batch, [1]))[0]) > 0
    assert variance(gradients(config_with(scope="all"), select(batch, [0]))[0]) > 0


def test_inside_counts_from_its_start_on_and_outside_from_the_first_step():
    batch = make_batch(["box"])
    config = config_with(inside_start=0.5, bootstrap_start=1.0)
    before = gradients(config, batch, step=24)
    outside_only = config_with(inside="ignore")
    plain = gradients(outside_only, batch)
    value = lambda found: float(found[2]["boxes"])  # noqa: E731
    assert value(before) == pytest.approx(value(plain), rel=1e-5)
    after = gradients(config, batch, step=25)
    weight = config.terms.boxes.inside_weight
    total = float(after[2]["boxes_outside"] + weight * after[2]["boxes_inside"])
    assert value(after) == pytest.approx(total, rel=1e-5)
    assert_close(before[0]["segmenter"]["classifier"], plain[0]["segmenter"]["classifier"], 1e-5)


def test_at_first_only_the_variance_head_learns_from_what_is_inside():
    batch = make_batch(["box"])
    config = config_with(inside_start=0.0, mean_start=0.5, bootstrap_start=1.0, inside_weight=1.0)
    outside = gradients(config_with(inside="ignore"), batch)[0]["segmenter"]
    found = gradients(config, batch, step=24)[0]["segmenter"]
    assert np.abs(found.pop("variance")["kernel"]).max() > 0
    assert_close(found, outside, 1e-5)
    found = gradients(config, batch, step=25)[0]["segmenter"]
    assert np.abs(found["classifier"]["kernel"] - outside["classifier"]["kernel"]).max() > 1e-3


def test_the_network_gets_a_variance_head_only_where_it_is_needed():
    heads = {
        inside: "variance" in initial(config_with(inside=inside)).networks["segmenter"].params
        for inside in ("uncertainty", "foreground", "ignore")
    }
    assert heads == {"uncertainty": True, "foreground": False, "ignore": False}
