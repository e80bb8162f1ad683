"""What a network learns from boxes: the class inside, which may be wrong, and background outside (Neven et al.).

    k = 1 / sqrt(1 + pi v / 8)                                            v = learned variance of the logits
    L = CE(softmax(mu), background; outside all boxes) + beta CE(softmax(k mu), y~; inside)

y~ is any class whose box covers the pixel. At first only v learns from what is inside, from a mean that masks taught:
where the two disagree it grows, and tempers the label before the mean hears of it. (v has a head of its own and leaves
the shared features alone: through them it would drag the mean towards background.) Once bootstrapping starts, the
network corrects y~: where the background's logit is the highest, it becomes background if v is large (the label was
declared wrong), else the pixel is left out. Boxes are tight: where the object does not reach all sides, the correction
is not trusted, and the box goes on teaching v alone; where hardly any object is left, it teaches the mean as well.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from semiseg_jax import losses
from semiseg_jax.data.types import IGNORE, Batch, Supervision
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.methods.base import Metrics, reached, scheduled
from semiseg_jax.methods.terms import Pictures, Term, View

BACKGROUND = 0
SIDES = ("top", "bottom", "left", "right")


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

    def count(self, maps: jax.Array, rows: jax.Array | None = None, columns: jax.Array | None = None) -> jax.Array:
        """Maps [B,H,W,K] -> [B,M]: the sum over the box (or these rows and columns of it) of its class's map."""
        rows = self.rows if rows is None else rows
        columns = self.columns if columns is None else columns
        by_class = jnp.einsum("bmh,bhwk,bmw->bmk", rows, maps.astype(jnp.float32), columns)
        return jnp.sum(by_class * self.classes, axis=-1)

    @property
    def area(self) -> jax.Array:
        return jnp.sum(self.rows, axis=-1) * jnp.sum(self.columns, axis=-1)

    def cut(self) -> dict[str, jax.Array]:
        """[B,M] bool by side: the crop's border may have cut the box there, so the object need not reach it."""
        return dict(
            zip(SIDES, (self.y0 <= 0, self.y1 >= self.height, self.x0 <= 0, self.x1 >= self.width), strict=True)
        )

    def reaches(self, maps: jax.Array, tolerance: float) -> dict[str, jax.Array]:
        """[B,M] bool by side: the box's class appears within `tolerance` of the box's size from that side."""
        high = jnp.maximum(1.0, tolerance * (self.y1 - self.y0))
        wide = jnp.maximum(1.0, tolerance * (self.x1 - self.x0))
        strips = {
            "top": {"rows": _covers(self.y0, self.y0 + high, self.height)},
            "bottom": {"rows": _covers(self.y1 - high, self.y1, self.height)},
            "left": {"columns": _covers(self.x0, self.x0 + wide, self.width)},
            "right": {"columns": _covers(self.x1 - wide, self.x1, self.width)},
        }
        return {side: self.count(maps, **strip) > 0.5 for side, strip in strips.items()}


@dataclasses.dataclass(frozen=True)
class Targets:
    """y~ of every pixel; all maps [B,H,W] bool but for `candidates` [B,H,W,K]."""

    candidates: jax.Array  # classes that a pixel may have
    inside: jax.Array  # pixels in boxes that count
    outside: jax.Array  # pixels that are background
    covered: jax.Array  # pixels in boxes, left out or not
    flipped: jax.Array  # pixels in boxes that were declared background
    doubtful: jax.Array  # pixels in boxes of which the mean should not hear
    passes: jax.Array  # [B,M] the boxes that bootstrapping trusts


class BoxTerm(Term):
    """The loss above, of rows whose kind is box. Class 0 is background."""

    learns_from = frozenset({Supervision.BOX})

    def __init__(self, options: ConfigDict, config: ConfigDict, num_classes: int):
        super().__init__(options, config, num_classes)
        self.num_classes = num_classes
        self.needs_variance = options.inside == "uncertainty"

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        options, mean = self.options, view.outputs["logits"]
        targets = self.targets(view)
        exact = jnp.zeros(mean.shape[:3])
        variance = view.outputs["variance"] if self.needs_variance else exact
        background = jnp.full(mean.shape[:3], BACKGROUND)
        nothing = jnp.full(mean.shape[:3], IGNORE)
        outside = losses.uncertainty_cross_entropy(
            mean,
            variance if options.scope == "all" else exact,
            background,
            where=targets.outside,
            axis_name=AXIS,
        )
        heard = mean
        if self.needs_variance:
            hears = (view.step >= reached(options.mean_start, self.steps)) & ~targets.doubtful
            heard = jnp.where(hears[..., None], mean, lax.stop_gradient(mean))
        inside = losses.uncertainty_cross_entropy(
            heard, variance, nothing, candidates=targets.candidates, where=targets.inside, axis_name=AXIS
        )
        spread = _share(jnp.log1p(variance), targets.covered)
        weight = scheduled(options.inside_weight, options.inside_start, 0.0, view.step, self.steps)
        value = outside + weight * inside + options.regularizer * spread
        metrics = {
            "boxes_outside": outside,
            "boxes_inside": inside,
            "boxes_flipped": _share(targets.flipped, targets.covered),
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
            return Targets(candidates, nowhere, outside, inside, nowhere, nowhere, boxes.real)
        if options.inside == "foreground":
            return Targets(candidates, inside, outside, inside, nowhere, nowhere, boxes.real)

        mean, variance = lax.stop_gradient((view.outputs["logits"], view.outputs["variance"]))
        best = jnp.argmax(jnp.where(candidates, mean, -jnp.inf), axis=-1)
        things = inside & (jnp.max(jnp.where(candidates, mean, -jnp.inf), axis=-1) > mean[..., BACKGROUND])
        kept = jax.nn.one_hot(best, self.num_classes, dtype=bool) & things[..., None]
        cut = boxes.cut()
        enough = (boxes.count(kept) >= options.min_share * boxes.area) | jnp.any(jnp.stack(list(cut.values())), axis=0)
        tight = [near | cut[side] for side, near in boxes.reaches(kept, options.tolerance).items()]
        passes = boxes.real & enough & jnp.all(jnp.stack(tight), axis=0)
        started = view.step >= reached(options.bootstrap_start, self.steps)
        corrected = inside & ~things & ~boxes.paint(boxes.real & ~passes) & started
        doubtful = boxes.paint(boxes.real & ~passes & enough) & started
        flipped = corrected & (variance > options.bootstrap_variance)
        background = jax.nn.one_hot(BACKGROUND, self.num_classes, dtype=bool)
        candidates = jnp.where(flipped[..., None], background, candidates)
        return Targets(candidates, inside & (flipped | ~corrected), outside, inside, flipped, doubtful, passes)

    def pictures(self, view: View) -> Pictures:
        targets = self.targets(view)
        allowed = jnp.where(targets.candidates, view.outputs["logits"], -jnp.inf)
        label = jnp.where(targets.inside, jnp.argmax(allowed, axis=-1), IGNORE)
        found: Pictures = {"label made": jnp.where(targets.outside, BACKGROUND, label)}
        if self.needs_variance:
            found["uncertainty"] = 1 - 1 / jnp.sqrt(1 + jnp.pi / 8 * view.outputs["variance"])
        return found


def _covers(start: jax.Array, end: jax.Array, length: int) -> jax.Array:
    """[B,M] -> [B,M,length] float32: 1 at pixels whose centre lies in [start, end)."""
    centre = jnp.arange(length) + 0.5
    return ((centre >= start[..., None]) & (centre < end[..., None])).astype(jnp.float32)


def _share(values: jax.Array, where: jax.Array) -> jax.Array:
    """The mean of `values` over the pixels `where`, of all devices."""
    total, count = lax.psum((jnp.sum(jnp.where(where, values, 0.0)), jnp.sum(where)), AXIS)
    return total / jnp.maximum(count, 1)
