"""CorrMatch, the example of a method from outside: both propagations, and the threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import CLASSES, assert_close, gradients, initial, make_batch, make_config, method_of, select, train

from experiments.examples.corrmatch import Correlation, spread_logits
from semiseg_jax.data.types import IGNORE
from semiseg_jax.methods import views
from semiseg_jax.models.layers import resize

pytestmark = pytest.mark.heavy

METHOD = "experiments.examples.corrmatch:CorrMatch"
ROWS = ("dense", "dense", "unlabeled", "unlabeled")


def config_with(**options):
    config = make_config(METHOD, quota={"dense": 2, "unlabeled": 2})
    config.corrmatch.update({"features": "down0", "channels": 8, "seeds": 5} | options)
    return config


def test_correlations_are_shares_and_pixels_hand_out_their_logits_by_them():
    features = jax.random.normal(jax.random.key(0), (2, 4, 6, 8))
    c, _ = Correlation(8, CLASSES).init_with_output(jax.random.key(1), features)
    np.testing.assert_allclose(np.sum(c, axis=-1), 1, rtol=1e-5)
    logits = jax.random.normal(jax.random.key(2), (2, 4, 6, CLASSES))
    found = np.asarray(spread_logits(c, logits, (4, 6)))
    at = np.asarray(logits).reshape(2, 24, CLASSES)
    expected = [[sum(c[b, i, j] * at[b, i] for i in range(24)) for j in range(24)] for b in range(2)]
    np.testing.assert_allclose(found.reshape(2, 24, CLASSES), expected, rtol=1e-4, atol=1e-5)
    assert not np.any(jax.grad(lambda x: jnp.sum(spread_logits(c, x, (4, 6))))(logits))


def test_regions_spread_the_class_of_their_sure_pixels_and_most_of_them_decide():
    tau, side, grid, seeds = 0.5, 32, (4, 4), 12
    batch = make_batch(("unlabeled", "unlabeled"), side)
    rng = np.random.default_rng(0)
    probs = jax.nn.softmax(resize(rng.normal(size=(2, 3, 3, CLASSES)) * 2, (side, side)))
    c = jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 16, 16)) * 2))
    method = method_of(config_with(seeds=seeds))
    label, far = map(np.asarray, jax.jit(method._labels, static_argnums=1)(c, grid, probs, batch, jnp.float32(tau)))
    sure = (np.max(probs, -1) >= tau) & batch["valid"]
    np.testing.assert_array_equal(label, np.where(sure, np.argmax(probs, -1), IGNORE))
    for b, seed in enumerate(views.seeds_of(batch, 4)):
        votes = np.zeros((side, side, CLASSES))
        for i in jax.random.randint(jax.random.key(seed), (seeds,), 0, 16):
            drawn = np.asarray(resize(c[b, i].reshape(1, *grid, 1), (side, side)))[0, ..., 0]
            region = (drawn - drawn.min() > 0.5 * (drawn.max() - drawn.min())) & batch["valid"][b]
            counts = np.bincount(label[b][region & sure[b]], minlength=CLASSES)
            if counts.sum() and counts.sum() >= tau * region.sum() and counts.max() > tau * counts.sum():
                votes[region, counts.argmax()] += 1
        np.testing.assert_array_equal(far[b], np.where(votes.any(-1), votes.argmax(-1), label[b]))
        assert (far[b] != label[b]).any()


def test_the_threshold_follows_the_highest_probability_of_each_predicted_class():
    method = method_of(config_with(momentum=0.9))
    probs = np.full((1, 2, 2, CLASSES), 0.1)
    probs[0, 0, 0], probs[0, 0, 1], probs[0, 1, 0], probs[0, 1, 1] = (
        [0.9, 0.1, 0], [0.7, 0.2, 0.1], [0.2, 0.8, 0], [0, 0, 1.0]
    )  # fmt: skip
    valid = np.array([[[True, True], [True, False]]])
    found = jax.vmap(method._threshold, axis_name="data")(jnp.array([0.5]), probs[None], valid[None])
    assert float(found[0]) == pytest.approx(0.9 * 0.5 + 0.1 * (0.9 + 0.8) / 2)
    nothing = jax.vmap(method._threshold, axis_name="data")(jnp.array([0.5]), probs[None], np.zeros_like(valid)[None])
    assert float(nothing[0]) == 0.5


def test_the_state_keeps_the_threshold_and_sure_pixels_teach(monkeypatch):
    monkeypatch.setattr(views, "strong_view", lambda batch, salt: batch["image"] * 0.8)  # compiles fast
    config = config_with(threshold=0.4, momentum=0.9)
    start = initial(config)
    network = start.networks["correlation"].replace(batch_stats={"threshold": np.float32(0.4)})
    start = start.replace(networks={**start.networks, "correlation": network})
    states, metrics = train(config, make_batch(ROWS), 2, start=start)
    kept = [float(state.networks["correlation"].batch_stats["threshold"]) for state in states]
    assert kept == [float(values["threshold"]) for values in metrics]
    assert 0.4 < kept[0] < kept[1] < 1
    for values in metrics:
        assert 0 < values["accepted"] <= values["accepted_regions"] <= 1
        parts = sum(float(v) for k, v in values.items() if k.startswith(("consistency", "correlation_")))
        labelled = float(values["cross_entropy"] + values["correlation"])
        assert float(values["loss"]) == pytest.approx(labelled + 0.5 * parts, rel=1e-5)


def test_one_and_two_devices_compute_the_same(monkeypatch):
    monkeypatch.setattr(views, "strong_view", lambda batch, salt: batch["image"] * 0.8)  # compiles fast
    batch = select(make_batch(ROWS * 2), (0, 1, 4, 5, 2, 3, 6, 7))
    spread = select(batch, (0, 1, 4, 5, 2, 3, 6, 7))
    alone, both = gradients(config_with(), batch), gradients(config_with(), spread, 2)
    assert_close(both[0], alone[0], 1e-4)
    for name, value in alone[2].items():
        np.testing.assert_allclose(both[2][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
