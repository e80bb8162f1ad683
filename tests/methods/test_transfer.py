"""The networks of `transfer` and the labels that it makes; whole runs are in verbs/test_methods.py."""

import cv2
import jax
import numpy as np
import pytest
from method_steps import TinyBackbone, assert_close, initial, make_batch, make_config, method_of, train

from semiseg_jax.data.types import IGNORE
from semiseg_jax.methods import label_graph, label_transfer
from semiseg_jax.methods.label_graph import Graph
from semiseg_jax.methods.transfer import TransferOptions
from semiseg_jax.models import backbones

STAGES = {"classifier": ("tags", "tags"), "l_net": ("dense", "dense"), "p_net": ("dense", "tags")}


@pytest.fixture(autouse=True)
def _tiny_classifier(monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))


def transfer_config(**changes):
    config = make_config("transfer", quota={"dense": 1, "tags": 1})
    config.data.strong_classes = ("thing",)
    config.terms.made_labels.weight = 1.0
    config.terms.absent_tags.weight = 0.1
    config.adversarial.update({"class_agnostic": True, "semi_weight": 0.0})
    config.update(changes)
    return config


def rows_of(stage, times=1):
    batch = make_batch(STAGES[stage] * times)
    batch["tags"] = np.where(batch["kind"][:, None] == batch["kind"].min(), batch["tags"], -1)
    if stage == "p_net":  # labels that an earlier stage made
        made = np.where(batch["image"][..., 0] > 0.5, 1, 0)
        batch["label"] = np.where(batch["valid"] & (batch["tags"] >= 0).any(-1)[:, None, None], made, batch["label"])
    return batch


def stage_number(stage):
    return list(STAGES).index(stage)


@pytest.mark.heavy
@pytest.mark.parametrize("stage", ["classifier", "p_net"])
def test_bfloat16_trains_with_float32_parameters_and_stays_finite(stage):
    config = transfer_config(dtype="bfloat16", ema=0.9)
    states, metrics = train(config, rows_of(stage), 2, stage=stage_number(stage))
    for network in states[-1].networks.values():
        held = jax.tree.leaves((network.params, network.ema, network.batch_stats))
        assert {leaf.dtype for leaf in held} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((states[-1].networks, metrics)))
    assert metrics[-1]["loss"] > 0


@pytest.mark.parametrize("stage", ["classifier", "l_net"])  # of what the P-Net is made of, other tests say it
def test_one_and_two_devices_take_the_same_step(stage):
    config = transfer_config()
    config.optimizer.update({"name": "sgd", "learning_rate": 0.1})
    alone, both = (train(config, rows_of(stage, 2), 1, count, stage=stage_number(stage)) for count in (1, 2))
    for name, network in alone[0][0].networks.items():
        assert_close(both[0][0].networks[name].params, network.params, 1e-5, zero=True)
    for name, value in alone[1][0].items():
        np.testing.assert_allclose(both[1][0][name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_classifier_learns_from_known_tags_alone_and_not_of_background():
    classifier = method_of(transfer_config()).classifier
    network = initial(transfer_config(), classifier.init).networks["classifier"]

    def loss(tags):
        batch = make_batch(("tags", "tags"))
        batch["tags"] = np.array(tags, np.int8)
        found = jax.vmap(
            lambda rows: classifier.loss(
                {"classifier": network.params}, {"classifier": network.batch_stats}, rows, jax.random.PRNGKey(0)
            ),
            axis_name="data",
        )(jax.tree.map(lambda x: x[None], batch))
        return float(found[0][0])

    known = loss([[-1, 1, 0], [-1, -1, -1]])
    assert known > 0
    assert loss([[1, 1, 0], [0, -1, -1]]) == pytest.approx(known)  # background is no class to find
    assert loss([[-1, 0, 1], [-1, -1, -1]]) != pytest.approx(known)
    assert loss([[-1, -1, -1], [-1, -1, -1]]) == 0


def test_l_net_sees_objects_and_no_classes():
    batch, config = rows_of("l_net"), transfer_config()
    swapped = batch | {"label": np.array([0, 2, 1])[np.minimum(batch["label"], 2)]}
    swapped["label"] = np.where(batch["label"] == IGNORE, IGNORE, swapped["label"])
    other = batch | {"label": np.where(batch["label"] == 0, 1, batch["label"])}
    states = [train(config, rows, 1, stage=stage_number("l_net"))[0][0] for rows in (batch, swapped, other)]
    params = [state.networks["segmenter"].params for state in states]
    assert_close(params[1], params[0], 0.0, zero=True)
    with pytest.raises(AssertionError):
        assert_close(params[2], params[0], 1e-3, zero=True)


def test_l_net_alone_draws_balanced_images():
    config = transfer_config()
    config.transfer.l_net_balance = True
    assert [stage.config.data.balance_images for stage in method_of(config).stages()] == [False, True, False]


@pytest.mark.parametrize("diffusion", ["grid", "graph"])
@pytest.mark.parametrize("seed", range(3))
def test_labels_name_no_class_that_is_not_in_the_image(seed, diffusion):
    rng = np.random.default_rng(seed)
    tags = np.array([-1, 1, 0, 1, 0], np.int8)
    image = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    maps = label_transfer.activations(rng.normal(size=(40, 52, 5)).astype(np.float32), tags)
    assert not maps[..., [0, 2, 4]].any()
    assert maps[..., 1].max() == maps[..., 3].max() == 1
    options = TransferOptions(diffusion=diffusion)
    objects = np.broadcast_to(np.linspace(0, 1, 52, dtype=np.float32), (40, 52))
    probs = rng.dirichlet(np.ones(5), size=(40, 52)).astype(np.float32)
    allowed = {0, 1, 3, IGNORE}
    assert set(np.unique(label_transfer.labels_from_activations(maps, seed=0.4, background=0.2))) <= allowed
    diffused = label_transfer.diffused_labels(image, maps, objects, options)
    assert {1, 3} <= set(np.unique(diffused)) <= allowed
    assert set(np.unique(label_transfer.restricted_labels(probs, tags, sure=0.5))) <= allowed


def easy_picture():
    """A bright square on the dark, whose middle the activation maps see and whose edges the object map blurs."""
    truth = np.zeros((64, 80), np.uint8)
    truth[16:48, 20:60] = 2
    noise = np.random.default_rng(0).integers(0, 20, (64, 80, 3))
    image = (noise + np.where(truth, 200, 30)[..., None]).astype(np.uint8)
    maps = np.zeros((64, 80, 3), np.float32)
    maps[24:40, 30:45, 2] = 1
    objects = cv2.GaussianBlur((truth > 0).astype(np.float32), (0, 0), 3)
    return truth, image, maps, objects


@pytest.mark.parametrize("steps", [0, 20])
def test_superpixels_and_the_grid_agree_on_an_easy_picture(steps):
    truth, *rest = easy_picture()
    grid = label_transfer.diffused_labels(*rest, TransferOptions())
    graph = label_transfer.diffused_labels(
        *rest, TransferOptions(diffusion="graph", graph=Graph(superpixels=100, steps=steps))
    )
    labelled = (grid != IGNORE) & (graph != IGNORE)
    assert labelled.mean() > 0.9
    assert (graph == grid)[labelled].mean() > 0.97
    assert (graph == truth)[graph != IGNORE].mean() > 0.99


@pytest.mark.parametrize("steps", [0, 20])
def test_a_superpixel_without_neighbours_keeps_its_seed(steps):
    weights = np.ones((5, 5), np.float32) - np.eye(5, dtype=np.float32)
    weights[2] = weights[:, 2] = 0
    seeds = np.eye(5, dtype=np.float32)[:, :3]
    scores = label_graph.spread(weights, seeds, alpha=0.95, steps=steps)
    assert np.isfinite(scores).all()
    assert scores[2].argmax() == 2
    assert scores[2, :2].max() == scores[[0, 1, 3, 4], 2].max() == 0


def test_superpixels_are_neighbours_within_reach_or_by_colour_and_never_of_themselves():
    regions = np.repeat(np.arange(6), 4)[None].repeat(3, axis=0)  # a chain
    colors = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 0.1])[:, None]
    things = np.linspace(0, 1, 6, dtype=np.float32)
    chain = label_graph.affinity(regions, colors, things, Graph(reach=2, similar=0), object_sigma=0.2)
    np.testing.assert_array_equal(chain, chain.T)
    apart = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_array_equal(chain > 0, (apart > 0) & (apart <= 2))
    sigma = np.mean([1.0, 1.0, 1.0, 1.0, 3.9])
    expected = np.exp(-((1 / sigma) ** 2 + (0.2 / 0.2) ** 2 + (4 / np.hypot(3, 24) / 0.2) ** 2) / 2)
    np.testing.assert_allclose(chain[0, 1], expected, rtol=1e-4)
    alike = label_graph.affinity(regions, colors, things, Graph(reach=2, similar=1), object_sigma=10.0)
    assert alike[0, 5] > 0
    assert not alike.diagonal().any()


def test_colours_that_nothing_is_near_to_leave_labels_finite():
    truth, image, maps, objects = easy_picture()
    del truth
    image[::16, ::16] = 255
    options = TransferOptions(diffusion="graph", object_sigma=1e-6, graph=Graph(superpixels=300, color_sigma=1e-6))
    scores = label_transfer._over_graph(image, maps, objects, options)
    assert np.isfinite(scores).all()
