"""Optimisers and schedules by config."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from semiseg_jax.engine.shards import clip_by_norm
from semiseg_jax.options import Options, option


@dataclasses.dataclass(frozen=True)
class Optimizer(Options):
    """How the parameters of a network move."""

    name: str = option("adamw", "adamw or sgd", choices=("adamw", "sgd"))
    learning_rate: float = option(2e-3, "at its highest", low=0)
    schedule: str = option("cosine", "of the learning rate over the steps", choices=("cosine", "poly", "constant"))
    warmup_steps: int = option(0, "over which the learning rate rises from 0", low=0)
    power: float = option(0.9, "of poly", low=0)
    momentum: float = option(0.9, "of sgd", low=0)
    betas: tuple[float, float] = option((0.9, 0.999), "of adamw", low=0, below=1)
    nesterov: bool = option(False, "of sgd")
    weight_decay: float = option(1e-4, "of kernels, towards 0", low=0)
    decay_vectors: bool = option(False, "decay biases and norm parameters too")
    clip_norm: float = option(1.0, "gradients are shortened to this length; 0 = never", low=0)
    multipliers: tuple[tuple[str, float], ...] = option(
        (), '(pattern over paths such as "down0/Conv_0/kernel", factor of the learning rate), ...'
    )


def make_schedule(config: Optimizer, steps: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then cosine, poly or constant down to the last of `steps`."""
    rest = max(1, steps - config.warmup_steps)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.learning_rate, rest)
    elif config.schedule == "poly":
        main = optax.polynomial_schedule(config.learning_rate, 0.0, config.power, rest)
    else:
        main = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def make_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    """Clipping, then SGD (decay joins the gradient) or AdamW (decay joins the update), then per-layer factors."""
    schedule = make_schedule(config, steps)
    mask = None if config.decay_vectors else _matrices
    decay = [optax.add_decayed_weights(config.weight_decay, mask)] if config.weight_decay else []
    parts = [clip_by_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "adamw":
        parts += [optax.scale_by_adam(*config.betas), *decay]
    else:
        parts += [*decay, optax.trace(config.momentum, config.nesterov)]
    parts.append(optax.scale_by_learning_rate(schedule))
    if config.multipliers:
        parts.append(_scale_by_path(config.multipliers))
    return optax.chain(*parts)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _scale_by_path(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """Multiplies each parameter's update by the factor of the first pattern that its path contains."""

    def factor(path: str) -> float:
        return next((value for pattern, value in factors if re.search(pattern, path)), 1.0)

    def init(params: Any) -> optax.EmptyState:
        paths = ["/".join(str(key.key) for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern, _ in factors:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(f"optimizer.multipliers: no parameter matches {pattern!r}; e.g. {paths[0]!r} exists")
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def scale(path: Any, u: jax.Array) -> jax.Array:
            return u * factor("/".join(str(key.key) for key in path))

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(init, update)
