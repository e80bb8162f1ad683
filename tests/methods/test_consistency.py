"""`mean_teacher` and `unimatch`: views, partners, what teaches and what is taught."""

import jax
import numpy as np
import pytest
from method_steps import CLASSES, assert_close, forward, gradients, initial, make_batch, make_config, method_of, select

from semiseg_jax.data.types import IGNORE
from semiseg_jax.methods import mean_teacher, views

QUOTA = {"dense": 2, "unlabeled": 2}
ROWS = ("dense", "dense", "unlabeled", "unlabeled")


def config_with(method, **options):
    config = make_config(method, quota=QUOTA)
    config.consistency.update(options)
    if method == "unimatch" and "threshold" not in options:
        config.consistency.threshold = 0.0
    return config


def test_cutmix_takes_boxes_from_the_partner_and_its_inverse_restores_the_rows():
    batch = make_batch(("unlabeled",) * 4)
    boxes = np.asarray(jax.jit(lambda b: views.cutmix_boxes(b, 1, 1.0))(batch))
    assert boxes.any(axis=(1, 2)).all()
    share = boxes.mean(axis=(1, 2))
    assert (share > 0.01).all()
    assert (share < 0.5).all()
    mixed = np.asarray(views.cutmix(batch["image"], boxes))
    for row, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
        np.testing.assert_array_equal(mixed[row][boxes[row]], batch["image"][partner][boxes[row]])
        np.testing.assert_array_equal(mixed[row][~boxes[row]], batch["image"][row][~boxes[row]])
    assert not np.asarray(views.cutmix_boxes(batch, 1, 0.0)).any()


def test_a_row_without_a_partner_is_left_as_it_is_and_that_is_said_once(caplog):
    views._warn_of_lonely_rows.cache_clear()
    batch = make_batch(("unlabeled",) * 3)
    views.cutmix_boxes(select(batch, (0, 1)), 1, 1.0)
    views.cutmix_boxes(batch, 1, 0.0)
    assert not caplog.text
    boxes = views.cutmix_boxes(batch, 1, 1.0)
    np.testing.assert_array_equal(views.cutmix(batch["image"], boxes)[2], batch["image"][2])
    views.cutmix_boxes(batch, 2, 1.0)
    assert caplog.text.count("CutMix pairs rows without mask, but each device has 3") == 1


def test_strong_views_depend_on_seed_and_salt_and_keep_the_padding():
    batch = make_batch(("unlabeled",) * 2)
    view = jax.jit(views.strong_view, static_argnums=1)
    one, again, other = view(batch, 1), view(batch, 1), view(batch, 2)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_array_equal(one[~batch["valid"]], view(batch, 2)[~batch["valid"]])
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


@pytest.mark.parametrize("method", ["mean_teacher", "unimatch"])
def test_consistency_counts_from_its_start_on_and_ramps(method):
    config = config_with(method, start=0.5, ramp=0.2, weight=3.0)
    batch = make_batch(ROWS)
    if method == "mean_teacher":  # a teacher that disagrees is needed for a gradient: the views differ anyway
        assert float(gradients(config, batch)[2]["consistency"]) > 0
    before, after = (gradients(config, batch, step=step) for step in (24, 40))
    terms = sum(float(v) for k, v in before[2].items() if k == "cross_entropy")
    assert float(before[2]["loss"]) == pytest.approx(terms, rel=1e-5)
    assert float(after[2]["loss"]) > terms
    plain = gradients(make_config("supervised", quota=QUOTA), batch)[0]
    assert_close(before[0], plain, 1e-4)


def test_nothing_is_taught_above_a_threshold_that_no_pixel_reaches():
    batch = make_batch(ROWS)
    grads, _, metrics = gradients(config_with("unimatch", threshold=1.0), batch)
    assert float(metrics["accepted"]) == 0
    plain = gradients(make_config("supervised", quota=QUOTA), batch)[0]
    assert_close(grads, plain, 1e-4)


@pytest.mark.heavy
def test_class_weights_weigh_pseudo_labels_too():
    config = config_with("unimatch")
    config.class_weights = (0.0,) * CLASSES
    metrics = forward(config, make_batch(ROWS))[1]
    assert [float(value) for name, value in metrics.items() if name.startswith("consistency")] == [0, 0, 0]


def test_the_average_teaches_and_not_the_student():
    config = config_with("mean_teacher", cutmix=0.0)
    state, batch = initial(config), make_batch(ROWS)
    student = state.networks["segmenter"]
    teacher = jax.tree.map(np.zeros_like, student.params)  # of which all classes are alike
    state = state.replace(networks={"segmenter": student.replace(ema=teacher)})
    method, unlabelled = method_of(config), select(batch, (2, 3))

    def metrics(rows):
        params, stats = {"segmenter": student.params}, {"segmenter": student.batch_stats}
        return method.loss_of(state)(params, stats, rows, state.rng)[1][1]

    found = jax.jit(jax.vmap(metrics, axis_name="data"))(jax.tree.map(lambda x: x[None], batch))
    logits = jax.jit(lambda rows: method.look(student.variables, views.strong_view(rows, 2))["logits"])(unlabelled)
    distance = np.sum(np.square(jax.nn.softmax(logits) - 1 / CLASSES), axis=-1)
    assert float(found["consistency"][0]) == pytest.approx(distance[unlabelled["valid"]].mean(), rel=1e-4)


def test_a_pixel_of_a_mixed_image_is_valid_where_it_comes_from(monkeypatch):
    config, batch = config_with("mean_teacher", cutmix=1.0), make_batch(ROWS)
    monkeypatch.setattr(mean_teacher, "masked_mean", lambda values, valid, axis: valid.mean())
    unlabelled = select(batch, (2, 3))
    share = np.asarray(views.cutmix(unlabelled["valid"], views.cutmix_boxes(unlabelled, 1, 1.0))).mean()
    assert share != unlabelled["valid"].mean()
    assert float(forward(config, batch)[1]["consistency"]) == pytest.approx(share)


def test_consistency_is_a_mean_over_all_valid_pixels_kept_or_not():
    labels = np.full((1, 1, 4, 8), IGNORE)
    labels[..., :3] = 1
    valid = np.ones((1, 1, 4, 8), bool)
    valid[..., 6:] = False
    kept = jax.vmap(method_of(config_with("unimatch"))._kept, axis_name="data")
    found = kept(np.zeros((*labels.shape, CLASSES), np.float32), labels, valid)
    assert float(found[0]) == pytest.approx(np.log(CLASSES) * 3 / 6)


def test_the_teacher_follows_the_student():
    config = config_with("mean_teacher")
    state = initial(config)
    step = jax.jit(jax.vmap(method_of(config).train_step, in_axes=(None, 0), axis_name="data"))
    after, _ = step(state, jax.tree.map(lambda x: x[None], make_batch(ROWS)))
    network = jax.tree.map(lambda x: x[0], after.networks["segmenter"])
    decay = 1 / 10  # warm-up of the average at step 0
    expected = jax.tree.map(
        lambda old, new: decay * old + (1 - decay) * new, state.networks["segmenter"].ema, network.params
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), network.ema, expected)


@pytest.mark.heavy
def test_one_and_two_devices_see_the_same_views():
    batch = select(make_batch(ROWS * 2), (0, 1, 4, 5, 2, 3, 6, 7))
    spread = select(batch, (0, 1, 4, 5, 2, 3, 6, 7))
    config = config_with("unimatch")
    alone, both = gradients(config, batch), gradients(config, spread, 2)
    assert_close(both[0], alone[0], 1e-4)
    for name, value in alone[2].items():
        np.testing.assert_allclose(both[2][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", ["mean_teacher", "unimatch"])
def test_a_quota_of_masks_alone_fails_saying_what_is_missing(method):
    config = make_config(method, quota={"dense": 2})
    with pytest.raises(ValueError, match="learns from images without a mask"):
        method_of(config)


def test_a_teacher_needs_an_average():
    config = make_config("mean_teacher", quota=QUOTA)
    config.ema = 0.0
    with pytest.raises(ValueError, match=r"needs config\.ema above 0"):
        method_of(config)


def test_too_few_sure_pixels_are_warned_of():
    method = method_of(config_with("unimatch", threshold=0.95))
    assert "sure enough" in method.watch(40, {"accepted": 0.001})
    assert method.watch(40, {"accepted": 0.3}) == method.watch(10, {"accepted": 0.0}) == ""
