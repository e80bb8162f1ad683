"""`unimatch`: what a network is sure of in an image must survive strong perturbations of it (Yang et al., 2208.09910).

    p = softmax(S(u)),  y^ = argmax p,  kept = max p >= tau              of an image without a mask
    L = L_terms + w [ 1/4 CE(S(A1(u)), y^; kept) + 1/4 CE(S(A2(u)), y^; kept) + 1/2 CE(S_dropped(u), y^; kept) ]

A1 and A2 are colour changes followed by CutMix with another image of the batch, whose y^ comes along; S_dropped drops
half of the channels between encoder and decoder. Each CE is a mean over all valid pixels, kept or not. tau = 0.95.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.data.types import IGNORE, Batch, split_rows
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.losses import partial_cross_entropy
from semiseg_jax.methods import base, terms, views
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class SureConsistency(views.Consistency):
    threshold: float = option(0.95, "probability from which a prediction teaches", low=0, high=1)


class UniMatch(Segmentation):
    sections: ClassVar[Mapping[str, type[Options]]] = {"consistency": SureConsistency}
    uses_all_rows = True

    def __init__(self, config: Settings, num_classes: int):
        super().__init__(config, num_classes)
        self.options: SureConsistency = config.own["consistency"]
        self.class_weights = terms.class_weights(config, num_classes)
        self.require_rows_without_mask()

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array, *, step: jax.Array):
        del rng
        options, dense, rows = self.options, self.dense_rows(batch), len(batch["image"])
        _, unlabelled = split_rows(batch, dense)
        boxes = [views.cutmix_boxes(unlabelled, salt, options.cutmix) for salt in (1, 2)]
        strong = [views.cutmix(views.strong_view(unlabelled, salt), boxes[i]) for i, salt in enumerate((3, 4))]
        outputs, updated = self.outputs(
            params["segmenter"],
            batch_stats["segmenter"],
            jnp.concatenate([batch["image"], *strong]),
            dense,
            perturb=(dense, views.seeds_of(unlabelled, 5)),
        )
        weak, perturbed = split_rows(outputs, rows)
        total, metrics = self.terms(terms.View(weak, batch, step))

        logits_1, logits_2, logits_dropped = jnp.split(perturbed["logits"], 3)
        sure, pseudo = lax.stop_gradient(_pseudo_labels(weak["logits"][dense:]))
        valid = unlabelled["valid"]
        pseudo = jnp.where(valid & (sure >= options.threshold), pseudo, IGNORE)

        parts = {
            "consistency_1": self._kept(logits_1, views.cutmix(pseudo, boxes[0]), views.cutmix(valid, boxes[0])),
            "consistency_2": self._kept(logits_2, views.cutmix(pseudo, boxes[1]), views.cutmix(valid, boxes[1])),
            "consistency_features": self._kept(logits_dropped, pseudo, valid),
        }
        weight = options.weight_at(step, self.config.steps)
        first, second, features = parts.values()
        total += weight * (0.25 * first + 0.25 * second + 0.5 * features)
        accepted = masked_mean(pseudo != IGNORE, valid, AXIS)
        return total, ({"segmenter": updated}, metrics | parts | {"accepted": accepted})

    def rates(self, steps: int) -> Mapping[str, Any]:
        weight = self.options.weight_at(jnp.asarray(steps), self.config.steps)
        return {**super().rates(steps), "weight_consistency": weight}

    def _kept(self, logits: jax.Array, labels: jax.Array, valid: jax.Array) -> jax.Array:
        """Cross-entropy of labelled pixels times their share of the valid ones."""
        loss = partial_cross_entropy(logits, labels, class_weights=self.class_weights, where=valid, axis_name=AXIS)
        return loss * masked_mean(labels != IGNORE, valid, AXIS)

    def watch(self, step: int, means: Mapping[str, float]) -> str:
        if step > 0.5 * self.config.steps and means["accepted"] < 0.01:
            return (
                f"only {100 * means['accepted']:.2f} % of the unlabelled pixels are sure enough to teach; "
                f"lower consistency.threshold (now {self.options.threshold}) or train longer"
            )
        return ""

    def pictures(self, state: base.State, batch: Batch) -> terms.Pictures:
        outputs = self.look(self.eval_variables(state, self.config.eval.weights), batch["image"])
        sure, pseudo = _pseudo_labels(outputs["logits"])
        label = jnp.where(sure >= self.options.threshold, pseudo, IGNORE)
        return {**super().pictures(state, batch), "confidence": sure, LABEL_MADE: label}


def _pseudo_labels(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.max(jax.nn.softmax(logits), axis=-1), jnp.argmax(logits, axis=-1)
