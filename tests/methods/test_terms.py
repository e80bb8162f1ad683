"""Terms of the loss: schedules, which rows they look at, and that a term which is off leaves no trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import (
    CLASSES,
    KINDS,
    assert_close,
    gradients,
    initial,
    make_batch,
    make_config,
    method_of,
    select,
    train,
)

from semiseg_jax.config import from_json, settings
from semiseg_jax.data.types import IGNORE, Supervision
from semiseg_jax.methods import base
from semiseg_jax.methods.terms import TermInput

EXTRA = {  # what turns each term on, beside the cross-entropy
    "cross_entropy": {},
    "total_variation": {"weight": 0.5, "start": 0.0, "ramp": 0.0},
    "gated_crf": {"weight": 0.1, "start": 0.0},
    "boxes": {"weight": 1.0, "inside_start": 0.0},
    "made_labels": {"weight": 1.0},
    "absent_tags": {"weight": 1.0},
}


def config_with(**terms):
    config = make_config(quota={"dense": 1, "scribble": 1, "box": 1, "tags": 1, "unlabeled": 1})
    for name, options in terms.items():
        config.terms[name].update(options)
    config.data.made_labels = "somewhere" if config.terms.made_labels.weight else ""
    settings(config)
    return config


def mixed(**changes):
    return make_batch(("dense", "scribble", "box", "tags", "unlabeled")) | changes


def look(config, batch, rows=None, step=0):
    """What the terms say of random outputs for `rows` of a batch -> ((total, metrics), gradients by output)."""
    rows = range(len(batch["kind"])) if rows is None else rows
    rng = np.random.default_rng(5)
    everything = {
        "logits": rng.normal(size=(8, 32, 32, CLASSES)),
        "low_logits": rng.normal(size=(8, 16, 16, CLASSES)),
        "variance": rng.uniform(0, 20, size=(8, 32, 32)),
    }
    outputs = {name: value[list(rows)].astype(np.float32) for name, value in everything.items()}

    found = _look(config.to_json_best_effort())(*jax.tree.map(lambda x: x[None], (outputs, batch)), step)
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


@functools.lru_cache(maxsize=16)
def _look(config_json):
    """One compiled program for all calls with the same config."""
    method = method_of(from_json(config_json))

    def run(outputs, batch, step):
        return jax.value_and_grad(lambda outputs: method.terms(TermInput(outputs, batch, step)), has_aux=True)(outputs)

    return jax.jit(jax.vmap(run, in_axes=(0, 0, None), axis_name="data"))


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (4, 0.0), (5, 0.2), (9, 1.0), (49, 1.0)])
def test_weight_is_zero_before_its_start_then_ramps_and_stays(step, weight):
    assert float(base.scheduled(2.0, 0.1, 0.1, step, 50)) == pytest.approx(2 * weight)


def test_without_start_and_ramp_the_weight_is_there_from_the_first_step():
    assert float(base.scheduled(2.0, 0.0, 0.0, 0, 50)) == 2


@pytest.mark.parametrize("name", ["total_variation", "gated_crf", "absent_tags"])
def test_a_term_counts_from_its_start_on(name):
    config = config_with(**{name: EXTRA[name] | {"start": 0.5}})
    (before, metrics), _ = look(config, mixed(), step=24)
    (after, _), _ = look(config, mixed(), step=25)
    assert float(before) == pytest.approx(float(metrics["cross_entropy"]))
    expected = metrics["cross_entropy"] + EXTRA[name]["weight"] * metrics[name]
    assert float(after) == pytest.approx(float(expected), rel=1e-5)


def test_a_term_that_is_off_leaves_no_trace_in_the_program():
    def program(config):
        method, state = method_of(config), initial(config_with())
        step = jax.shard_map(
            method.train_step,
            mesh=jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=(jax.P(), jax.P("data")),
            out_specs=(jax.P(), jax.P()),
        )
        return str(jax.make_jaxpr(step)(state, mixed()))

    off = config_with(**{name: options | {"weight": 0.0} for name, options in EXTRA.items() if name != "cross_entropy"})
    assert program(off) == program(config_with())


# What each term ignores: rows of these kinds change nothing in it.
IGNORED = [
    ("cross_entropy", {}, ("dense", "points"), ("box", "tags", "unlabeled")),
    ("cross_entropy", {"average": "images"}, ("dense", "points"), ("box", "tags", "unlabeled")),
    ("cross_entropy", {"kinds": ("scribble",)}, ("scribble",), ("dense", "points", "unlabeled")),
    ("total_variation", {"kinds": ("unlabeled",)}, ("unlabeled",), ("dense", "scribble", "box", "tags")),
    ("total_variation", {"norm": "l2", "kinds": ("scribble",)}, ("scribble",), ("dense", "unlabeled")),
    ("total_variation", {"contrast": 0.5, "kinds": ("scribble",)}, ("scribble",), ("dense",)),
    ("total_variation", {"norm": "curvilinear", "kinds": ("scribble",)}, ("scribble",), ("dense",)),
    ("gated_crf", {"kinds": ("scribble", "points")}, ("scribble", "points"), ("dense", "box", "unlabeled")),
    ("gated_crf", {"kinds": ("points",), "sources": "labelled"}, ("points",), ("scribble", "unlabeled")),
    ("boxes", {}, ("box",), ("dense", "scribble", "points", "tags", "unlabeled")),
    ("boxes", {"inside": "foreground"}, ("box",), ("dense", "unlabeled")),
    ("boxes", {"inside": "ignore"}, ("box",), ("dense", "unlabeled")),
    ("absent_tags", {}, ("tags",), ("dense", "box", "unlabeled")),
]


@pytest.mark.parametrize(("name", "options", "used", "ignored"), IGNORED)
def test_rows_of_a_kind_that_a_term_ignores_change_nothing_in_it(name, options, used, ignored):
    config = config_with(**{name: EXTRA[name] | options})
    config.data.quota = dict.fromkeys((kind.name.lower() for kind in KINDS), 1)
    if name != "cross_entropy":
        config.terms.cross_entropy.kinds = ("partial",)  # there are none
    rows = [kind for kind in KINDS if kind.name.lower() in (*used, *ignored)]
    batch = make_batch(rows)
    uses = [i for i, kind in enumerate(rows) if kind.name.lower() in used]
    (_, alone), gradient = look(config, select(batch, uses), rows=uses)
    (_, together), whole = look(config, batch)
    assert float(alone[name]) > 0
    np.testing.assert_allclose(together[name], alone[name], rtol=1e-5)
    for output, slopes in whole.items():
        np.testing.assert_allclose(slopes[uses], gradient[output], rtol=1e-4, atol=1e-7)
        others = [i for i in range(len(rows)) if i not in uses]
        assert not slopes[others].any(), output


@pytest.mark.parametrize(
    ("method", "quota", "change", "message"),
    [
        ("gated_crf", "scribble", {"cross_entropy": {"kinds": ("dense",)}}, "learns from dense only, but data.quota"),
        ("gated_crf", "scribble", {"gated_crf": {"kinds": ("tags",)}}, "terms.gated_crf looks at rows of tags only"),
        ("label_uncertainty", "dense", {}, "terms.boxes looks at rows of box only"),
        ("supervised", "dense", {"absent_tags": {"weight": 1.0}}, "terms.absent_tags looks at rows of tags only"),
        ("supervised", "dense", {"made_labels": {"weight": 1.0}}, "terms.made_labels looks at rows of unlabeled, tags"),
        ("supervised", "unlabeled", {"made_labels": {"weight": 1.0}}, "data.made_labels, which names no folder"),
        (
            "label_uncertainty",
            "box",
            {"boxes": {"scope": "all"}, "cross_entropy": {"average": "images"}},
            "cross_entropy.average must be 'pixels'",
        ),
    ],
)
def test_terms_that_the_quota_gives_nothing_to_do_are_refused(method, quota, change, message):
    config = make_config(method, {quota: 2})
    config.data.assign = {quota: 1.0}
    config.data.made_labels = "somewhere" if quota == "dense" else ""
    config.terms.update(change)
    with pytest.raises(ValueError, match=message):
        method_of(config)


@pytest.mark.parametrize(
    ("method", "terms", "words"),
    [
        ("supervised", {}, "nothing from rows of unlabeled, tags"),
        ("supervised", {"absent_tags": {"weight": 1.0}}, "nothing from rows of unlabeled,"),
        ("supervised", {"total_variation": {"weight": 1.0}}, ""),
        ("adversarial", {}, ""),
    ],
)
def test_rows_that_teach_nothing_are_warned_of(method, terms, words, caplog):
    config = make_config(method, {"dense": 1, "tags": 1, "unlabeled": 1})
    config.data.assign = {"dense": 0.4, "tags": 0.3, "unlabeled": 0.3}
    config.terms.update(terms)
    method = method_of(config)
    assert not caplog.text  # evaluation makes the method too
    (stage,) = method.stages()
    stage.start(initial(config))
    assert words in caplog.text
    assert bool(words) == bool(caplog.text)


def test_made_labels_have_a_weight_of_their_own_and_no_other():
    batch = mixed()
    batch["label"][3] = batch["image"][3].argmax(-1)
    config = config_with(made_labels=EXTRA["made_labels"])
    (_, metrics), _ = look(config, batch)
    (_, without), _ = look(config, mixed())
    assert float(metrics["made_labels"]) > 0 == float(without["made_labels"])
    np.testing.assert_allclose(metrics["cross_entropy"], without["cross_entropy"], rtol=1e-6)
    (_, together), _ = look(config_with(), batch)  # without the term, the cross-entropy takes them all alike
    assert abs(float(together["cross_entropy"]) - float(metrics["cross_entropy"])) > 1e-3


def test_labels_that_a_program_made_teach_rows_of_made_for_alone():
    values = []
    for row in (3, 4):  # of tags, without any label
        batch = mixed()
        batch["label"][row] = batch["image"][row].argmax(-1)
        config = config_with(made_labels=EXTRA["made_labels"])
        config.data.made_for = ("unlabeled",)
        values.append(float(look(config, batch)[0][1]["made_labels"]))
    assert values[0] == 0 < values[1]


def test_a_cross_entropy_of_made_labels_alone_is_no_second_one_beside_their_own_term():
    with pytest.raises(ValueError, match="made_labels takes all rows of"):
        method_of(config_with(made_labels=EXTRA["made_labels"], cross_entropy={"kinds": ("tags",)}))


def test_sources_that_are_labelled_are_no_fewer_by_their_kind():
    batch = make_batch(("points", "points"))
    options = EXTRA["gated_crf"] | {"sources": "labelled"}
    values = []
    for kinds in ((), ("points",)):
        config = config_with(gated_crf=options | {"kinds": kinds})
        config.data.quota = {"points": 2}
        values.append(float(look(config, batch)[0][1]["gated_crf"]))
    assert values[0] > 0
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_class_that_tags_rule_out_is_unlearned_however_sure_the_network_is():
    config = config_with(absent_tags=EXTRA["absent_tags"])
    batch = make_batch(("tags",))

    term = method_of(config).terms.active["absent_tags"]

    def paid(logits):
        return term(TermInput({"logits": logits, "low_logits": logits}, batch, jnp.asarray(0)))[0]

    run = jax.jit(jax.vmap(jax.value_and_grad(paid), axis_name="data"))

    def slope(logit):
        value, slopes = run(jnp.zeros((1, 1, 32, 32, CLASSES)).at[0, 0, 5, 5, 2].set(logit))
        assert np.isfinite(value).all()
        return float(slopes[0, 0, 5, 5, 2])

    assert slope(0.5) > 0
    assert slope(15.0) == pytest.approx(1, abs=1e-3)
    assert slope(300.0) == pytest.approx(1, abs=1e-3)


def test_averaging_over_images_gives_a_click_the_weight_of_a_mask():
    batch = make_batch(("dense", "points"))
    config = config_with(cross_entropy={"average": "images"})
    value = float(look(config, batch)[0][0])
    each = [float(look(config, select(batch, [row]), rows=[row])[0][0]) for row in (0, 1)]
    assert value == pytest.approx(np.mean(each), rel=1e-5)
    by_pixel = float(look(config_with(), batch)[0][0])
    assert abs(by_pixel - each[0]) < abs(value - each[0])


@pytest.mark.parametrize("void", ["label", "valid"])
def test_all_terms_together_are_finite_on_a_batch_without_anything_to_learn(void):
    batch = make_batch(("unlabeled", "unlabeled"))
    if void == "valid":
        batch["valid"][:] = False
    (_, metrics), slopes = look(config_with(**EXTRA), batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((slopes, metrics)))
    for name in ("cross_entropy", "boxes", "made_labels", "absent_tags"):
        assert float(metrics[name]) == 0
    if void == "valid":
        assert all(not leaf.any() for leaf in jax.tree.leaves(slopes))


def test_all_terms_together_agree_between_one_and_two_devices():
    """Four rows on the first device, four others on the second: masks and counts differ."""
    rows = ("dense", "dense", "scribble", "points", "box", "box", "tags", "unlabeled")
    batch = make_batch(rows)
    batch["label"][6, :5] = 1
    config = config_with(**EXTRA)
    spread = select(batch, (0, 2, 4, 6, 1, 3, 5, 7))
    alone, both = gradients(config, batch), gradients(config, spread, 2)
    assert_close(both[0], alone[0], 1e-4)
    for name, value in alone[2].items():
        np.testing.assert_allclose(both[2][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_labels_alone_pull_on_request():
    config = config_with(gated_crf=EXTRA["gated_crf"] | {"stride": 2, "radius": 1, "sources": "labelled"})
    batch = make_batch(["points", "unlabeled"])
    batch["image"][:] = 0.5
    batch["label"][:] = IGNORE
    batch["label"][0, 9, 12] = 1
    (_, metrics), slopes = look(config, batch)
    assert float(metrics["gated_crf"]) > 0
    moved = np.argwhere(np.abs(slopes["low_logits"]).max(axis=-1) > 0)
    assert (moved[:, 0] == 0).all()  # a row without labels is left alone
    assert len(moved) == 9
    batch["label"][0, 9, 12] = IGNORE
    assert float(look(config, batch)[0][1]["gated_crf"]) == 0


@pytest.mark.parametrize(("stride", "learns"), [(2, True), (1, False)])
def test_gated_crf_takes_predictions_from_where_they_are_fine_enough(stride, learns):
    """From the network's own low resolution, 16x16, else from what it has enlarged in its own way."""
    _, slopes = look(config_with(gated_crf=EXTRA["gated_crf"] | {"stride": stride}), mixed())
    assert bool(slopes["low_logits"].any()) == learns


@pytest.mark.parametrize(("pixel", "cell"), [((2, 29), (0, 7)), ((999, 0), (7, 0))])
def test_the_kernel_of_a_chosen_pixel_can_be_looked_at(pixel, cell):
    config = config_with(gated_crf=EXTRA["gated_crf"] | {"pixel": pixel, "stride": 4})
    method = method_of(config)
    kernel = np.asarray(jax.jit(method.pictures)(initial(config), make_batch(["unlabeled"]))["kernel"])[0]
    rows, columns = np.nonzero(kernel == 1)
    assert (cell[0] * 4, cell[1] * 4) == (rows.min(), columns.min())


def test_pictures_show_kernel_uncertainty_and_made_labels():
    config = config_with(**EXTRA)
    batch = mixed()
    found = jax.jit(method_of(config).pictures)(initial(config), batch)
    assert set(found) == {"kernel", "uncertainty", "label made"}
    for name in ("kernel", "uncertainty"):
        assert 0 <= found[name].min() <= found[name].max() <= 1
    box = np.asarray(found["label made"][2])
    assert set(np.unique(box)) <= {0, 1, 2, IGNORE}
    assert (box[:3, :3] == 0).all()  # outside of the boxes
    assert (found["label made"][0] == IGNORE).all()  # a row without boxes


def test_every_method_can_have_every_term():
    for method in ("adversarial", "gated_crf", "label_uncertainty", "mean_teacher", "total_variation", "unimatch"):
        config = make_config(method, quota={"dense": 1, "scribble": 1, "box": 1, "tags": 1, "unlabeled": 1})
        for name, options in EXTRA.items():
            config.terms[name].update(options)
        config.data.made_labels = "somewhere"
        state = jax.eval_shape(method_of(config).init, jax.random.PRNGKey(0), mixed())
        assert "variance" in state.networks["segmenter"].params


@pytest.mark.heavy
def test_a_mixed_batch_trains_the_adversarial_method_with_gated_crf():
    config = make_config("adversarial", quota={"dense": 1, "scribble": 1, "box": 1, "tags": 1, "unlabeled": 1})
    for name in ("gated_crf", "boxes", "absent_tags"):
        config.terms[name].update(EXTRA[name])
    _, metrics = train(config, mixed(), 3)
    names = {"cross_entropy", "gated_crf", "boxes", "absent_tags", "discriminator", "adversarial_unlabelled", "semi"}
    assert names <= metrics[-1].keys()
    assert all(np.isfinite(value).all() for row in metrics for value in row.values())


def test_wrong_names_of_kinds_and_missing_supervision_fail_naming_them():
    with pytest.raises(ValueError, match="unknown supervision kind 'scribbles'"):
        method_of(config_with(gated_crf={"weight": 0.1, "kinds": ("scribbles",)}))
    config = make_config(quota={"unlabeled": 2})
    with pytest.raises(ValueError, match="learns from points, scribble, partial, dense only"):
        method_of(config)
    config = make_config("gated_crf")
    config.terms.gated_crf.weight = 0.0
    with pytest.raises(ValueError, match=r"method 'gated_crf' needs terms\.gated_crf\.weight to be positive"):
        method_of(config)


def test_boxes_alone_are_supervision():
    method = method_of(config_with_quota({"box": 2}, boxes=EXTRA["boxes"]))
    assert Supervision.BOX in method.terms.trains_on
    with pytest.raises(ValueError, match="learns from"):
        method_of(config_with_quota({"box": 2}))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_labels_that_a_program_made_are_supervision(weight):
    config = config_with_quota({"unlabeled": 2}, made_labels={"weight": weight})
    config.data.made_labels = "somewhere"
    assert Supervision.UNLABELED in method_of(config).terms.trains_on


def config_with_quota(quota, **terms):
    config = config_with(**terms)
    config.data.quota = quota
    return config


def test_class_weights_count_by_their_ratios_alone():
    """Few clicks with weights that sum to one or to less: the weighted mean is exact there too."""
    batch = make_batch(("points",))
    values = []
    for factor in (1.0, 1e-3):
        config = config_with(cross_entropy={"average": "images"})
        config.class_weights = tuple(factor * weight for weight in (0.2, 0.3, 0.5))
        values.append(float(look(config, batch)[0][0]))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
