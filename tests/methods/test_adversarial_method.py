"""`adversarial`: what reaches which network, who counts as labelled, streams, starts and warnings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import (
    CLASSES,
    assert_close,
    forward,
    gradients,
    initial,
    make_batch,
    make_config,
    method_of,
    select,
    train,
)

from semiseg_jax.data.types import IGNORE

QUOTA = {"dense": 2, "unlabeled": 2}
ROWS = ("dense", "dense", "unlabeled", "unlabeled")
OFF = {"adversarial_labelled_weight": 0.0, "adversarial_unlabelled_weight": 0.0, "semi_weight": 0.0}


def config_with(quota=QUOTA, norm="group", **options):
    config = make_config("adversarial", quota=quota, norm=norm)
    config.adversarial.update({"semi_start": 0.0} | options)
    return config


def test_the_discriminator_starts_at_log_two_with_a_zero_last_layer():
    config = config_with()
    state = initial(config)
    last = jax.tree.map(np.zeros_like, state.networks["discriminator"].params["classifier"])
    params = {**state.networks["discriminator"].params, "classifier": last}
    discriminator = state.networks["discriminator"].replace(params=params)
    state = state.replace(networks={**state.networks, "discriminator": discriminator})
    _, (metrics,) = train(config, make_batch(ROWS), 1, start=state)
    assert float(metrics["discriminator"]) == pytest.approx(np.log(2), abs=1e-5)


def test_nothing_of_the_discriminators_loss_reaches_the_segmenter():
    plain = make_config("supervised", quota=QUOTA)
    batch = make_batch(ROWS)
    alone = gradients(plain, batch)[0]["segmenter"]
    beside = gradients(config_with(**OFF), batch)[0]["segmenter"]
    assert_close(beside, alone, 1e-5)


def test_nothing_of_the_segmenters_loss_reaches_the_discriminator():
    batch = make_batch(ROWS)
    strong = dict.fromkeys(OFF, 10.0)
    with_terms, without = (gradients(config_with(**o), batch)[0]["discriminator"] for o in (strong, OFF))
    assert_close(with_terms, without, 1e-5)


def test_each_term_moves_the_segmenter_from_its_start_on():
    starts = {"adversarial_labelled": 10, "adversarial_unlabelled": 20, "semi": 30}
    config = config_with(threshold=0.0, **{f"{name}_start": start / 50 for name, start in starts.items()})
    config.adversarial.update({f"{name}_weight": 1.0 for name in starts})
    batch = make_batch(ROWS)
    before = gradients(config_with(**OFF), batch)[0]["segmenter"]
    for start in starts.values():
        found, after = (gradients(config, batch, step=step)[0]["segmenter"] for step in (start - 1, start))
        assert_close(found, before, 1e-5)
        with pytest.raises(AssertionError):
            assert_close(after, before, 1e-3)
        before = after


def test_self_training_accepts_all_pixels_at_threshold_zero_and_none_at_one():
    batch = make_batch(ROWS)
    for threshold, share in ((0.0, 1.0), (1.0, 0.0)):
        metrics = forward(config_with(threshold=threshold), batch)[1]
        assert float(metrics["accepted"]) == share
        assert (float(metrics["semi"]) > 0) == bool(share)
        assert float(metrics["adversarial_unlabelled"]) > 0  # also where nothing is accepted
        assert np.asarray(metrics["confidence_histogram"]).sum() == pytest.approx(1)


def test_class_weights_weigh_self_training_too():
    config = config_with(threshold=0.0)
    config.class_weights = (0.0,) * CLASSES
    assert float(forward(config, make_batch(ROWS))[1]["semi"]) == 0


def test_labels_in_padding_do_not_matter_to_the_segmenter():
    batch = make_batch(ROWS)
    other = batch | {"label": np.where(batch["valid"], batch["label"], 1)}
    one, two = (gradients(config_with(), rows) for rows in (batch, other))
    for name in ("cross_entropy", "adversarial_labelled", "adversarial_unlabelled", "semi"):
        np.testing.assert_allclose(two[2][name], one[2][name], rtol=1e-6)
    assert_close(two[0]["segmenter"], one[0]["segmenter"], 1e-5)


def test_rows_with_other_labels_count_as_unlabelled():
    config = config_with(quota={"dense": 1, "scribble": 1, "box": 1})
    metrics = forward(config, make_batch(("dense", "scribble", "box")))[1]
    assert float(metrics["adversarial_unlabelled"]) > 0
    only_dense = forward(config, make_batch(("dense",)))[1]
    assert float(only_dense["adversarial_unlabelled"]) == float(only_dense["semi"]) == 0


def test_the_real_stream_shows_its_labels_to_the_discriminator_alone():
    """The first row is real only: its image changes nothing, its labels change L_D."""
    config = config_with(quota={"dense": 3, "unlabeled": 1}, real_rows=1, fill_void=False)
    batch = make_batch(("dense", "dense", "dense", "unlabeled"))
    grads, _, metrics = gradients(config, batch)
    other_image = batch | {"image": np.concatenate([1 - batch["image"][:1], batch["image"][1:]])}
    same, _, _ = gradients(config, other_image)
    assert_close(same, grads, 1e-6)
    other_label = batch | {"label": np.concatenate([np.zeros_like(batch["label"][:1]), batch["label"][1:]])}
    changed, _, changed_metrics = gradients(config, other_label)
    assert_close(changed["segmenter"], grads["segmenter"], 1e-6)
    assert float(changed_metrics["discriminator"]) != float(metrics["discriminator"])


def test_void_pixels_of_true_maps_teach_the_discriminator_nothing():
    """Whether pixels without a label exist at all changes nothing: neither is judged as real."""
    config = config_with(quota={"dense": 3, "unlabeled": 1}, real_rows=1, fill_void=False)
    batch = make_batch(("dense", "dense", "dense", "unlabeled"))
    void, gone = batch["label"].copy(), batch["valid"].copy()
    void[0, :8] = IGNORE
    gone[0, :8] = False
    one, two = (gradients(config, batch | {"label": void, "valid": valid}) for valid in (batch["valid"], gone))
    assert float(one[2]["discriminator"]) == float(two[2]["discriminator"])
    assert_close(one[0]["discriminator"], two[0]["discriminator"], 1e-6)


def test_hard_maps_hide_how_soft_predictions_are():
    batch = make_batch(ROWS)
    for hard in (True, False):
        config = config_with(hard_maps=hard)
        soft, sharp = (
            float(train(config, batch, 1, start=sharpened(config, by))[1][0]["discriminator"]) for by in (1.0, 5.0)
        )
        assert np.isclose(sharp, soft, rtol=1e-6, atol=0) == hard


def sharpened(config, factor):
    """The first state, of a segmenter whose logits are `factor` times as large."""
    state = initial(config)
    network = state.networks["segmenter"]
    head = jax.tree.map(lambda x: factor * x, network.params["classifier"])
    segmenter = network.replace(params={**network.params, "classifier": head})
    return state.replace(networks={**state.networks, "segmenter": segmenter})


def test_hard_maps_let_the_adversarial_gradient_through():
    batch = make_batch(ROWS)
    plain = gradients(config_with(**OFF), batch)[0]
    taught = gradients(config_with(**OFF | {"adversarial_unlabelled_weight": 1.0, "hard_maps": True}), batch)[0]
    with pytest.raises(AssertionError):
        assert_close(taught["segmenter"], plain["segmenter"], 1e-3)


@pytest.mark.heavy
def test_a_true_map_that_is_the_prediction_cannot_be_told_from_it():
    """Neither by its void and padding, where it has no label, nor by being one-hot."""
    batch = make_batch(("dense", "dense"))
    for fill in (True, False):
        config = config_with(quota={"dense": 2}, fill_void=fill, hard_maps=True)
        config.optimizer.learning_rate = 0.0
        config.adversarial.optimizer.learning_rate = 0.02
        variables = initial(config).networks["segmenter"].variables
        own = np.argmax(method_of(config).look(variables, batch["image"])["logits"], axis=-1)
        _, metrics = train(config, batch | {"label": np.where(batch["label"] == IGNORE, IGNORE, own)}, steps=30)
        lowest = min(float(row["discriminator"]) for row in metrics)
        assert lowest >= np.log(2) - 1e-4 if fill else lowest < 0.5


def test_void_of_rows_that_the_segmenter_does_not_see_cannot_be_filled():
    with pytest.raises(ValueError, match="real_rows are not seen"):
        method_of(config_with(quota={"dense": 2, "unlabeled": 1}, real_rows=1))


def test_one_and_two_devices_agree():
    batch = make_batch(ROWS * 2)
    batch = select(batch, (0, 1, 4, 5, 2, 3, 6, 7))
    spread = select(batch, (0, 1, 4, 5, 2, 3, 6, 7))
    alone, both = gradients(config_with(), batch), gradients(config_with(), spread, 2)
    assert_close(both[0], alone[0], 1e-4)
    for name, value in alone[2].items():
        np.testing.assert_allclose(both[2][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_both_networks_are_updated_with_their_own_optimiser():
    config = config_with()
    config.optimizer.update({"name": "sgd", "learning_rate": 0.0})
    config.adversarial.optimizer.learning_rate = 1e-3
    start = initial(config)
    states, metrics = train(config, make_batch(ROWS), 1)
    moved = {
        name: max(
            np.abs(a - b).max()
            for a, b in zip(jax.tree.leaves(network.params), jax.tree.leaves(start.networks[name].params), strict=True)
        )
        for name, network in states[0].networks.items()
    }
    assert moved["segmenter"] == 0
    assert moved["discriminator"] == pytest.approx(1e-3, rel=0.01)
    assert {"grad_norm_segmenter", "grad_norm_discriminator"} <= metrics[0].keys()


@pytest.mark.parametrize(
    ("step", "means", "words"),
    [
        (30, {"discriminator": 0.3, "accepted": 0.2}, ""),
        (30, {"discriminator": 0.05, "accepted": 0.2}, "the discriminator wins"),
        (30, {"discriminator": 0.3, "accepted": 0.0}, "accepts hardly a pixel"),
        (5, {"discriminator": 0.3, "accepted": 0.0}, ""),
        (30, {"discriminator": 0.3}, ""),
        (30, {"discriminator": 0.69, "accepted": 1.0}, "hardly tells"),
        (5, {"discriminator": 0.69, "accepted": 1.0}, ""),
    ],
)
def test_a_plain_warning_says_when_the_game_is_over(step, means, words):
    warning = method_of(config_with(semi_start=0.25)).watch(step, means)
    assert words in warning
    assert bool(warning) == bool(words)


@pytest.mark.parametrize(("loss", "wins"), [(0.165, True), (0.2, True), (0.24, False)])
def test_with_smoothed_labels_the_discriminator_wins_above_the_least_loss_there_is(loss, wins):
    """A discriminator that knows everything pays half the entropy of 0.1, that is 0.163."""
    warning = method_of(config_with(label_smoothing=0.1)).watch(30, {"discriminator": loss})
    assert ("wins" in warning) == wins
    assert "label_smoothing" not in warning


def test_a_quota_without_masks_fails_naming_it():
    with pytest.raises(ValueError, match=r"needs rows with masks, more than adversarial\.real_rows=2"):
        method_of(config_with(real_rows=2, fill_void=False))


def test_the_class_agnostic_discriminator_cannot_tell_classes_apart():
    config = config_with(class_agnostic=True)
    batch = make_batch(ROWS)
    swapped = batch | {"label": np.where(batch["label"] == 1, 2, np.where(batch["label"] == 2, 1, batch["label"]))}
    one, two = (float(forward(config, b)[1]["discriminator"]) for b in (batch, swapped))
    assert one == pytest.approx(two, rel=1e-6)
    assert jnp.isfinite(one)


@pytest.mark.parametrize("seen", [True, False])
def test_whether_the_discriminator_judges_the_image_too(seen):
    """With a segmenter that says the same everywhere, another image changes only what D itself sees of it."""
    config = config_with(sees_image=seen)
    batch, state = make_batch(ROWS), sharpened(config, 0.0)
    one, two = (
        float(train(config, batch | {"image": image}, 1, start=state)[1][0]["discriminator"])
        for image in (batch["image"], 1 - batch["image"])
    )
    assert (one != two) == seen
