"""`adversarial`: some masks, many unlabelled images, and a discriminator of label maps (Hung et al., 1802.07934).

    P = softmax(S(x)),  D(.) = one confidence a pixel that a map is a true one

    L_S = CE(P, y; labelled) + l_adv BCE(D(P), 1; labelled) + l_adv' BCE(D(P), 1; unlabelled)
          + l_semi CE(P, argmax P; unlabelled pixels with D(P) > T)
    L_D = 1/2 BCE(D(one-hot y), 1) + 1/2 BCE(D(P), 0; all images)

With `sees_image` D looks at x beside the map (as in Mittal et al., arXiv 1908.05724) and tells whether the two fit.
Nothing of L_D reaches S, nothing of L_S reaches D; both are updated at once. Labelled images are those with a mask:
others (with scribbles, boxes, tags or nothing) count as unlabelled here, and what labels they have goes through the
terms of the config.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.data.types import IGNORE, Batch, Supervision, split_rows
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.optimizers import Optimizer, make_optimizer, make_schedule
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.losses import adversarial_loss, confident_self_training, discriminator_loss
from semiseg_jax.methods import base, terms
from semiseg_jax.methods.segmentation import Segmentation
from semiseg_jax.models import DTYPES, Discriminator
from semiseg_jax.ops.images import standardize
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import OptionError, Options, option

BINS = 10  # of the histogram of confidences


@dataclasses.dataclass(frozen=True)
class DiscriminatorOptimizer(Optimizer):
    learning_rate: float = option(1e-4, "at its highest", low=0)
    schedule: str = option("poly", "of the learning rate over the steps", choices=("cosine", "poly", "constant"))
    weight_decay: float = option(0.0, "of kernels, towards 0", low=0)
    clip_norm: float = option(0.0, "gradients are shortened to this length; 0 = never", low=0)


@dataclasses.dataclass(frozen=True)
class Game(Options):
    """What segmenter and discriminator play."""

    adversarial_labelled_weight: float = option(0.01, "on rows with a mask, of what the segmenter learns", low=0)
    adversarial_labelled_start: float = option(0.0, "share of the steps before it counts", low=0, high=1)
    adversarial_unlabelled_weight: float = option(0.001, "on all other rows, of what the segmenter learns", low=0)
    adversarial_unlabelled_start: float = option(0.0, "share of the steps before it counts", low=0, high=1)
    semi_weight: float = option(0.1, "of confident self-training", low=0)
    semi_start: float = option(0.25, "share of the steps before it counts", low=0, high=1)
    threshold: float = option(0.2, "confidence above which a pixel's own prediction becomes its label", low=0, high=1)
    label_smoothing: float = option(0.0, "of true maps, for the discriminator", low=0, below=1)
    real_rows: int = option(
        0, "of the quota's dense rows, those that only show the discriminator their labels; 0 = all do", low=0
    )
    # Else the discriminator tells true maps by their holes, which lie around objects and in padding.
    fill_void: bool = option(
        True, "true maps show the prediction where they have no label, and predictions nothing in padding"
    )
    hard_maps: bool = option(False, "the discriminator sees predictions as one-hot maps too, not how soft they are")
    features: int = option(64, "of the discriminator's first layer", low=1)
    output_stride: int = option(32, "of its map of confidences", choices=(8, 16, 32))
    sees_image: bool = option(False, "it judges whether map and image fit each other, not the map alone")
    class_agnostic: bool = option(False, "it sees background against everything else, beside the image")
    optimizer: DiscriminatorOptimizer = DiscriminatorOptimizer()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real_rows and self.fill_void:
            raise OptionError(
                "real_rows",
                "are not seen by the segmenter, so that their void cannot be filled with its predictions; set "
                "fill_void=False",
            )


class Adversarial(Segmentation):
    sections: ClassVar[Mapping[str, type[Options]]] = {"adversarial": Game}
    uses_all_rows = True

    def __init__(self, config: Settings, num_classes: int):
        super().__init__(config, num_classes)
        self.options: Game = config.own["adversarial"]
        self.class_weights = terms.class_weights(config, num_classes)
        if self.quota.get(Supervision.DENSE, 0) <= self.options.real_rows:
            raise ValueError(
                f"method {config.method!r} needs rows with masks, more than adversarial.real_rows="
                f"{self.options.real_rows}, but data.quota is {config.data.quota}"
            )
        self.discriminator = Discriminator(
            self.options.features,
            self.options.output_stride,
            sees_image=self.options.sees_image,
            class_agnostic=self.options.class_agnostic,
            dtype=DTYPES[config.dtype],
        )
        self.optimizers["discriminator"] = make_optimizer(self.options.optimizer, config.steps)
        self.schedules["discriminator"] = make_schedule(self.options.optimizer, config.steps)

    def init(self, rng: jax.Array, batch: Batch) -> base.State:
        state = super().init(rng, batch)
        maps = jnp.zeros((1, *batch["label"].shape[1:], self.num_classes))
        variables = self.discriminator.init(jax.random.fold_in(rng, 1), maps, batch["image"][:1])
        network = base.init_network(variables, self.optimizers["discriminator"], ema=False)
        return dataclasses.replace(state, networks={**state.networks, "discriminator": network})

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array, *, step: jax.Array):
        dense_rows = self.dense_rows(batch)
        apart = self.options.real_rows * len(batch["image"]) // sum(self.quota.values())
        real, _ = split_rows(batch, apart or dense_rows)
        (_, batch), dense_rows = split_rows(batch, apart), dense_rows - apart
        outputs, updated = self.outputs(params["segmenter"], batch_stats["segmenter"], batch["image"], dense_rows)
        loss_s, metrics = self.terms(terms.TermInput(outputs, batch, step))
        maps = self._maps(jax.nn.softmax(outputs["logits"]), batch)

        dense = (batch["kind"] == Supervision.DENSE)[:, None, None]
        has_label = batch["label"] != IGNORE
        labelled, unlabelled = batch["valid"] & dense & has_label, batch["valid"] & ~dense

        # What S learns from D, whose parameters are constants here.
        judged = self._judge(lax.stop_gradient(params["discriminator"]), maps, batch)
        confidence = lax.stop_gradient(jax.nn.sigmoid(judged))
        parts = {}
        if self.options.adversarial_labelled_weight:
            parts["adversarial_labelled"] = adversarial_loss(judged, where=labelled, axis_name=AXIS)
        if self.options.adversarial_unlabelled_weight:
            parts["adversarial_unlabelled"] = adversarial_loss(judged, where=unlabelled, axis_name=AXIS)
        if self.options.semi_weight:
            parts["semi"] = confident_self_training(
                outputs["logits"],
                confidence,
                threshold=self.options.threshold,
                class_weights=self.class_weights,
                where=unlabelled & ~has_label,
                axis_name=AXIS,
            )
            metrics["accepted"] = masked_mean(confidence > self.options.threshold, unlabelled, AXIS)
        for name, value in parts.items():
            loss_s += self._weight(name, step) * value

        # What D learns; predictions are constants here.
        fake_maps = lax.stop_gradient(maps)
        real_maps = jax.nn.one_hot(real["label"], self.num_classes)  # all zero where there is no label
        if self.options.fill_void:
            real_maps = jnp.where((real["label"] == IGNORE)[..., None], fake_maps[:dense_rows], real_maps)
        # Else XLA makes booleans of them again, and for TPUs it then aborts (experiments/upstream/space_to_batch.py).
        real_maps = lax.optimization_barrier(real_maps)
        is_real = real["valid"] & (real["label"] != IGNORE) & (real["kind"] == Supervision.DENSE)[:, None, None]
        real_logits = self._judge(params["discriminator"], real_maps, real)
        fake_logits = self._judge(params["discriminator"], fake_maps, batch)
        loss_d = discriminator_loss(
            real_logits,
            fake_logits,
            real_where=is_real,
            fake_where=labelled | unlabelled,
            label_smoothing=self.options.label_smoothing,
            axis_name=AXIS,
        )
        metrics |= parts | {
            "discriminator": loss_d,
            "accuracy_real": masked_mean(real_logits > 0, is_real, AXIS),
            "accuracy_fake": masked_mean(fake_logits <= 0, labelled | unlabelled, AXIS),
            "confidence_histogram": _histogram(confidence, unlabelled),
        }
        return loss_s + loss_d, ({"segmenter": updated}, metrics)

    def _maps(self, probs: jax.Array, batch: Batch) -> jax.Array:
        """Predictions as D sees them: with nothing that tells them from true maps but what they show."""
        if self.options.hard_maps:
            hard = jax.nn.one_hot(jnp.argmax(probs, axis=-1), self.num_classes)
            probs = probs + lax.stop_gradient(hard - probs)  # the gradient passes straight through
        return probs * batch["valid"][..., None] if self.options.fill_void else probs

    def _judge(self, params: Any, maps: jax.Array, batch: Batch) -> jax.Array:
        judged: Any = self.discriminator.apply({"params": params}, maps, standardize(batch["image"]))
        return judged

    def rates(self, steps: int) -> Mapping[str, Any]:
        names = ("adversarial_labelled", "adversarial_unlabelled", "semi")
        active = [name for name in names if getattr(self.options, f"{name}_weight")]
        own = {f"weight_{name}": self._weight(name, jnp.asarray(steps)) for name in active}
        return {**super().rates(steps), **own}

    def _weight(self, name: str, step: jax.Array) -> jax.Array:
        options = self.options
        weight, start = getattr(options, f"{name}_weight"), getattr(options, f"{name}_start")
        return base.scheduled(weight, start, 0.0, step, self.config.steps)

    def watch(self, step: int, means: Mapping[str, float]) -> str:
        options = self.options
        smoothing = options.label_smoothing
        # Smoothed targets cost even a discriminator that knows everything their entropy.
        least = -sum(share * math.log(share) for share in (smoothing, 1 - smoothing) if share) / 2
        if means["discriminator"] - least < 0.1 * (math.log(2) - least):
            remedy = "" if smoothing else ", or set adversarial.label_smoothing=0.1"
            return (
                f"the discriminator wins (loss {means['discriminator']:.3f} of at least {least:.3f}; healthy is 0.2 to "
                f"0.5) and teaches nothing: lower adversarial.optimizer.learning_rate{remedy}"
            )
        late = step > options.semi_start * self.config.steps
        if late and means.get("accepted", 1.0) < 0.001 and set(self.quota) > {Supervision.DENSE}:
            return (
                f"the discriminator accepts hardly a pixel at threshold {options.threshold}, so there is no "
                "self-training: lower adversarial.threshold"
            )
        if late and means["discriminator"] > 0.67:
            return (
                f"the discriminator hardly tells true maps from predictions (loss {means['discriminator']:.3f}; "
                "healthy is 0.2 to 0.5) and its confidence says little: raise adversarial.optimizer.learning_rate"
            )
        return ""

    def pictures(self, state: base.State, batch: Batch) -> terms.Pictures:
        logits = self.look(self.eval_variables(state, self.config.eval.weights), batch["image"])["logits"]
        maps = self._maps(jax.nn.softmax(logits), batch)
        judged = self._judge(state.networks["discriminator"].params, maps, batch)
        confidence = jax.nn.sigmoid(judged)
        found = {**super().pictures(state, batch), "confidence": confidence}
        if self.options.semi_weight:
            found[LABEL_MADE] = jnp.where(confidence > self.options.threshold, jnp.argmax(logits, axis=-1), IGNORE)
        return found


def _histogram(confidence: jax.Array, where: jax.Array) -> jax.Array:
    """The share of the pixels in each of BINS equal parts of [0,1]."""
    bins = jnp.clip((confidence * BINS).astype(jnp.int32), 0, BINS - 1)
    counts = jnp.sum(jax.nn.one_hot(bins, BINS) * where[..., None], axis=(0, 1, 2))
    counts = lax.psum(counts, AXIS)
    return counts / jnp.maximum(jnp.sum(counts), 1)
