"""Optimisers and schedules by config."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax


def make_schedule(config: Any, steps: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then cosine, poly or constant down to the last of `steps`."""
    rest = max(1, steps - config.warmup_steps)
    if config.schedule == "cosine":
        main = optax.cosine_decay_schedule(config.learning_rate, rest)
    elif config.schedule == "poly":
        main = optax.polynomial_schedule(config.learning_rate, 0.0, config.power, rest)
    elif config.schedule == "constant":
        main = optax.constant_schedule(config.learning_rate)
    else:
        raise ValueError(f"unknown optimizer.schedule {config.schedule!r}; known: cosine, poly, constant")
    if not config.warmup_steps:
        return main
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, main], [config.warmup_steps])


def make_optimizer(config: Any, steps: int) -> optax.GradientTransformation:
    """Clipping, then SGD (decay joins the gradient) or AdamW (decay joins the update), then per-layer factors."""
    schedule = make_schedule(config, steps)
    mask = None if config.decay_vectors else _matrices
    decay = [optax.add_decayed_weights(config.weight_decay, mask)] if config.weight_decay else []
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.name == "adamw":
        parts += [optax.scale_by_adam(*config.betas), *decay]
    elif config.name == "sgd":
        parts += [*decay, optax.trace(config.momentum, config.nesterov)]
    else:
        raise ValueError(f"unknown optimizer.name {config.name!r}; known: adamw, sgd")
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
