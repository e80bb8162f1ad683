"""What holds for the step of every method."""

import jax
import numpy as np
import pytest
from method_steps import make_batch, make_config, train

QUOTAS = {
    "supervised": ("dense", "scribble"),
    "total_variation": ("partial", "partial"),
    "gated_crf": ("scribble", "points"),
    "label_uncertainty": ("dense", "box"),
    "adversarial": ("dense", "unlabeled"),
    "mean_teacher": ("dense", "unlabeled"),
    "unimatch": ("dense", "unlabeled"),
}


@pytest.mark.parametrize("method", QUOTAS)
def test_bfloat16_trains_with_float32_parameters_and_stays_finite(method):
    kinds = QUOTAS[method]
    config = make_config(method, quota={kind: kinds.count(kind) for kind in kinds}, dtype="bfloat16", ema=0.9)
    states, metrics = train(config, make_batch(kinds), 2)
    for network in states[-1].networks.values():
        held = jax.tree.leaves((network.params, network.ema, network.batch_stats))
        assert {leaf.dtype for leaf in held} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((states[-1].networks, metrics)))
    assert metrics[-1]["loss"] > 0
