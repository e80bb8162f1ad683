"""`corrmatch`: labels spread along correlations of features (Sun et al., arXiv 2306.04300).

    C = softmax(F1 F2^T / sqrt K)            F1, F2: two linear layers on features of the network; a row a location
    Z = C^T S(x)                             pixel propagation: each location hands out its logits, as constants
    p = softmax S(u),  y^ = argmax p,  sure = max p >= tau                 of an image without a mask
    R_i = {C_i, scaled to [0,1], above 1/2}  region propagation, i a random location. If a share tau of R_i is sure,
                                             and of that more than tau has one class, all of R_i is sure of it: y~
    tau <- m tau + (1 - m) mean_c max_{y^ = c} p                           over the classes that are predicted

    L = L_terms + CE(Z(x), y) + w/2 [ CE(S(A(u)), y~; sure~) + KL(p || S(A(u)); sure) + CE(S_dropped(u), y^; sure)
                                      + 1/2 CE(Z(A(u)), y~; sure~) + 1/2 CE(Z(u), y^; sure) ]

A is a colour change followed by CutMix. Each CE and KL is a mean over all valid pixels. From the paper: the two
propagations, the threshold, all terms and their ratios (its loss is a quarter of this one), 128 seeds, tau from 0.85
with m = 0.999. Simplified: one 3x3 convolution without norm or dropout comes before the linear layers; CutMix partners
are rows of the same batch; regions spread before CutMix; where several regions meet, most of them decide.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from semiseg_jax.data.types import IGNORE, Batch, split_rows
from semiseg_jax.engine.made_scores import LABEL_MADE
from semiseg_jax.engine.optimizers import make_optimizer
from semiseg_jax.engine.parallel import AXIS
from semiseg_jax.engine.settings import Settings
from semiseg_jax.losses import partial_cross_entropy
from semiseg_jax.methods import Segmentation, base, terms, views
from semiseg_jax.models.layers import resize
from semiseg_jax.ops.reduce import masked_mean
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class CorrMatchOptions(views.Consistency):
    features: str = option("down3", "of the network, that are correlated; `semiseg summary --features` lists them")
    channels: int = option(256, "that the features are reduced to", low=1)
    seeds: int = option(128, "regions tried in each image", low=1)
    threshold: float = option(0.85, "tau at the start", low=0, high=1)
    momentum: float = option(0.999, "of tau", low=0, high=1)


class Correlation(nn.Module):
    """Features [B,h,w,C] -> C [B,hw,hw], whose rows sum to 1."""

    channels: int
    num_classes: int

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(self.channels, (3, 3), name="reduce")(features.astype(jnp.float32)))
        x = x.reshape(len(x), -1, self.channels)
        first = nn.Dense(self.num_classes, name="first")(x)
        second = nn.Dense(self.num_classes, use_bias=False, name="second")(x)  # a bias would cancel in the softmax
        return jax.nn.softmax(first @ second.swapaxes(1, 2) / jnp.sqrt(self.num_classes))


class CorrMatch(Segmentation):
    sections: ClassVar[Mapping[str, type[Options]]] = {"corrmatch": CorrMatchOptions}
    uses_all_rows = True

    def __init__(self, config: Settings, num_classes: int):
        super().__init__(config, num_classes)
        self.options: CorrMatchOptions = config.own["corrmatch"]
        self.features = (self.options.features,)
        weights = terms.class_weights(config, num_classes)
        self.cross_entropy = functools.partial(partial_cross_entropy, class_weights=weights, axis_name=AXIS)
        self.correlation = Correlation(self.options.channels, num_classes)
        self.optimizers["correlation"] = make_optimizer(config.optimizer, config.steps)
        self.require_rows_without_mask()

    def init(self, rng: jax.Array, batch: Batch) -> base.State:
        state = super().init(rng, batch)
        outputs = jax.eval_shape(self.look, state.networks["segmenter"].variables, batch["image"][:1])
        features = jnp.zeros(outputs["features"][self.options.features].shape)
        params = self.correlation.init(jax.random.fold_in(rng, 1), features)["params"]
        variables = {"params": params, "batch_stats": {"threshold": jnp.float32(self.options.threshold)}}
        network = base.init_network(variables, self.optimizers["correlation"], ema=False)
        return dataclasses.replace(state, networks={**state.networks, "correlation": network})

    def loss(self, params: base.Trees, batch_stats: base.Trees, batch: Batch, rng: jax.Array, *, step: jax.Array):
        del rng
        options, dense, rows = self.options, self.dense_rows(batch), len(batch["image"])
        _, u = split_rows(batch, dense)
        box = views.cutmix_boxes(u, 1, options.cutmix)
        images = jnp.concatenate([batch["image"], views.cutmix(views.strong_view(u, 2), box)])
        dropping = (dense, views.seeds_of(u, 3))
        outputs, updated = self.outputs(params["segmenter"], batch_stats["segmenter"], images, dense, dropping)
        features = outputs.pop("features")[options.features][: len(images)]
        seen, dropped = split_rows(outputs, len(images))
        weak, strong = split_rows(seen, rows)
        total, metrics = self.terms(terms.View(weak, batch, step))

        c: Any = self.correlation.apply({"params": params["correlation"]}, features)
        z, z_strong = split_rows(spread_logits(c, seen["logits"], features.shape[1:3]), rows)
        probs = lax.stop_gradient(jax.nn.softmax(weak["logits"][dense:]))
        tau = self._threshold(batch_stats["correlation"]["threshold"], probs, u["valid"])
        label, far = self._labels(lax.stop_gradient(c[dense:rows]), features.shape[1:3], probs, u, tau)
        mixed_far, mixed_valid = views.cutmix(far, box), views.cutmix(u["valid"], box)
        mixed_sure, mixed_probs = views.cutmix(label != IGNORE, box), views.cutmix(probs, box)
        distance = optax.losses.kl_divergence(jax.nn.log_softmax(strong["logits"]), mixed_probs)
        parts = {
            "consistency_hard": self._kept(strong["logits"], mixed_far, mixed_valid),
            "consistency_soft": masked_mean(distance * mixed_sure, mixed_valid, AXIS),
            "consistency_features": self._kept(dropped["logits"], label, u["valid"]),
            "correlation_strong": 0.5 * self._kept(z_strong, mixed_far, mixed_valid),
            "correlation_weak": 0.5 * self._kept(z[dense:], label, u["valid"]),
        }
        weight = base.scheduled(options.weight, options.start, options.ramp, step, self.config.steps)
        correlation = self.cross_entropy(z, batch["label"], where=batch["valid"])
        total += correlation + 0.5 * weight * sum(parts.values())
        metrics |= parts | {"correlation": correlation, "threshold": tau}
        metrics["accepted"] = masked_mean(label != IGNORE, u["valid"], AXIS)
        metrics["accepted_regions"] = masked_mean(far != IGNORE, u["valid"], AXIS)
        return total, ({"segmenter": updated, "correlation": {"threshold": tau}}, metrics)

    def _threshold(self, before: jax.Array, probs: jax.Array, valid: jax.Array) -> jax.Array:
        """tau, moved towards the mean over classes of the highest probability of a pixel of that class."""
        is_class = jax.nn.one_hot(jnp.argmax(probs, axis=-1), self.num_classes) * valid[..., None]
        highest = lax.pmax(jnp.max(is_class * probs, axis=(0, 1, 2)), AXIS)  # 0: no pixel of any device
        mean = jnp.sum(highest) / jnp.maximum(jnp.sum(highest > 0), 1)
        return jnp.where(mean > 0, self.options.momentum * before + (1 - self.options.momentum) * mean, before)

    def _labels(
        self, c: jax.Array, grid: tuple[int, ...], probs: jax.Array, batch: Batch, tau: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """-> y^ where sure, y~ where sure~; IGNORE elsewhere. Both [B,H,W]."""
        label = jnp.where(batch["valid"] & (jnp.max(probs, axis=-1) >= tau), jnp.argmax(probs, axis=-1), IGNORE)
        draw = jax.vmap(lambda seed: jax.random.randint(jax.random.key(seed), (self.options.seeds,), 0, c.shape[1]))
        maps = jnp.take_along_axis(c, draw(views.seeds_of(batch, 4))[..., None], axis=1)  # [B,S,hw]
        maps = resize(maps.swapaxes(1, 2).reshape(len(c), *grid, -1), label.shape[1:])
        low, high = (reduce(maps, axis=(1, 2), keepdims=True) for reduce in (jnp.min, jnp.max))
        regions = (maps - low > 0.5 * (high - low)) & batch["valid"][..., None]  # [B,H,W,S]
        regions = regions.astype(jnp.float32)
        of_class = jnp.einsum("bhws,bhwk->bsk", regions, jax.nn.one_hot(label, self.num_classes))
        area, sure, most = jnp.sum(regions, axis=(1, 2)), jnp.sum(of_class, axis=-1), jnp.max(of_class, axis=-1)
        spreads = (sure > 0) & (sure >= tau * area) & (most > tau * sure)
        winner = jax.nn.one_hot(jnp.argmax(of_class, axis=-1), self.num_classes) * spreads[..., None]
        votes = jnp.einsum("bhws,bsk->bhwk", regions, winner)
        return label, jnp.where(jnp.max(votes, axis=-1) > 0, jnp.argmax(votes, axis=-1), label)

    def _kept(self, logits: jax.Array, labels: jax.Array, valid: jax.Array) -> jax.Array:
        """Cross-entropy of labelled pixels times their share of the valid ones."""
        return self.cross_entropy(logits, labels, where=valid) * masked_mean(labels != IGNORE, valid, AXIS)

    def pictures(self, state: base.State, batch: Batch) -> terms.Pictures:
        outputs = self.look(self.eval_variables(state, self.config.eval.weights), batch["image"])
        features, network = outputs["features"][self.options.features], state.networks["correlation"]
        c: Any = self.correlation.apply({"params": network.params}, features)
        probs, tau = jax.nn.softmax(outputs["logits"]), network.batch_stats["threshold"]
        _, far = self._labels(c, features.shape[1:3], probs, batch, tau)
        return {**super().pictures(state, batch), LABEL_MADE: far}


def spread_logits(c: jax.Array, logits: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Z [B,H,W,K] of C [B,hw,hw] and logits [B,H,W,K], through which no gradient flows."""
    coarse = resize(lax.stop_gradient(logits), grid).reshape(len(c), -1, logits.shape[-1])
    spread = jnp.einsum("bij,bik->bjk", c, coarse)
    return resize(spread.reshape(len(c), *grid, -1), logits.shape[1:3])
