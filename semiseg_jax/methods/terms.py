"""The terms that a loss is the sum of, by config: any method can have any of them.

Each takes what it needs from the batch by masks: rows that it has no use for change nothing in it. A term of weight 0
is never traced.
"""

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from semiseg_jax import losses
from semiseg_jax.data.types import IGNORE, MADE_FOR, Batch, Supervision
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.methods.base import Metrics, scheduled
from semiseg_jax.models.layers import resize
from semiseg_jax.models.segmenter import Outputs
from semiseg_jax.ops.images import area_average, standardize
from semiseg_jax.ops.kernels import kernel_terms, prepare
from semiseg_jax.ops.pairwise import filtered
from semiseg_jax.ops.reduce import masked_mean

ALL = frozenset(Supervision)
LABELLED = frozenset({Supervision.DENSE, Supervision.PARTIAL, Supervision.SCRIBBLE, Supervision.POINTS})
MADE = frozenset(MADE_FOR)
Kinds = frozenset[Supervision]
# By name: class maps [B,H,W] of integers, heat maps [B,H,W] of floats in [0,1].
Pictures = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class View:
    """A batch, and what the network says of it."""

    outputs: Outputs
    batch: Batch
    step: jax.Array

    @property
    def probs(self) -> jax.Array:
        return jax.nn.softmax(self.outputs["logits"])

    def rows_of(self, kinds: Kinds) -> jax.Array:
        """[B,H,W] bool: the valid pixels of rows of these kinds; of all rows where there are none."""
        if not kinds:
            return self.batch["valid"]
        chosen = jnp.isin(self.batch["kind"], jnp.array(sorted(kinds)))
        return self.batch["valid"] & chosen[:, None, None]


class Term(abc.ABC):
    """Base of the terms. `options` is `config.terms.NAME`; the constructor checks it."""

    reads: Kinds = ALL  # kinds of rows that the term has a use for
    teaches = False  # whether it alone can train a network
    needs_variance = False

    def __init__(self, options: ConfigDict, config: ConfigDict, num_classes: int):
        self.options, self.steps = options, config.steps
        self.kinds = frozenset(Supervision.parse(name) for name in options.get("kinds", ()))

    @property
    def uses(self) -> Kinds:
        """What it reads of the rows that the config lets it see."""
        return self.reads & (self.kinds or ALL)

    def weight(self, step: jax.Array) -> jax.Array:
        options = self.options
        return scheduled(options.weight, options.get("start", 0.0), options.get("ramp", 0.0), step, self.steps)

    @abc.abstractmethod
    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        """-> (value, before its weight, and further metrics)"""

    def pictures(self, view: View) -> Pictures:
        """What a panel shows of the term."""
        del view
        return {}


class CrossEntropy(Term):
    """Cross-entropy over the labelled pixels, from full masks, scribbles, clicks and random pixels alike.

    From labels that a program made too, unless the term `made_labels` gives them a weight of their own.
    """

    reads = LABELLED
    teaches = True

    def __init__(self, options: ConfigDict, config: ConfigDict, num_classes: int):
        super().__init__(options, config, num_classes)
        self.class_weights = class_weights(config, num_classes)
        boxes = config.terms.boxes
        self.uncertain = boxes.weight > 0 and boxes.inside == "uncertainty" and boxes.scope == "all"
        if self.uncertain and options.average == "images":
            raise ValueError('terms.boxes.scope="all" tempers all pixels: terms.cross_entropy.average must be "pixels"')
        if config.terms.made_labels.weight > 0:
            self.kinds = (self.kinds or ALL) - MADE
            if not self.kinds:  # which would mean all rows
                raise ValueError(f"terms.made_labels takes all rows of terms.cross_entropy.kinds={options.kinds}")
        elif config.data.made_labels:
            self.reads = LABELLED | MADE

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        logits, label, where = view.outputs["logits"], view.batch["label"], view.rows_of(self.kinds)
        labelled = lax.pmean(jnp.mean(label != IGNORE), AXIS)
        if self.uncertain:
            value = losses.uncertainty_cross_entropy(
                logits,
                view.outputs["variance"],
                label,
                class_weights=self.class_weights,
                where=where,
                axis_name=AXIS,
            )
        elif self.options.average == "pixels":
            value = self._over(logits, label, where, AXIS)
        else:
            images = jax.vmap(lambda x, y, m: self._over(x[None], y[None], m[None], None))(logits, label, where)
            value = masked_mean(images, jnp.any((label != IGNORE) & where, axis=(1, 2)), AXIS)
        return value, {"labelled_pixels": labelled}

    def _over(self, logits: jax.Array, label: jax.Array, where: jax.Array, axis_name: str | None) -> jax.Array:
        return losses.partial_cross_entropy(
            logits, label, class_weights=self.class_weights, where=where, axis_name=axis_name
        )


class MadeLabels(CrossEntropy):
    """The same, from rows whose labels a program made."""

    reads = MADE

    def __init__(self, options: ConfigDict, config: ConfigDict, num_classes: int):
        super().__init__(options, config, num_classes)
        self.kinds = MADE


def class_weights(config: ConfigDict, num_classes: int) -> tuple[float, ...] | None:
    """`config.class_weights`, of which only the ratios matter."""
    weights = tuple(config.class_weights)
    if weights and len(weights) != num_classes:
        raise ValueError(f"class_weights has {len(weights)} entries but there are {num_classes} classes")
    return weights or None


class TotalVariation(Term):
    """TV(P) at full resolution, of every valid pixel."""

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        options, probs, where = self.options, view.probs, view.rows_of(self.kinds)
        if options.norm == "curvilinear":
            return losses.curvilinear_total_variation(probs, where=where, sigma=options.sigma, axis_name=AXIS), {}
        edges = {"image": standardize(view.batch["image"]), "contrast": options.contrast} if options.contrast else {}
        return losses.total_variation(probs, norm=options.norm, where=where, axis_name=AXIS, **edges), {}


class GatedCRF(Term):
    """Gated CRF loss of the probabilities on a coarse grid; pixels outside the image do not pull.

    With `sources="labelled"`, only cells that hold a label pull their neighbours: clicks grow to what looks alike, and
    large regions do not swallow small ones.
    """

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        probs, where = self._coarse(view), view.rows_of(self.kinds)
        sources = where
        if self.options.sources == "labelled":
            labelled = where & (view.batch["label"] != IGNORE)
            grid = (probs.shape[1], probs.shape[2])
            sources = area_average(labelled[..., None].astype(jnp.float32), grid)[..., 0] > 0
        value = losses.gated_crf(
            probs,
            standardize(view.batch["image"]),
            kernels=self._kernels(),
            radius=self.options.radius,
            source_mask=sources,
            # Padding is no centre either where the rows are chosen by kind; by default as in the paper. Not with chosen
            # sources: the mean is over targets where they are given, else over sources.
            target_mask=where if self.kinds and self.options.sources == "valid" else None,
            axis_name=AXIS,
            implementation=self.options.implementation,
        )
        return value, {}

    def pictures(self, view: View) -> Pictures:
        """The kernel around one pixel of each image: the chosen one, else the first with a label, else the middle."""
        batch, probs = view.batch, self._coarse(view)
        height, width = batch["label"].shape[1:]
        rows, columns = probs.shape[1:3]
        labelled = (batch["label"] != IGNORE).reshape(len(probs), -1)
        middle = (height // 2) * width + width // 2
        chosen = jnp.where(jnp.any(labelled, axis=1), jnp.argmax(labelled, axis=1), middle)
        if self.options.pixel:
            y, x = self.options.pixel
            chosen = jnp.full_like(chosen, min(y, height - 1) * width + min(x, width - 1))
        y, x = chosen // width * rows // height, chosen % width * columns // width
        spot = (jnp.arange(rows)[:, None] == y[:, None, None]) & (jnp.arange(columns) == x[:, None, None])
        terms = kernel_terms("gated_crf", self._kernels(), standardize(batch["image"]), None, probs.shape[:3])
        spots = spot[..., None].astype(jnp.float32)
        kernel = filtered(spots, *prepare("gated_crf", terms, spots, self.options.radius, None))
        near = jnp.maximum(kernel[..., 0], spot)
        return {"kernel": jnp.clip(jax.image.resize(near, (len(probs), height, width), "nearest"), 0, 1)}

    def _kernels(self) -> Sequence[Mapping[str, float]]:
        return tuple(dict(kernel) for kernel in self.options.kernels)

    def _coarse(self, view: View) -> jax.Array:
        """Probabilities at the term's stride: from the network's own low resolution where that is fine enough."""
        height, width = view.batch["label"].shape[1:]
        size = (-(-height // self.options.stride), -(-width // self.options.stride))
        low = view.outputs["low_logits"]
        if low.shape[1] < size[0] or low.shape[2] < size[1]:
            return jax.nn.softmax(resize(low, size))
        return area_average(jax.nn.softmax(low), size)


class AbsentTags(Term):
    """What the tags rule out: -log(1 - max_p P_c(p)), averaged over the classes that are not in the image."""

    def __init__(self, options: ConfigDict, config: ConfigDict, num_classes: int):
        super().__init__(options, config, num_classes)
        if config.data.assign:  # then an image shows the labels of its kind alone
            self.reads = frozenset({Supervision.TAGS})

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        where, logits = view.rows_of(self.kinds), view.outputs["logits"]
        batch, classes = logits.shape[0], logits.shape[-1]
        # From the logits at the one pixel that counts: 1 - P is 0 in float32 where the network is very sure.
        ranked = jnp.where(where[..., None], jax.nn.log_softmax(logits), -jnp.inf).reshape(batch, -1, classes)
        highest = jnp.argmax(lax.stop_gradient(ranked), axis=1)
        there = jnp.take_along_axis(logits.reshape(batch, -1, classes), highest[..., None], axis=1)  # [B,K,K]
        others = jnp.where(jnp.eye(classes, dtype=bool), -jnp.inf, there)
        paid = jax.nn.logsumexp(there, axis=-1) - jax.nn.logsumexp(others, axis=-1)
        absent = (view.batch["tags"] == 0) & jnp.any(where, axis=(1, 2))[:, None]
        return masked_mean(paid, absent, AXIS), {}


class Sum:
    """The terms that a config turns on, and their weighted sum."""

    def __init__(self, known: Mapping[str, Any], config: ConfigDict, num_classes: int):
        self.terms: dict[str, Term] = {
            name: known[name](options, config, num_classes)
            for name, options in config.terms.items()
            if options.weight > 0
        }

    @property
    def learns_from(self) -> Kinds:
        return frozenset[Supervision]().union(*(term.uses for term in self.terms.values() if term.teaches))

    def idle(self, kinds: Collection[Supervision]) -> dict[str, Kinds]:
        """Terms that a batch of these kinds gives nothing to do, and what each looks at.

        Not cross-entropy, which is on by default.
        """
        return {
            name: term.uses
            for name, term in self.terms.items()
            if name != "cross_entropy" and not term.uses & frozenset(kinds)
        }

    @property
    def uses(self) -> Kinds:
        return frozenset[Supervision]().union(*(term.uses for term in self.terms.values()))

    @property
    def needs_variance(self) -> bool:
        return any(term.needs_variance for term in self.terms.values())

    def __call__(self, view: View) -> tuple[jax.Array, Metrics]:
        total = jnp.zeros(())
        metrics: Metrics = {}
        for name, term in self.terms.items():
            value, details = term(view)
            total += term.weight(view.step) * value
            metrics |= {name: value, **details}
        return total, metrics

    def pictures(self, view: View) -> Pictures:
        found: Pictures = {}
        for term in self.terms.values():
            found |= term.pictures(view)
        return found
