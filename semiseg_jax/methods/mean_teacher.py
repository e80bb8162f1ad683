"""`mean_teacher`: a student that says of a perturbed image what its average over time says of the plain one
(Tarvainen and Valpola, 1703.01780; with CutMix: French et al., 1906.01916).

    T = average of S over steps (config.ema)
    L = L_terms + w(t) |softmax(S(A(u))) - M softmax(T(u))|^2       over valid pixels of images without a mask

A is a colour change followed by CutMix with another image of the batch, M mixes the teacher's answers alike. w grows
linearly (`consistency.ramp`). The teacher is what evaluation and prediction run.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.data.types import Batch, split_rows
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import base, terms, views
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import Options


class MeanTeacher(Segmentation):
    sections: ClassVar[Mapping[str, type[Options]]] = {"consistency": views.Consistency}
    uses_all_rows = True

    def __init__(self, config: Settings, num_classes: int):
        super().__init__(config, num_classes)
        self.options: views.Consistency = config.own["consistency"]
        self.require_rows_without_mask()
        if not config.ema:
            raise ValueError("method 'mean_teacher' needs config.ema above 0: the average is the teacher")

    def loss_of(self, state: base.State) -> base.Loss:
        return functools.partial(self.taught_loss, step=state.step, teacher=state.networks["segmenter"].averaged)

    def taught_loss(
        self,
        params: base.Trees,
        batch_stats: base.Trees,
        batch: Batch,
        rng: jax.Array,
        *,
        step: jax.Array,
        teacher: base.Variables,
    ):
        del rng
        options, dense, rows = self.options, self.dense_rows(batch), len(batch["image"])
        _, unlabelled = split_rows(batch, dense)
        boxes = views.cutmix_boxes(unlabelled, 1, options.cutmix)
        strong = views.cutmix(views.strong_view(unlabelled, 2), boxes)
        outputs, updated = self.outputs(
            params["segmenter"], batch_stats["segmenter"], jnp.concatenate([batch["image"], strong]), dense
        )
        plain, perturbed = split_rows(outputs, rows)
        total, metrics = self.terms(terms.View(plain, batch, step))

        taught = views.cutmix(lax.stop_gradient(self.predict(teacher, unlabelled["image"])), boxes)
        distance = jnp.sum(jnp.square(jax.nn.softmax(perturbed["logits"]) - taught), axis=-1)
        valid = views.cutmix(unlabelled["valid"], boxes)
        consistency = masked_mean(distance, valid, AXIS)
        weight = options.weight_at(step, self.config.steps)
        return total + weight * consistency, ({"segmenter": updated}, metrics | {"consistency": consistency})

    def rates(self, steps: int) -> Mapping[str, Any]:
        weight = self.options.weight_at(jnp.asarray(steps), self.config.steps)
        return {**super().rates(steps), "weight_consistency": weight}
