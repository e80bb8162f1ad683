"""What the compiled step of each method sends between two devices: each gradient once."""

import jax
import numpy as np
import pytest
from method_steps import TinyBackbone, make_batch, make_config, method_of

from semiseg_jax.engine.collectives import collectives
from semiseg_jax.engine.parallel import Devices
from semiseg_jax.methods import views
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
    config.model.widths = (32,)  # one level compiles fast
    if method == "transfer":
        config.data.strong_classes = ("1",)
        config.transfer.classifier_crop = (32, 32)
        config.terms.made_labels.weight = 1.0
    return config


def lowered(config, stage: int, mapper: str = "shard_map", shard_state: bool = False) -> tuple:
    """-> (the step before it is compiled, bytes of parameters, bytes of batch statistics)."""
    trained = method_of(config).stages()[stage]
    devices = Devices.create(mapper, 2, shard_state)
    batch = make_batch([kind for kind in trained.config.data.quota for _ in range(2 * config.accumulate)])
    state = jax.eval_shape(trained.init, jax.random.PRNGKey(0), batch)
    params, stats = (
        sum(4 * leaf.size for network in state.networks.values() for leaf in jax.tree.leaves(getattr(network, what)))
        for what in ("params", "batch_stats")
    )
    step, rows = devices.map(trained.train_step), devices.split(batch)
    if mapper == "pmap":
        return step.lower(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state), rows), params, stats
    return step.lower(devices.like(state), rows), params, stats


def compiled(*arguments, **options) -> tuple:
    step, params, stats = lowered(*arguments, **options)
    return collectives(step.compile().as_text()), params, stats


@pytest.mark.parametrize("mapper", ["shard_map", "pmap"])
@pytest.mark.parametrize(("method", "stage"), STAGES)
def test_each_method_sends_parameters_and_statistics_once(method, stage, mapper, monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))
    monkeypatch.setattr(views, "strong_view", lambda batch, salt: batch["image"])  # compiles fast
    sent, params, stats = compiled(config_of(method), stage, mapper)
    assert sent.keys() == {"all-reduce"}
    assert params <= sent["all-reduce"][1] <= 1.05 * (params + stats)


def test_norms_of_all_devices_and_micro_batches_add_little():
    sent, params, stats = compiled(config_of("supervised", norm="batch", accumulate=2), 0)
    assert params <= sent["all-reduce"][1] <= 1.05 * (params + stats)


def test_gradients_as_bfloat16_are_half_as_much():
    """A CPU adds up float32 alone: what other compilers are given says it."""
    step, params, _ = lowered(config_of("supervised", send_as="bfloat16"), 0)
    assert params / 2 <= collectives(step.as_text(dialect="hlo"))["all-reduce"][1] <= 1.05 * params / 2


def test_a_divided_state_gathers_parameters_once_and_scatters_gradients_once(monkeypatch):
    monkeypatch.setattr(views, "strong_view", lambda batch, salt: batch["image"])
    sent, params, _ = compiled(config_of("mean_teacher"), 0, shard_state=True)
    scattered = sent["reduce-scatter"][1]
    assert 0.9 * params <= scattered
    assert sent["all-gather"][1] == 2 * scattered  # the teacher too
    assert scattered + sent["all-reduce"][1] <= 1.05 * params
