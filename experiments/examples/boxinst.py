"""`boxinst`: masks from boxes alone (Tian et al., arXiv 2012.02310), for classes instead of instances.

    P = softmax S(x)
    L_proj = mean_c [ D(max_x P_c, l_x(B_c)) + D(max_y P_c, l_y(B_c)) ]    D(p, t) = 1 - 2 <p, t> / (<p, p> + <t, t>)
    L_pair = mean_e -log sum_c P_c(i) P_c(j)                               edges e = (i, j) whose colours are alike:
    S_e = exp(-|Lab_i - Lab_j| / 2) >= 0.3

B_c are the boxes of class c, l_x and l_y their projections on rows and on columns; the mean is over the classes that
have a box in an image. Edges lead to the 8 neighbours at distance 2 of every pixel in a box, on the grid of the
network's own logits, and count more and more (`ramp`). From the paper: both losses, neighbours, similarity and its
threshold. Changed: P_c of all objects of a class takes the place of an instance's mask, so that the paper's two classes
become all; and what is outside all boxes is background, which the term `boxes` says, as configured in the example.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from semiseg_jax.data.types import Supervision
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import Segmentation, base, terms
from semiseg_jax.methods.terms.boxes import Boxes
from semiseg_jax.ops.images import area_average, to_unit
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import option

BOX = frozenset({Supervision.BOX})
NEIGHBOURS = tuple((y, x) for y in (-2, 0, 2) for x in (-2, 0, 2) if (y, x) != (0, 0))


@dataclasses.dataclass(frozen=True)
class ProjectionOptions(terms.Weighted):
    weight: float = option(1.0, "0 = off", low=0)


@dataclasses.dataclass(frozen=True)
class PairwiseOptions(terms.Weighted):
    weight: float = option(1.0, "0 = off", low=0)
    ramp: float = option(0.1, "share of the steps over which it grows", low=0, high=1)
    threshold: float = option(0.3, "similarity of colours from which an edge counts", low=0, high=1)


class BoxTerm(terms.Term):
    """What both terms share: they look at rows of kind box, and class 0 is background."""

    reads = BOX
    teaches = True
    needs_background = True

    def __init__(self, options: Any, config: Settings, num_classes: int):
        super().__init__(options, config, num_classes)
        self.num_classes = num_classes


class Projection(BoxTerm):
    """L_proj, of pixels that are not in boxes to be ignored."""

    Options = ProjectionOptions

    def __call__(self, view: terms.View) -> tuple[jax.Array, base.Metrics]:
        boxes = Boxes(view.batch, self.num_classes)
        where = view.rows_of(BOX) & ~boxes.paint(boxes.ignored)
        probs = jnp.where(where[..., None], view.probs, 0.0)
        has_class = jnp.any(boxes.classes > 0, axis=1) & jnp.any(where, axis=(1, 2))[:, None]  # [B,K]
        value = jnp.zeros(())
        for axis, covers in ((2, boxes.rows), (1, boxes.columns)):
            target = jnp.einsum("bml,bmk->blk", covers, boxes.classes) > 0
            target = target & jnp.any(where, axis=axis)[..., None]
            value += masked_mean(_dice(jnp.max(probs, axis=axis), target), has_class, AXIS)
        return value, {}


class Pairwise(BoxTerm):
    """L_pair."""

    Options = PairwiseOptions

    def __call__(self, view: terms.View) -> tuple[jax.Array, base.Metrics]:
        logits = view.outputs["low_logits"]
        boxes, grid = Boxes(view.batch, self.num_classes), (logits.shape[1], logits.shape[2])
        lab = rgb_to_lab(area_average(to_unit(view.batch["image"]), grid))
        where = view.rows_of(BOX)
        inside = where & boxes.paint(boxes.real) & ~boxes.paint(boxes.ignored)
        where, inside = (area_average(x[..., None].astype(jnp.float32), grid)[..., 0] > 0.5 for x in (where, inside))
        logs = jax.nn.log_softmax(logits)
        pairs = [self._pair(lab, logs, where, offset) for offset in NEIGHBOURS]
        alike, paid = (jnp.stack(maps) for maps in zip(*pairs, strict=True))  # [8,B,h,w]
        edges = alike & inside
        found = masked_mean(alike, jnp.broadcast_to(inside, alike.shape), AXIS)
        return masked_mean(paid, edges, AXIS), {"pairwise_alike": found}

    def _pair(
        self, lab: jax.Array, logs: jax.Array, where: jax.Array, offset: tuple[int, int]
    ) -> tuple[jax.Array, jax.Array]:
        """[B,h,w] whether a pixel and its neighbour look alike, and what it costs that their classes differ."""
        distance = jnp.linalg.norm(lab - _shifted(lab, offset), axis=-1)
        alike = (jnp.exp(-distance / 2) >= self.options.threshold) & _shifted(where, offset)
        return alike, -jax.nn.logsumexp(logs + _shifted(logs, offset), axis=-1)


class BoxInst(Segmentation):
    own_terms: ClassVar[Mapping[str, type[terms.Term]]] = {"projection": Projection, "pairwise": Pairwise}
    needs = ("projection", "pairwise")


def _dice(probs: jax.Array, target: jax.Array) -> jax.Array:
    """D of every row and class: [B,L,K] -> [B,K]."""
    both = jnp.sum(probs * target, axis=1)
    return 1 - 2 * both / jnp.maximum(jnp.sum(jnp.square(probs) + target, axis=1), 1e-6)


def _shifted(x: jax.Array, offset: tuple[int, int]) -> jax.Array:
    """[B,h,w,...]: at each pixel what stands at its neighbour; zeros beyond the border."""
    pads = [(0, 0), (2, 2), (2, 2), *[(0, 0)] * (x.ndim - 3)]
    top, left = 2 + offset[0], 2 + offset[1]
    return jnp.pad(x, pads)[:, top : top + x.shape[1], left : left + x.shape[2]]


def rgb_to_lab(image: jax.Array) -> jax.Array:
    """sRGB in [0,1] -> CIE Lab, white D65, in the usual units (L from 0 to 100)."""
    linear = jnp.where(image > 0.04045, ((jnp.maximum(image, 0.04045) + 0.055) / 1.055) ** 2.4, image / 12.92)
    to_xyz = jnp.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = jnp.einsum("...c,xc->...x", linear, to_xyz, precision="highest") / jnp.array([0.950456, 1.0, 1.088754])
    f = jnp.where(xyz > 0.008856, jnp.cbrt(jnp.maximum(xyz, 0.008856)), 7.787 * xyz + 16 / 116)
    x, y, z = jnp.moveaxis(f, -1, 0)
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
