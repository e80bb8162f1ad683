"""`supervised`: cross-entropy on every pixel that has a label, the baseline of every comparison.

    L = CE over labelled pixels (full masks, scribbles, clicks, random pixels alike)

Rows without labelled pixels (boxes, tags, unlabelled) add nothing.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from semiseg_jax.data.pipeline import parse_quota
from semiseg_jax.data.types import IGNORE, Batch, Supervision
from semiseg_jax.engine.optimizers import make_optimizer
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.losses import partial_cross_entropy
from semiseg_jax.methods import base
from semiseg_jax.models import make_model
from semiseg_jax.ops.images import standardize

LEARNS_FROM = frozenset({Supervision.DENSE, Supervision.PARTIAL, Supervision.SCRIBBLE, Supervision.POINTS})


class Supervised:
    def __init__(self, config: ConfigDict, num_classes: int):
        if not LEARNS_FROM & parse_quota(config.data.quota.to_dict()).keys():
            names = ", ".join(kind.name.lower() for kind in sorted(LEARNS_FROM))
            raise ValueError(
                f"method 'supervised' learns from {names} only, but data.quota is {config.data.quota.to_dict()}"
            )
        self.config = config
        options = config.model.to_dict()
        self.model = make_model(options.pop("name"), num_classes, dtype=config.dtype, axis_name=AXIS, **options)
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        self.class_weights = tuple(config.class_weights) or None
        if self.class_weights and len(self.class_weights) != num_classes:
            raise ValueError(f"class_weights has {len(self.class_weights)} entries but there are {num_classes} classes")

    def stages(self, config: ConfigDict) -> Sequence[base.Stage]:
        return [base.Stage("supervised", config.data, config.steps, self.init, self.train_step, self.start)]

    def init(self, rng: jax.Array, batch: Batch) -> base.State:
        variables = self.model.init(rng, standardize(batch["image"][:1]))
        network = base.init_network(variables, self.optimizer, ema=self.config.ema > 0)
        return base.State(step=jnp.zeros((), jnp.int32), rng=rng, networks={"segmenter": network})

    def start(self, state: base.State) -> base.State:
        network = base.with_pretrained(state.networks["segmenter"], self.model, self.config.pretrained)
        return dataclasses.replace(state, networks={"segmenter": network})

    def loss(self, params, batch_stats, batch: Batch, rng):
        del rng
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats}, standardize(batch["image"]), train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        cross_entropy = partial_cross_entropy(
            logits, batch["label"], class_weights=self.class_weights, where=batch["valid"], axis_name=AXIS
        )
        labelled = jax.lax.pmean(jnp.mean(batch["label"] != IGNORE), AXIS)
        metrics = {"cross_entropy": cross_entropy, "labelled_pixels": labelled}
        return cross_entropy, (updated.get("batch_stats", {}), metrics)

    def train_step(self, state: base.State, batch: Batch) -> tuple[base.State, base.Metrics]:
        network, rng = state.networks["segmenter"], jax.random.fold_in(state.rng, state.step)
        grads, batch_stats, metrics = base.gradients(self.loss, network, batch, rng, self.config.accumulate)
        network, grad_norm = base.apply_gradients(
            network, grads, batch_stats, self.optimizer, ema_decay=self.config.ema, step=state.step
        )
        return state.advance(segmenter=network), {**metrics, "grad_norm": grad_norm}

    def eval_variables(self, state: base.State, weights: str = "auto") -> base.Variables:
        network = state.networks["segmenter"]
        return network.variables if weights == "raw" else network.averaged

    def predict(self, variables: base.Variables, images: jax.Array) -> jax.Array:
        logits: Any = self.model.apply(variables, standardize(images), train=False)
        return jax.nn.softmax(logits)
