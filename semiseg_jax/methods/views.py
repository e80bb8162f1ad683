"""Views of unlabelled images for methods that ask a network to say the same of them: colours and CutMix.

Randomness comes from the seed of each row, so that any number of devices sees the same views. But CutMix pairs the
rows of one device: which ones meet depends on how rows are spread over devices.
"""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp

from semiseg_jax.data.augment import Augment
from semiseg_jax.data.types import Batch
from semiseg_jax.methods.base import scheduled
from semiseg_jax.ops.images import fill_padding
from semiseg_jax.options import Options, option

logger = logging.getLogger("semiseg_jax")

STRONG = Augment.plain(
    (1, 1), jitter=0.8, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25, grayscale=0.2, blur=0.5
)


@dataclasses.dataclass(frozen=True)
class Consistency(Options):
    """Agreement between views of images without a mask."""

    weight: float = option(1.0, "of the agreement", low=0)
    start: float = option(0.0, "share of the steps before it counts", low=0, high=1)
    ramp: float = option(0.0, "share of the steps over which it then grows", low=0, high=1)
    cutmix: float = option(
        0.5, "probability of CutMix, between neighbours: it takes two such rows a device", low=0, high=1
    )

    def weight_at(self, step: jax.Array, steps: int) -> jax.Array:
        return scheduled(self.weight, self.start, self.ramp, step, steps)


def seeds_of(batch: Batch, salt: int) -> jax.Array:
    """[B] uint32: independent seeds for each use, named by its salt."""
    fold = jax.vmap(lambda seed: jax.random.bits(jax.random.fold_in(jax.random.key(seed), salt)))
    return fold(batch["seed"])


def strong_view(batch: Batch, salt: int) -> jax.Array:
    """[B,H,W,3]: the same geometry in other colours, perhaps grey or blurred."""

    def one(image: jax.Array, valid: jax.Array, seed: jax.Array) -> jax.Array:
        return STRONG.recolor(image, valid, jax.random.split(jax.random.key(seed), 3))

    images = jax.vmap(one)(batch["image"], batch["valid"], seeds_of(batch, salt))
    return fill_padding(images, batch["valid"])


def cutmix_boxes(batch: Batch, salt: int, probability: float) -> jax.Array:
    """[B,H,W] bool: what each row takes from its partner; a rectangle of 2 to 40 % of the area, or nothing."""
    height, width = batch["label"].shape[1:]
    if probability > 0 and len(batch["label"]) % 2:
        _warn_of_lonely_rows(len(batch["label"]))

    def one(seed: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), 4)
        area = jax.random.uniform(keys[0], minval=0.02, maxval=0.4) * height * width
        ratio = jnp.exp(jax.random.uniform(keys[1], minval=jnp.log(0.3), maxval=jnp.log(1 / 0.3)))
        sides = jnp.minimum(jnp.sqrt(jnp.array([area * ratio, area / ratio])), jnp.array([height, width]))
        corner = jax.random.uniform(keys[2], (2,)) * (jnp.array([height, width]) - sides)
        y, x = jnp.arange(height)[:, None], jnp.arange(width)
        inside = (y >= corner[0]) & (y < corner[0] + sides[0]) & (x >= corner[1]) & (x < corner[1] + sides[1])
        return inside & jax.random.bernoulli(keys[3], probability)

    return jax.vmap(one)(seeds_of(batch, salt))


def cutmix(rows: jax.Array, boxes: jax.Array) -> jax.Array:
    """Rows [B,H,W,...] with `boxes` taken from their partners; neighbours 0-1, 2-3, ... are partners."""
    last = len(rows) - 1
    partners = rows[jnp.array([min(i ^ 1, last) for i in range(len(rows))], jnp.int32)]
    return jnp.where(boxes.reshape(boxes.shape + (1,) * (rows.ndim - 3)), partners, rows)


@functools.cache  # once for all views
def _warn_of_lonely_rows(rows: int) -> None:
    logger.warning(
        "CutMix pairs rows without mask, but each device has %d of them in a micro-batch: the last one stays as it is. "
        "Give an even number by data.quota or batch_size, or set consistency.cutmix=0",
        rows,
    )
