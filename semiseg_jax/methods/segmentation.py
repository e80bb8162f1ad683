"""A segmentation network trained with the terms that its config turns on: what most methods share."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from semiseg_jax.data.pools import parse_quota
from semiseg_jax.data.types import Batch, Supervision, split_rows
from semiseg_jax.engine.optimizers import make_optimizer, make_schedule
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.methods import base, terms
from semiseg_jax.models import make_model, pretrained
from semiseg_jax.models.features import outputs_of
from semiseg_jax.models.segmenter import Outputs, Perturb
from semiseg_jax.ops.images import standardize
from semiseg_jax.options import Options

logger = logging.getLogger("semiseg_jax")


class Segmentation:
    """Base of the methods. `needs` lists the terms that a method requires; override `loss` for what no sum can say."""

    name = ""  # of its stage, and so of its checkpoints; "" = as the config calls it, without the module
    sections: ClassVar[Mapping[str, type[Options]]] = {}
    own_terms: ClassVar[Mapping[str, type[terms.Term]]] = {}
    needs: tuple[str, ...] = ("cross_entropy",)
    features: tuple[str, ...] = ()  # of the network, which `outputs` and `look` then give too: see models/features.py
    uses_all_rows = False  # whether it has a use for rows that no term looks at

    def __init__(self, config: Settings, num_classes: int):
        self.config, self.num_classes = config, num_classes
        self.quota = parse_quota(config.data.quota)
        self.terms = terms.Sum(terms.known_terms(config.extra_terms, self.own_terms), config, num_classes)
        self._check(config)
        options = dict(config.model)
        if self.terms.needs_variance:
            options["variance"] = True
        self.model = make_model(options.pop("name"), num_classes, dtype=config.dtype, axis_name=AXIS, **options)
        frozen = {getattr(self.model, part, "") for part in ("norm", "head_norm")} & {"frozen", "affine_frozen"}
        if config.optimizer.decay_vectors and frozen:
            raise ValueError(f"config.optimizer.decay_vectors would shrink the scales of model.norm={frozen.pop()!r}")
        self.optimizers = {"segmenter": make_optimizer(config.optimizer, config.steps)}
        self.schedules = {"segmenter": make_schedule(config.optimizer, config.steps)}

    def _check(self, config: Settings) -> None:
        off = [name for name in self.needs if name not in self.terms.active]
        if off:
            raise ValueError(f"method {config.method!r} needs terms.{off[0]}.weight to be positive")
        quota = config.data.quota
        if not self.terms.trains_on & self.quota.keys():
            raise ValueError(
                f"method {config.method!r} learns from {_names(self.terms.trains_on)} only, but data.quota is {quota}"
            )
        for name, kinds in self.terms.idle(self.quota).items():
            raise ValueError(f"terms.{name} looks at rows of {_names(kinds)} only, but data.quota is {quota}")

    @property
    def needs_background(self) -> str:
        name = self.terms.needs_background
        return f"terms.{name}" if name else ""

    def stages(self) -> Sequence[base.Stage]:
        stage = base.Stage(
            name=self.name or self.config.method.rpartition(":")[2],
            config=self.config,
            init=self.init,
            train_step=self.train_step,
            start=self.start,
            check=self.check,
            rates=self.rates,
            pictures=self.pictures,
            watch=self.watch,
        )
        return [stage]

    def check(self) -> None:
        """Raises for what would stop the start of a stage."""
        pretrained.check(self.model, self.config.pretrained)

    def rates(self, steps: int) -> Mapping[str, Any]:
        """Learning rates, and the weight of each term, in the update after `steps` others."""
        return {**base.learning_rates(self.schedules, steps), **self.terms.weights(jnp.asarray(steps))}

    def watch(self, step: int, means: Mapping[str, float]) -> str:
        """A warning that the mean metrics of a report give reason to."""
        del step, means
        return ""

    def init(self, rng: jax.Array, batch: Batch) -> base.State:
        optimizer, ema = self.optimizers["segmenter"], self.config.ema > 0
        state = base.init_state("segmenter", self.model, rng, batch["image"], optimizer, ema=ema)
        if self.features:  # names that the network does not have fail here, before anything is written
            jax.eval_shape(self.look, state.networks["segmenter"].variables, batch["image"])
        return state

    def start(self, state: base.State) -> base.State:
        spare = frozenset(self.quota) - self.terms.looks_at
        if spare and not self.uses_all_rows:
            logger.warning(
                "method %r learns nothing from rows of %s, which data.quota gives a part of each batch; leave them out "
                "or turn on a term that looks at them (such as total_variation or gated_crf)",
                self.config.method,
                _names(spare),
            )
        return base.with_pretrained(state, "segmenter", self.model, self.config.pretrained)

    def dense_rows(self, batch: Batch) -> int:
        """How many rows of a device's micro-batch have a mask; they come first, as `Batch` says."""
        return len(batch["image"]) * self.quota.get(Supervision.DENSE, 0) // sum(self.quota.values())

    def require_rows_without_mask(self) -> None:
        if set(self.quota) <= {Supervision.DENSE}:
            raise ValueError(
                f"method {self.config.method!r} learns from images without a mask, but data.quota is "
                f"{self.config.data.quota}; add rows of another kind, such as unlabeled"
            )

    def outputs(
        self, params: Any, batch_stats: Any, image: jax.Array, dense: int, perturb: Perturb | None = None
    ) -> tuple[Outputs, Any]:
        """-> (what the network says in training, its new batch statistics). The first `dense` rows have a mask."""
        if not self.config.separate_passes or dense in (0, len(image)):
            return self._outputs(params, batch_stats, image, perturb)
        masked_rows, other_rows = split_rows(image, dense)
        first = perturb and (perturb[0] - dense, perturb[1])
        others, batch_stats = self._outputs(params, batch_stats, other_rows, first)
        masked, batch_stats = self._outputs(params, batch_stats, masked_rows, None)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), masked, others), batch_stats

    def _outputs(self, params: Any, batch_stats: Any, image: jax.Array, perturb: Perturb | None) -> tuple[Outputs, Any]:
        variables = {"params": params, "batch_stats": batch_stats}
        return outputs_of(
            self.model, variables, standardize(image), train=True, features=self.features, perturb=perturb
        )

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array, *, step: jax.Array):
        """The sum of the terms -> (loss, (batch_stats, metrics))"""
        del rng
        outputs, updated = self.outputs(
            params["segmenter"], batch_stats["segmenter"], batch["image"], self.dense_rows(batch)
        )
        total, metrics = self.terms(terms.TermInput(outputs, batch, step))
        return total, ({"segmenter": updated}, metrics)

    def loss_of(self, state: base.State) -> base.Loss:
        return functools.partial(self.loss, step=state.step)

    def train_step(self, state: base.State, batch: Batch) -> tuple[base.State, base.Metrics]:
        whole = dataclasses.replace(state, networks=base.gathered(state.networks))
        return base.step(self.loss_of(whole), state, batch, self.optimizers, self.config)

    def eval_variables(self, state: base.State, weights: str = "auto") -> base.Variables:
        network = state.networks["segmenter"]
        return network.variables if weights == "raw" else network.averaged

    def predict(self, variables: base.Variables, images: jax.Array) -> jax.Array:
        return jax.nn.softmax(self.look(variables, images)["logits"])

    def look(self, variables: base.Variables, images: jax.Array) -> Outputs:
        """What the network says outside of training."""
        return outputs_of(self.model, variables, standardize(images), train=False, features=self.features)[0]

    def pictures(self, state: base.State, batch: Batch) -> terms.Pictures:
        """What a panel shows beside prediction and truth, of training images."""
        outputs = self.look(self.eval_variables(state, self.config.eval.weights), batch["image"])
        return self.terms.pictures(terms.TermInput(outputs, batch, state.step))


def _names(kinds: terms.Kinds) -> str:
    return ", ".join(kind.name.lower() for kind in sorted(kinds)) or "no kind"
