"""What the compiled step of each method sends between two devices: each gradient once."""

import jax
import numpy as np
import pytest
from method_steps import TinyBackbone, make_batch, make_config, method_of

from semiseg_jax.engine.collectives import collectives
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.models import backbones

pytestmark = pytest.mark.heavy

QUOTAS = {
    "supervised": {"dense": 1},
    "total_variation": {"dense": 1, "scribble": 1},
    "gated_crf": {"dense": 1, "scribble": 1},
    "label_uncertainty": {"dense": 1, "box": 1},
    "adversarial": {"dense": 1, "unlabeled": 1},
    "transfer": {"dense": 1, "tags": 1},
    "mean_teacher": {"dense": 1, "unlabeled": 1},
    "unimatch": {"dense": 1, "unlabeled": 1},
}
STAGES = [*[(method, 0) for method in QUOTAS], ("transfer", 1), ("transfer", 2)]


def config_of(method: str, **changes):
    config = make_config(method, QUOTAS[method], **changes)
    config.model.widths = (16, 32)
    if method == "transfer":
        config.data.strong_classes = ("1",)
        config.transfer.classifier_crop = (32, 32)
    return config


def program(config, stage: int, mapper: str = "shard_map", micro_batches: int = 1, shard_state: bool = False) -> tuple:
    """-> (the text of the compiled step, bytes of parameters, bytes of batch statistics)."""
    trained = method_of(config).stages()[stage]
    devices = Devices.create(mapper, 2, shard_state)
    batch = make_batch([kind for kind in trained.config.data.quota for _ in range(2 * micro_batches)])
    state = jax.eval_shape(trained.init, jax.random.PRNGKey(0), batch)
    params, stats = (
        sum(4 * leaf.size for network in state.networks.values() for leaf in jax.tree.leaves(getattr(network, what)))
        for what in ("params", "batch_stats")
    )
    if mapper == "pmap":
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    lowered = devices.map(trained.train_step).lower(
        state if mapper == "pmap" else devices.like(state), devices.split(batch)
    )
    return lowered.compile().as_text(), params, stats


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_each_method_sends_parameters_and_statistics_once(method, stage, mapper, monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))
    text, params, stats = program(config_of(method), stage, mapper)
    sent = collectives(text)
    assert sent.keys() == {"all-reduce"}
    assert params <= sent["all-reduce"][1] <= 1.05 * (params + stats)


@pytest.mark.parametrize("changes", [{"norm": "batch"}, {"accumulate": 2}])
def test_synchronised_norms_add_little_and_micro_batches_nothing(changes):
    text, params, stats = program(config_of("supervised", **changes), 0, micro_batches=changes.get("accumulate", 1))
    assert params <= collectives(text)["all-reduce"][1] <= 1.05 * (params + stats)


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
def test_bfloat16_halves_what_is_sent(mapper):
    text, params, stats = program(config_of("supervised", send_as="bfloat16"), 0, mapper)
    assert params / 2 <= collectives(text)["all-reduce"][1] <= 1.05 * (params / 2 + stats)


def test_a_divided_state_gathers_parameters_once_and_scatters_gradients_once():
    text, params, _ = program(config_of("mean_teacher"), 0, shard_state=True)
    sent = collectives(text)
    assert sent["reduce-scatter"][1] <= params
    assert sent["all-gather"][1] == 2 * sent["reduce-scatter"][1]  # the teacher too
    assert sent["reduce-scatter"][1] + sent["all-reduce"][1] <= 1.05 * params
