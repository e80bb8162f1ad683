"""What holds for the step of every method."""

import jax
import numpy as np
import pytest
from method_steps import forward, make_batch, make_config, train

from semiseg_jax.methods import views

QUOTAS = {
    "supervised": ("dense", "scribble"),
    "total_variation": ("partial", "partial"),
    "gated_crf": ("scribble", "points"),
    "label_uncertainty": ("dense", "box"),
    "adversarial": ("dense", "unlabeled"),
    "mean_teacher": ("dense", "unlabeled"),
    "unimatch": ("dense", "unlabeled"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("method", [method for method in QUOTAS if method != "supervised"])  # it has tests of its own
def test_bfloat16_trains_with_float32_parameters_and_stays_finite(method):
    kinds = QUOTAS[method]
    config = make_config(method, quota={kind: kinds.count(kind) for kind in kinds}, dtype="bfloat16", ema=0.9)
    states, metrics = train(config, make_batch(kinds), 2)
    for network in states[-1].networks.values():
        held = jax.tree.leaves((network.params, network.ema, network.batch_stats))
        assert {leaf.dtype for leaf in held} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((states[-1].networks, metrics)))
    assert metrics[-1]["loss"] > 0


@pytest.mark.parametrize(
    "method", ["label_uncertainty", "adversarial", pytest.param("unimatch", marks=pytest.mark.heavy)]
)
def test_separate_passes_have_batch_statistics_of_their_own_and_differ_by_nothing_else(method, monkeypatch):
    monkeypatch.setattr(views, "strong_view", lambda batch, salt: batch["image"] * (0.8 - 0.1 * salt))  # compiles fast
    kinds = QUOTAS[method] * 2
    batch = make_batch(sorted(kinds, key=kinds.index))
    quota = dict.fromkeys(kinds, 2)

    def config(norm, apart):
        return make_config(method, quota=quota, norm=norm, separate_passes=apart)

    together, apart = (forward(config("batch", on), batch)[0]["segmenter"] for on in (False, True))
    assert np.abs(together["stem_norm"]["mean"] - apart["stem_norm"]["mean"]).max() > 0
    together, apart = (forward(config("group", on), batch)[1] for on in (False, True))
    for name, value in together.items():
        np.testing.assert_allclose(apart[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
