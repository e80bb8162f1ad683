"""What holds for the step of every method."""

import jax
import numpy as np
import pytest
from method_steps import CLASSES, assert_close, gradients, initial, make_batch, make_config, train

from semiseg_jax.methods import make_method

QUOTAS = {
    "supervised": ("dense", "scribble"),
    "total_variation": ("partial", "partial"),
    "gated_crf": ("scribble", "points"),
    "label_uncertainty": ("dense", "box"),
    "adversarial": ("dense", "unlabeled"),
    "mean_teacher": ("dense", "unlabeled"),
    "unimatch": ("dense", "unlabeled"),
}


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


def batch_statistics(config, batch):
    """Those of the segmenter after a step, without the gradients, which take long to compile."""
    method, state = make_method(config, CLASSES), initial(config)
    networks = {name: state.networks[name] for name in method.optimizers}
    params, stats = ({name: getattr(n, what) for name, n in networks.items()} for what in ("params", "batch_stats"))

    def after(rows):
        _, (updated, _) = method.loss_of(state)(params, stats, rows, state.rng)
        return updated["segmenter"]

    found = jax.jit(jax.vmap(after, axis_name="data"))(jax.tree.map(lambda x: x[None], batch))
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


@pytest.mark.parametrize("method", ["label_uncertainty", "adversarial", "unimatch"])
def test_separate_passes_have_batch_statistics_of_their_own_and_differ_by_nothing_else(method):
    kinds = QUOTAS[method] * 2
    batch = make_batch(sorted(kinds, key=kinds.index))
    quota = dict.fromkeys(kinds, 2)

    def config(norm, apart):
        return make_config(method, quota=quota, norm=norm, separate_passes=apart)

    together, apart = (batch_statistics(config("batch", on), batch) for on in (False, True))
    assert np.abs(together["stem_norm"]["mean"] - apart["stem_norm"]["mean"]).max() > 0
    together, apart = (gradients(config("group", on), batch) for on in (False, True))
    assert_close(apart[0], together[0], 1e-4)
    for name, value in together[2].items():
        np.testing.assert_allclose(apart[2][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
