"""Post-processing of predictions: what it does to one image, and that inference applies it last."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.config import default_config, settings
from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.inference import Inference, Predictor
from semiseg_jax.engine.postprocess import Post, make_post, mrf_labels
from semiseg_jax.ops import mean_field, standardize


def options(name: str, **changes) -> Post:
    return Post(name=name, **changes)


def noisy(size=(30, 41)):
    """Two flat halves, and probabilities of which a tenth of the pixels disagree."""
    rng = np.random.default_rng(0)
    image = np.zeros((*size, 3), np.uint8)
    image[:, size[1] // 2 :] = 200
    truth = (image[..., 0] > 0).astype(int)
    seen = np.where(rng.random(size) < 0.1, 1 - truth, truth)
    return image, truth, (0.6 * np.eye(2)[seen] + 0.2).astype(np.float32)


def test_without_a_name_there_is_none():
    assert make_post(options("")) is None


def test_cuts_without_their_package_are_refused_before_anything_is_cut(monkeypatch):
    monkeypatch.setitem(sys.modules, "maxflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"eval\.post\.name='mrf' needs PyMaxflow: pip install PyMaxflow"):
        make_post(options("mrf"))


@pytest.mark.parametrize("name", ["mrf", "mean_field"])
def test_pixels_that_disagree_with_their_surroundings_are_mended(name):
    image, truth, probs = noisy()
    refined = make_post(options(name))(image, probs)
    assert refined.shape == probs.shape
    np.testing.assert_allclose(refined.sum(-1), 1, rtol=1e-5)
    assert np.mean(probs.argmax(-1) == truth) < 0.93 < 0.99 < np.mean(refined.argmax(-1) == truth)


def test_labels_that_are_given_stay_whatever_a_boundary_costs():
    image, truth, probs = noisy()
    given = np.full(truth.shape, IGNORE, np.uint8)
    given[3, 4], given[7, 30] = 1, 0
    assert truth[3, 4] == 0
    assert truth[7, 30] == 1
    labels = mrf_labels(options("mrf", beta=1e4, contrast=0.0), image, probs, given)
    known = given != IGNORE
    np.testing.assert_array_equal(labels[known], given[known])
    assert len(np.unique(labels[~known])) == 1  # one class over all others: no boundary is cheaper


def test_colours_of_the_classes_tell_what_probabilities_do_not():
    image, truth, _ = noisy()
    probs = np.where(truth == 1, 0.9, 0.1)
    probs[20:26, 4:10] = 0.45  # a dark corner that looks like class 0, far from certain
    image[20:26, 4:10] = 200  # with the colour of class 1
    probs = np.stack([1 - probs, probs, np.zeros_like(probs)], -1)
    assert (mrf_labels(options("mrf", beta=0.1), image, probs) == truth).all()
    labels = mrf_labels(options("mrf", beta=0.1, color=1.0), image, probs)
    expected = truth.copy()
    expected[20:26, 4:10] = 1
    np.testing.assert_array_equal(labels, expected)
    given = np.where(expected != truth, 0, IGNORE).astype(np.uint8)
    np.testing.assert_array_equal(mrf_labels(options("mrf", beta=0.1, color=1.0), image, probs, given), truth)


def test_mean_field_of_a_padded_image_is_that_of_the_image():
    image, _, probs = noisy()
    expected = mean_field(jnp.asarray(probs)[None], standardize(image)[None])[0]
    np.testing.assert_allclose(make_post(options("mean_field"))(image, probs), expected, atol=1e-5)


def test_the_predictor_applies_it_after_everything_else():
    image, truth, probs = noisy((32, 64))
    table = jnp.asarray(probs)

    def predict(variables, tiles):
        return jnp.broadcast_to(table, (len(tiles), *table.shape))

    (refined,) = Predictor(predict, {}, Inference((32, 64), (32, 64), post=make_post(options("mrf"))), 2)([image])
    assert set(np.unique(refined)) == {0.0, 1.0}
    assert np.mean(refined.argmax(-1) == truth) > 0.99


@pytest.mark.parametrize(("field", "value"), [("name", "crf"), ("connectivity", 6), ("beta", -1.0)])
def test_impossible_options_are_refused(field, value):
    config = default_config()
    config.eval.post[field] = value
    with pytest.raises(ValueError, match=f"config.eval.post.{field}"):
        settings(config)
