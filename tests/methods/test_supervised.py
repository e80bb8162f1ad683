"""`supervised`: gradients over devices and micro-batches, the average, and batches without labels."""

import jax
import jax.numpy as jnp
import method_steps
import numpy as np
import optax
import pytest
from method_steps import CLASSES, assert_close, initial, make_config, method_of, select, train
from ml_collections import ConfigDict

from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.engine import parallel

SIZE = (16, 16)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def make_batch(rows: int = 4) -> dict[str, np.ndarray]:
    """Later rows have ever fewer labelled pixels, so that devices and micro-batches hold unequal masks."""
    rng = np.random.default_rng(0)
    image = rng.random((rows, *SIZE, 3), np.float32)
    label = image.argmax(-1).astype(np.int32)  # the strongest colour: can be learned
    valid = np.ones((rows, *SIZE), bool)
    valid[0, :, 12:] = False
    for row in range(rows):
        label[row][rng.random(SIZE) < row / rows] = IGNORE
    label[-1] = IGNORE
    label[-1, 3, 4:7] = 1
    return {
        "image": image,
        "label": label,
        "valid": valid,
        "boxes": np.zeros((rows, 1, 4), np.float32),
        "box_class": np.full((rows, 1), -1, np.int32),
        "tags": np.full((rows, CLASSES), -1, np.int8),
        "kind": np.full(rows, int(Supervision.SCRIBBLE), np.int32),
        "id": np.zeros((rows, 2), np.int32),
    }


def gradients(config: ConfigDict, batch: dict, count: int = 1) -> tuple:
    """(gradients, batch statistics, metrics) of the one network."""
    grads, batch_stats, metrics = method_steps.gradients(config, batch, count)
    return grads["segmenter"], batch_stats["segmenter"], metrics


@pytest.mark.parametrize("weights", [(1.0, 2.0, 0.5), ()])
def test_two_devices_with_unequal_masks_give_the_gradients_of_one(weights):
    config = make_config(class_weights=weights)
    alone, _, alone_metrics = gradients(config, make_batch(), 1)
    spread, _, spread_metrics = gradients(config, make_batch(), 2)
    assert_close(spread, alone, 1e-5)
    for name, value in alone_metrics.items():
        np.testing.assert_allclose(spread_metrics[name], value, rtol=1e-5, err_msg=name)


def test_two_devices_with_batch_norm_give_gradients_and_statistics_of_one():
    config = make_config(norm="batch")
    alone, spread = (gradients(config, make_batch(), count) for count in (1, 2))
    assert_close(spread[0], alone[0], 1e-4)
    assert_close(spread[1], alone[1], 1e-5)


def test_gradients_equal_those_of_the_plain_loss():
    config, batch = make_config(), make_batch()
    method, state = method_of(config), initial(config)

    def plain(params):
        logits = method_of(config).model.apply({"params": params}, (batch["image"] - MEAN) / STD)
        counted = (batch["label"] != IGNORE) & batch["valid"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, np.where(counted, batch["label"], 0))
        return jnp.sum(losses * counted) / counted.sum()

    assert method.model.axis_name == parallel.AXIS
    value, expected = jax.jit(jax.value_and_grad(plain))(state.networks["segmenter"].params)
    grads, _, metrics = gradients(config, batch)
    assert_close(grads, jax.tree.map(np.asarray, expected), 1e-4)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)


def test_mappers_agree_bit_for_bit():
    config = make_config(ema=0.9)
    one, other = (train(config, make_batch(), 2, 2, mapper) for mapper in ("shard_map", "pmap"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("parts", "count"), [(2, 2), (4, 1)])
def test_accumulated_gradients_are_the_mean_over_micro_batches(parts, count):
    batch = make_batch(8)
    rows_of = np.arange(8).reshape(count, parts, -1)  # device, micro-batch, rows
    single = [gradients(make_config(), select(batch, rows_of[:, i].ravel()), count) for i in range(parts)]
    grads, _, metrics = gradients(make_config(accumulate=parts), batch, count)
    assert_close(grads, jax.tree.map(lambda *g: sum(g) / parts, *[s[0] for s in single]), 1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean([s[2]["loss"] for s in single]), rtol=1e-5)


def test_accumulation_updates_batch_statistics_once_a_micro_batch():
    _, once, _ = gradients(make_config(norm="batch"), make_batch())
    _, twice, _ = gradients(make_config(norm="batch", accumulate=2), make_batch())
    start = initial(make_config(norm="batch")).networks["segmenter"].batch_stats
    moved = [np.linalg.norm(s["stem_norm"]["mean"]) for s in (start, once, twice)]
    assert moved[0] == 0
    assert moved[1] < moved[2]


def test_average_follows_its_formula_and_warms_up():
    config = make_config(ema=0.15)
    states, _ = train(config, make_batch(), 4)
    average = initial(config).networks["segmenter"].params
    for step, state in enumerate(states):
        network = state.networks["segmenter"]
        decay = min(0.15, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, network.params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), network.ema, average)


def test_evaluation_uses_the_average_unless_raw_weights_are_asked_for():
    config = make_config(ema=0.5)
    method = method_of(config)
    state = train(config, make_batch(), 2)[0][-1]
    network = state.networks["segmenter"]
    assert method.eval_variables(state)["params"] is network.ema
    assert method.eval_variables(state, "raw")["params"] is network.params
    without = initial(make_config())
    assert without.networks["segmenter"].ema is None
    assert method.eval_variables(without)["params"] is without.networks["segmenter"].params


def test_class_weights_of_another_length_fail_with_both_numbers():
    with pytest.raises(ValueError, match="class_weights has 2 entries but there are 3 classes"):
        method_of(make_config(class_weights=(1.0, 2.0)))


def test_class_weight_zero_leaves_a_class_out():
    batch = make_batch()
    without = make_batch()
    without["label"] = np.where(batch["label"] == 2, IGNORE, batch["label"])
    weighted = gradients(make_config(class_weights=(1.0, 1.0, 0.0)), batch)[0]
    assert_close(weighted, gradients(make_config(), without)[0], 1e-5)


def test_labels_outside_valid_pixels_do_not_matter():
    batch, other = make_batch(), make_batch()
    other["label"] = np.where(batch["valid"], batch["label"], 2)
    jax.tree.map(np.testing.assert_array_equal, gradients(make_config(), batch)[0], gradients(make_config(), other)[0])


@pytest.mark.parametrize(("how", "norm", "name"), [("label", "group", "sgd"), ("valid", "batch", "adamw")])
def test_batch_without_any_label_gives_loss_zero_and_a_finite_unmoved_state(how, norm, name):
    config = make_config(norm=norm, ema=0.9)
    config.optimizer.weight_decay = 0.0
    config.optimizer.name = name
    batch = make_batch()
    batch[how] = np.full_like(batch[how], IGNORE if how == "label" else 0)
    states, metrics = train(config, batch, 2, count=2)
    assert metrics[-1]["loss"] == metrics[-1]["grad_norm"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1]))
    jax.tree.map(
        np.testing.assert_array_equal,
        states[-1].networks["segmenter"].params,
        initial(config).networks["segmenter"].params,
    )


def test_bfloat16_trains_with_float32_parameters_and_stays_finite():
    config = make_config(dtype="bfloat16", norm="batch", ema=0.9)
    states, metrics = train(config, make_batch(), 3, count=2)
    network = states[-1].networks["segmenter"]
    held = jax.tree.leaves((network.params, network.ema, network.batch_stats))
    assert {leaf.dtype for leaf in held} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states[-1]))
    assert all(np.isfinite(list(values.values())).all() for values in metrics)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_loss_falls_when_overfitting_one_tiny_batch(name):
    config = make_config()
    config.model.norm = "none"
    config.optimizer.update({"name": name, "learning_rate": 0.02 if name == "adamw" else 0.1})
    batch = make_batch(2)
    batch["label"] = np.where(np.arange(16)[:, None] < 8, 0, 2) + np.zeros_like(batch["label"])
    batch["image"] = np.where(batch["label"][..., None] > 0, batch["image"] / 2, 1 - batch["image"] / 2)
    _, metrics = train(config, batch, 30)
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]


def test_step_counts_and_keeps_the_structure_of_the_state():
    config = make_config(ema=0.9, norm="batch")
    states, metrics = train(config, make_batch(), 2)
    assert states[-1].step == 2
    assert jax.tree.structure(states[-1]) == jax.tree.structure(initial(config))
    assert metrics[0].keys() == {"loss", "cross_entropy", "labelled_pixels", "grad_norm"}
    assert metrics[0]["labelled_pixels"] == pytest.approx(np.mean(make_batch()["label"] != IGNORE))


def test_predictions_are_probabilities_and_uint8_equals_unit_range():
    config = make_config()
    method, state = method_of(config), initial(config)
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.uint8)
    predict = jax.jit(method.predict)
    probs = predict(method.eval_variables(state), jnp.asarray(images))
    assert (probs.shape, probs.dtype) == ((2, *SIZE, CLASSES), jnp.float32)
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
    unit = predict(method.eval_variables(state), jnp.asarray(images, jnp.float32) / 255)
    np.testing.assert_allclose(probs, unit, atol=1e-5)


def test_unknown_method_fails_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown method 'magic'\. Known methods: .*supervised"):
        make_config(method="magic")


@pytest.mark.parametrize("norms", [{"norm": "frozen"}, {"norm": "batch", "head_norm": "affine_frozen"}, {}])
def test_scales_that_do_not_learn_do_not_decay(norms):
    config = make_config()
    config.model = {"name": "deeplab_v3plus" if "head_norm" in norms else "deeplab_v2", **norms}
    config.optimizer.decay_vectors = True  # {}: the network's own norm is frozen
    with pytest.raises(ValueError, match=r"decay_vectors would shrink the scales of model\.norm='(affine_)?frozen'"):
        method_of(config)
