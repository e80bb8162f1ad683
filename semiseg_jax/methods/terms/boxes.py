"""What a network learns from boxes: the class inside, which may be wrong, and background outside (Neven et al.).

    k = 1 / sqrt(1 + pi v / 8)                                            v = learned variance of the logits
    L = CE(softmax(mu), background; outside all boxes) + beta CE(softmax(k mu), y~; inside)

y~ is any class whose box covers the pixel. At first only v learns from what is inside, from a mean that masks taught:
where the two disagree it grows, and tempers the label before the mean hears of it. (v has a head of its own and leaves
the shared features alone: through them it would drag the mean towards background.) Once bootstrapping starts, the
network corrects y~: where the background's logit is the highest, it becomes background if v is large (the label was
declared wrong), else the pixel is left out. Boxes are tight: where hardly any object is left, or too many rows or
columns of the box hold nothing of it, the correction is not trusted and the whole box stays a label.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from semiseg_jax.data.types import IGNORE, Batch, Supervision
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.losses import uncertainty_cross_entropy
from semiseg_jax.methods.base import Metrics, scheduled
from semiseg_jax.methods.terms.base import Pictures, Term, View, Weighted, class_weights
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import option

BACKGROUND = 0


class Boxes:
    """The boxes of a batch: between maps [B,H,W] and one number a box [B,M]."""

    def __init__(self, batch: Batch, num_classes: int):
        self.height, self.width = batch["label"].shape[1:]
        self.y0, self.x0, self.y1, self.x1 = jnp.moveaxis(batch["boxes"], -1, 0)
        self.rows, self.columns = _covers(self.y0, self.y1, self.height), _covers(self.x0, self.x1, self.width)
        real = (batch["box_class"] >= 0) & (batch["box_class"] != IGNORE)
        self.classes = jax.nn.one_hot(jnp.where(real, batch["box_class"], -1), num_classes)  # [B,M,K]
        self.real, self.ignored = real, batch["box_class"] == IGNORE

    def paint(self, of_box: jax.Array) -> jax.Array:
        """[B,M] -> [B,H,W] bool, or [B,M,K] -> [B,H,W,K] bool: true where any box that covers the pixel is."""
        extra = "k" if of_box.ndim == 3 else ""
        count = jnp.einsum(f"bmh,bmw,bm{extra}->bhw{extra}", self.rows, self.columns, of_box.astype(jnp.float32))
        return count > 0.5

    def filled(self, maps: jax.Array) -> jax.Array:
        """Maps [B,H,W,K] of 0 and 1 -> [B,M]: the share of the box that its class's map covers."""
        by_class = jnp.einsum("bmh,bhwk,bmw->bmk", self.rows, maps.astype(jnp.float32), self.columns)
        return _ratio(jnp.sum(by_class * self.classes, axis=-1), self.area)

    def crossed(self, maps: jax.Array) -> jax.Array:
        """Maps [B,H,W,K] of 0 and 1 -> [B,M]: the share of the box's rows, or columns if lower, with its class."""
        maps = maps.astype(jnp.float32)
        on_rows = jnp.einsum("bhwk,bmw,bmk->bmh", maps, self.columns, self.classes) > 0.5
        on_columns = jnp.einsum("bhwk,bmh,bmk->bmw", maps, self.rows, self.classes) > 0.5
        high = _ratio(jnp.sum(on_rows * self.rows, axis=-1), jnp.sum(self.rows, axis=-1))
        wide = _ratio(jnp.sum(on_columns * self.columns, axis=-1), jnp.sum(self.columns, axis=-1))
        return jnp.minimum(high, wide)

    @property
    def area(self) -> jax.Array:
        return jnp.sum(self.rows, axis=-1) * jnp.sum(self.columns, axis=-1)

    @property
    def cut(self) -> jax.Array:
        """[B,M] bool: the crop's border cuts the box, and with it perhaps most of the object."""
        return (self.y0 <= 0) | (self.x0 <= 0) | (self.y1 >= self.height) | (self.x1 >= self.width)


@dataclasses.dataclass(frozen=True)
class Targets:
    """y~ of every pixel; all maps [B,H,W] bool but for `candidates` [B,H,W,K]."""

    candidates: jax.Array  # classes that a pixel may have
    inside: jax.Array  # pixels in boxes that count
    outside: jax.Array  # pixels that are background
    covered: jax.Array  # pixels in boxes, left out or not
    flipped: jax.Array  # pixels in boxes that were declared background
    passes: jax.Array  # [B,M] the boxes that bootstrapping trusts


@dataclasses.dataclass(frozen=True)
class BoxOptions(Weighted):
    inside: str = option(
        "uncertainty",
        "what is learned inside: a learned variance, foreground: boxes as masks, ignore: nothing",
        choices=("uncertainty", "foreground", "ignore"),
    )
    inside_weight: float = option(0.3, "of what is inside", low=0)
    inside_start: float = option(0.1, "share of the steps before what is inside counts", low=0, high=1)
    mean_start: float = option(
        0.3, "share of the steps before which only the variance learns from what is inside", low=0, high=1
    )
    scope: str = option(
        "weak_in_box", "where the variance counts; all: it tempers exact masks too", choices=("weak_in_box", "all")
    )
    bootstrap_start: float = option(0.3, "share of the steps before labels are corrected", low=0, high=1)
    bootstrap_variance: float = option(20.0, "that of a wrong label; 20 scales the logits by a third", low=0)
    min_share: float = option(0.2, "of a box that its object fills, else the box is not corrected", low=0, high=1)
    min_crossed: float = option(
        0.9, "of a box's rows and of its columns that hold some of the object, likewise", low=0, high=1
    )
    regularizer: float = option(0.0, "of log(1 + variance)", low=0)


class BoxTerm(Term):
    """Background outside of boxes, and inside a class that may be wrong; class 0 is background."""

    Options = BoxOptions
    needs_background = True
    reads = frozenset({Supervision.BOX})
    teaches = True

    def __init__(self, options: Any, config: Settings, num_classes: int):
        super().__init__(options, config, num_classes)
        self.num_classes, self.class_weights = num_classes, class_weights(config, num_classes)
        self.needs_variance = options.inside == "uncertainty"
        self.tempers_all = self.needs_variance and options.scope == "all"

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        options, mean = self.options, view.outputs["logits"]
        targets = self.targets(view)
        exact = jnp.zeros(mean.shape[:3])
        variance = view.outputs["variance"] if self.needs_variance else exact
        background = jnp.full(mean.shape[:3], BACKGROUND)
        nothing = jnp.full(mean.shape[:3], IGNORE)
        outside = uncertainty_cross_entropy(
            mean,
            variance if options.scope == "all" else exact,
            background,
            where=targets.outside,
            axis_name=AXIS,
        )
        heard = mean
        if self.needs_variance:
            heard = jnp.where(view.step >= options.mean_start * self.steps, mean, lax.stop_gradient(mean))
        inside = uncertainty_cross_entropy(
            heard,
            variance,
            nothing,
            candidates=targets.candidates,
            class_weights=self.class_weights,
            where=targets.inside,
            axis_name=AXIS,
        )
        spread = masked_mean(jnp.log1p(variance), targets.covered, AXIS)
        weight = scheduled(options.inside_weight, options.inside_start, 0.0, view.step, self.steps)
        value = outside + weight * inside + options.regularizer * spread
        metrics = {
            "boxes_outside": outside,
            "boxes_inside": inside,
            "boxes_flipped": masked_mean(targets.flipped, targets.covered, AXIS),
            "boxes_log_variance": spread,
        }
        return value, metrics

    def targets(self, view: View) -> Targets:
        """Constants: no gradient flows through them."""
        options, batch = self.options, view.batch
        boxes = Boxes(batch, self.num_classes)
        where = view.rows_of(frozenset({Supervision.BOX}))
        covered, left_out = boxes.paint(boxes.real), boxes.paint(boxes.ignored)
        candidates = boxes.paint(boxes.classes)
        inside, outside = where & covered & ~left_out, where & ~covered & ~left_out
        nowhere = jnp.zeros_like(inside)
        if options.inside == "ignore":
            return Targets(candidates, nowhere, outside, inside, nowhere, boxes.real)
        if options.inside == "foreground":
            return Targets(candidates, inside, outside, inside, nowhere, boxes.real)

        mean, variance = lax.stop_gradient((view.outputs["logits"], view.outputs["variance"]))
        best = jnp.argmax(jnp.where(candidates, mean, -jnp.inf), axis=-1)
        things = inside & (jnp.max(jnp.where(candidates, mean, -jnp.inf), axis=-1) > mean[..., BACKGROUND])
        kept = jax.nn.one_hot(best, self.num_classes, dtype=bool) & things[..., None]
        enough = (boxes.filled(kept) >= options.min_share) | boxes.cut
        passes = boxes.real & enough & (boxes.crossed(kept) >= options.min_crossed)
        started = view.step >= options.bootstrap_start * self.steps
        corrected = inside & ~things & ~boxes.paint(boxes.real & ~passes) & started
        flipped = corrected & (variance > options.bootstrap_variance)
        background = jax.nn.one_hot(BACKGROUND, self.num_classes, dtype=bool)
        candidates = jnp.where(flipped[..., None], background, candidates)
        return Targets(candidates, inside & (flipped | ~corrected), outside, inside, flipped, passes)

    def pictures(self, view: View) -> Pictures:
        targets = self.targets(view)
        allowed = jnp.where(targets.candidates, view.outputs["logits"], -jnp.inf)
        label = jnp.where(targets.inside, jnp.argmax(allowed, axis=-1), IGNORE)
        found: Pictures = {LABEL_MADE: jnp.where(targets.outside, BACKGROUND, label)}
        if self.needs_variance:
            found["uncertainty"] = 1 - 1 / jnp.sqrt(1 + jnp.pi / 8 * view.outputs["variance"])
        return found


def _covers(start: jax.Array, end: jax.Array, length: int) -> jax.Array:
    """[B,M] -> [B,M,length] float32: 1 at pixels whose centre lies in [start, end)."""
    centre = jnp.arange(length) + 0.5
    return ((centre >= start[..., None]) & (centre < end[..., None])).astype(jnp.float32)


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    return part / jnp.maximum(whole, 1.0)
