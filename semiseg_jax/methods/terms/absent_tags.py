"""What the tags rule out."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.data.types import Supervision
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import Term, TermInput
from semiseg_jax.ops.reduce import masked_mean


class AbsentTags(Term):
    """What the tags rule out: -log(1 - max_p P_c(p)), averaged over the classes that are not in the image."""

    def __init__(self, options: Any, config: Settings, num_classes: int):
        super().__init__(options, config, num_classes)
        if config.data.assign:  # then an image shows the labels of its kind alone
            self.useful = frozenset({Supervision.TAGS})

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        where, logits = seen.rows_of(self.kinds), seen.outputs["logits"]
        batch, classes = logits.shape[0], logits.shape[-1]
        # From the logits at the one pixel that counts: 1 - P is 0 in float32 where the network is very sure.
        ranked = jnp.where(where[..., None], jax.nn.log_softmax(logits), -jnp.inf).reshape(batch, -1, classes)
        highest = jnp.argmax(lax.stop_gradient(ranked), axis=1)
        there = jnp.take_along_axis(logits.reshape(batch, -1, classes), highest[..., None], axis=1)  # [B,K,K]
        others = jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, there)
        paid = jax.nn.logsumexp(there, axis=-1) - jax.nn.logsumexp(others, axis=-1)
        absent = (seen.batch["tags"] == 0) & jnp.any(where, axis=(1, 2))[:, None]
        return masked_mean(paid, absent, AXIS), {}
