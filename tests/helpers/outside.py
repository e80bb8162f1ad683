"""What a user might write: a method, a term, a network and a dataset of another package."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.data.records import RecordBuilder, encode_png, make_record
from semiseg_jax.data.types import Supervision
from semiseg_jax.methods import Segmentation
from semiseg_jax.methods.terms import Term, TermOptions
from semiseg_jax.models import Segmenter
from semiseg_jax.models.segmenter import head_conv, perturbed, upsampled
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class EntropyOptions(TermOptions):
    power: float = option(1.0, "of the entropy", low=0)


class Entropy(Term):
    """Mean entropy of the prediction."""

    Options = EntropyOptions

    def __call__(self, view):
        entropy = -jnp.sum(view.probs * jax.nn.log_softmax(view.outputs["logits"]), axis=-1)
        return jnp.mean(entropy**self.options.power), {}


class Named(Entropy):
    name = "named"


class Boxes(Entropy):
    """Is called as one of ours."""


@dataclasses.dataclass(frozen=True)
class SharpOptions(Options):
    sharpness: float = option(2.0, "of something", low=0)


class Sharp(Segmentation):
    """A method with options, features and a term of its own."""

    sections = {"sharp": SharpOptions}  # noqa: RUF012
    own_terms = {"entropy": Entropy}  # noqa: RUF012
    features = ("down0",)

    def loss(self, params, batch_stats, batch, rng, *, step):
        loss, (stats, metrics) = super().loss(params, batch_stats, batch, rng, step=step)
        return loss, (stats, metrics | {"sharpness": jnp.float32(self.config.own["sharp"].sharpness)})


class Renamed(Sharp):
    name = "another_name"


class Tiny(Segmenter):
    """The smallest network that serves every method."""

    num_classes: int
    width: int = 4
    variance: bool = False
    axis_name: str | None = None
    dtype: object = jnp.float32

    @nn.compact
    def outputs(self, image, train=False, perturb=None):
        (x,) = perturbed([nn.relu(nn.Conv(self.width, (4, 4), (4, 4), name="encoder")(image))], perturb)
        raw = head_conv(1, self.dtype, "variance")(x) if self.variance else None
        return upsampled(head_conv(self.num_classes, self.dtype, "classifier")(x), raw, image, align_corners=False)


class Incomplete(Segmenter):
    num_classes: int


@dataclasses.dataclass(frozen=True)
class GreyOptions(Options):
    count: int = option(3, "images of each split", low=1)


class Grey(RecordBuilder):
    """Grey images whose mask is all of one class."""

    name = "folder"  # that ours has this name is no matter
    Options = GreyOptions

    def __init__(self, data):
        self.count = data.options["count"]
        self.meta = {"classes": ["background", "grey"], "colors": [[0, 0, 0], [9, 9, 9]], "background": 0}
        super().__init__(data_dir=data.data_dir, config_name=f"grey{self.count}")

    def split_sizes(self):
        return {"train": self.count, "val": self.count}

    def generate(self, split):
        for number in range(self.count):
            image = encode_png(np.full((32, 32, 3), 10 * number, np.uint8))
            mask = np.full((32, 32), 1, np.uint8)
            yield make_record(id=f"{split}{number}", image=image, num_classes=2, mask=mask), (32, 32), [
                Supervision.UNLABELED, Supervision.DENSE
            ]  # fmt: skip


def not_a_class():
    """Neither method, term nor network."""


def no_dataset(data):
    """Makes something else than a builder."""
    return data
