"""The Gated CRF loss: neighbours of similar colour agree."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from semiseg_jax.data.types import IGNORE
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.losses import gated_crf
from semiseg_jax.methods.base import Metrics
from semiseg_jax.methods.terms.base import Pictures, Term, TermInput, TermOptions
from semiseg_jax.ops.images import area_average, standardize
from semiseg_jax.ops.kernels import kernel_terms, prepare
from semiseg_jax.ops.pairwise import filtered
from semiseg_jax.options import OptionError, option


@dataclasses.dataclass(frozen=True)
class GatedCRFOptions(TermOptions):
    start: float = option(0.1, "share of the steps before it counts", low=0, high=1)
    stride: int = option(4, "pixels between cells of the grid that it runs on", low=1)
    kernels: tuple[Mapping[str, float], ...] = option(
        ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},), "sum of Gaussians over place (cells) and standardised colour"
    )
    radius: int = option(5, "of the window of neighbours, in cells", low=1)
    implementation: str = option("xla", "or pallas: a kernel for NVIDIA GPUs, where it runs", choices=("xla", "pallas"))
    sources: str = option(
        "valid", "cells that pull: all, or labelled: those that hold a label", choices=("valid", "labelled")
    )
    pixel: tuple[int, ...] = option((), "(y, x) whose kernel panels show; () = the first that has a label")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixel and (len(self.pixel) != 2 or min(self.pixel) < 0):
            raise OptionError("pixel", f"is {self.pixel!r} but must be (y, x), or () for none")


class GatedCRF(Term):
    """Gated CRF loss of the probabilities on a coarse grid; pixels outside the image do not pull.

    With `sources="labelled"`, only cells that hold a label pull their neighbours: clicks grow to what looks alike, and
    large regions do not swallow small ones.
    """

    Options = GatedCRFOptions

    def __call__(self, seen: TermInput) -> tuple[jax.Array, Metrics]:
        probs, where = self._coarse(seen), seen.rows_of(self.kinds)
        sources = where
        if self.options.sources == "labelled":
            labelled = where & (seen.batch["label"] != IGNORE)
            grid = (probs.shape[1], probs.shape[2])
            sources = area_average(labelled[..., None].astype(jnp.float32), grid)[..., 0] > 0
        value = gated_crf(
            probs,
            standardize(seen.batch["image"]),
            kernels=self.options.kernels,
            radius=self.options.radius,
            source_mask=sources,
            # Padding is no centre either where the rows are chosen by kind; by default as in the paper. Not with chosen
            # sources: the mean is over targets where they are given, else over sources.
            target_mask=where if self.kinds and self.options.sources == "valid" else None,
            axis_name=AXIS,
            implementation=self.options.implementation,
        )
        return value, {}

    def pictures(self, seen: TermInput) -> Pictures:
        """The kernel around one pixel of each image: the chosen one, else the first with a label, else the middle."""
        batch, probs = seen.batch, self._coarse(seen)
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
        terms = kernel_terms("gated_crf", self.options.kernels, standardize(batch["image"]), None, probs.shape[:3])
        spots = spot[..., None].astype(jnp.float32)
        kernel = filtered(spots, *prepare("gated_crf", terms, spots, self.options.radius, None))
        near = jnp.maximum(kernel[..., 0], spot)
        return {"kernel": jnp.clip(jax.image.resize(near, (len(probs), height, width), "nearest"), 0, 1)}

    def _coarse(self, seen: TermInput) -> jax.Array:
        """Probabilities at the term's stride: from the network's own low resolution where that is fine enough."""
        height, width = seen.batch["label"].shape[1:]
        size = (-(-height // self.options.stride), -(-width // self.options.stride))
        low = seen.outputs["low_logits"]
        if low.shape[1] < size[0] or low.shape[2] < size[1]:
            low = seen.outputs["logits"]  # which the network has enlarged in its own way
        return area_average(jax.nn.softmax(low), size)
