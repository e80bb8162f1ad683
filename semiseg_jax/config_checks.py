"""What a config must fulfil, as far as no data are needed."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config import OPEN_FIELDS, default_config, field_of

METRICS = ("miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "boundary_f")


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` for fields that do not exist, wrong types and impossible values."""
    default = default_config()
    _check_fields(config.to_dict(), default.to_dict(), "")
    _check_choice("parallel", config.parallel, ("shard_map", "pmap"))
    _check_choice("dtype", config.dtype, ("float32", "bfloat16"))
    for name in ("optimizer", "adversarial.optimizer"):
        _check_optimizer(name, field_of(config, name))
    _check_choice("augment.scale_draw", config.augment.scale_draw, ("log", "uniform", "window"))
    _check_choice("eval.mode", config.eval.mode, ("whole", "slide"))
    _check_choice("eval.weights", config.eval.weights, ("auto", "raw"))
    _check_choice("eval.boundary", config.eval.boundary, ("auto", "always", "never"))
    _check_choice("eval.post.name", config.eval.post.name, ("", "mrf", "mean_field"))
    _check_choice("eval.post.connectivity", config.eval.post.connectivity, (4, 8))
    _check_terms(config.terms)
    _check_methods(config)
    _check_choice("adversarial.output_stride", config.adversarial.output_stride, (8, 16, 32))
    _check_choice("transfer.labels_from", config.transfer.labels_from, ("l_net", "cam"))
    _check_choice("transfer.rounds", config.transfer.rounds, (1, 2))
    _check_choice("total_variation.cut.connectivity", config.total_variation.cut.connectivity, (4, 8))
    for name in (
        "steps", "accumulate", "eval.every", "log.every", "eval.batch_size", "data.threads", "total_variation.rounds"
    ):  # fmt: skip
        if field_of(config, name) < 1:
            raise ValueError(f"config.{name} is {field_of(config, name)} but must be at least 1")
    for name in ("flip", "jitter", "blur", "brightness", "contrast", "saturation", "hue", "grayscale"):
        _check_range(f"augment.{name}", config.augment[name], 0, 1)
    for name in ("eval.overlap", "ema"):
        if not 0 <= field_of(config, name) < 1:
            raise ValueError(f"config.{name} is {field_of(config, name)} but must be in [0, 1)")
    _check_pair("augment.crop", config.augment.crop, 1)
    for name in ("data.canvas", "eval.window"):
        _check_pair(name, field_of(config, name), 0)
        if any(field_of(config, name)) and not all(field_of(config, name)):
            raise ValueError(f"config.{name} is {field_of(config, name)}; give both sides, or (0, 0)")
    for name in ("scale", "blur_sigma"):
        _check_pair(f"augment.{name}", config.augment[name], 0)
        low, high = config.augment[name]
        if not 0 < low <= high:
            raise ValueError(f"config.augment.{name} is {(low, high)} but must be two increasing positive numbers")
    _check_scales("eval.scales", config.eval.scales)
    _check_choice("checkpoint.metric", config.checkpoint.metric, METRICS)
    if config.checkpoint.metric == "boundary_f" and config.eval.boundary == "never":
        raise ValueError("config.checkpoint.metric is boundary_f, which config.eval.boundary='never' turns off")
    if config.checkpoint.every < 0 or config.devices < 0 or config.batch_size < 0:
        raise ValueError("config.checkpoint.every, config.devices and config.batch_size must not be negative")
    _check_range("balance_classes", config.balance_classes, 0, 1)
    if any(weight < 0 for weight in config.class_weights):
        raise ValueError(f"config.class_weights is {config.class_weights} but must be 0 or more for each class")
    if config.balance_classes and config.class_weights:
        raise ValueError("config.balance_classes and config.class_weights exclude each other")
    for name in ("beta", "contrast", "color", "radius", "iterations"):
        _check_range(f"eval.post.{name}", config.eval.post[name], 0, float("inf"))
    for kind, rows in config.data.quota.items():
        if not isinstance(rows, int) or isinstance(rows, bool):
            raise ValueError(f"config.data.quota.{kind} is {rows!r} but must be a whole number of rows")
    for kind, amount in config.data.assign.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float | str):
            raise ValueError(f"config.data.assign.{kind} is {amount!r} but must be a share, a number or a split's name")


def _check_methods(config: ConfigDict) -> None:
    infinity = float("inf")
    for part in ("adversarial_labelled", "adversarial_unlabelled", "semi"):
        for field in ("weight", "start"):
            _check_range(f"adversarial.{part}_{field}", config.adversarial[f"{part}_{field}"], 0, infinity)
    for name in ("threshold", "label_smoothing"):
        _check_range(f"adversarial.{name}", config.adversarial[name], 0, 1)
    _check_range("adversarial.real_rows", config.adversarial.real_rows, 0, infinity)
    for name in ("weight", "start", "ramp"):
        _check_range(f"consistency.{name}", config.consistency[name], 0, infinity)
    for name in ("threshold", "cutmix"):
        _check_range(f"consistency.{name}", config.consistency[name], 0, 1)
    for name in ("round_steps", "cut.beta", "cut.contrast", "cut.color"):
        _check_range(f"total_variation.{name}", field_of(config.total_variation, name), 0, infinity)
    transfer = config.transfer
    for name in ("class_seed", "object_seed", "background_seed", "margin", "sure", "alpha"):
        _check_range(f"transfer.{name}", transfer[name], 0, 0.999 if name == "alpha" else 1)
    for name in ("color_sigma", "object_sigma"):
        _check_range(f"transfer.{name}", transfer[name], 1e-6, infinity)
    for name, least in (("radius", 1), ("classifier_steps", 0), ("l_net_steps", 0), ("pictures", 0)):
        _check_range(f"transfer.{name}", transfer[name], least, infinity)
    _check_pair("transfer.classifier_crop", transfer.classifier_crop, 32)
    _check_scales("transfer.cam_scales", transfer.cam_scales)


def _check_scales(name: str, scales: Sequence[float]) -> None:
    if not scales or any(not 0.1 <= scale <= 10 for scale in scales):
        raise ValueError(f"config.{name} is {tuple(scales)} but must hold numbers in [0.1, 10]")


def _check_optimizer(name: str, options: ConfigDict) -> None:
    _check_choice(f"{name}.name", options.name, ("adamw", "sgd"))
    _check_choice(f"{name}.schedule", options.schedule, ("cosine", "poly", "constant"))
    for field in ("learning_rate", "weight_decay", "clip_norm", "warmup_steps", "momentum", "power"):
        _check_range(f"{name}.{field}", options[field], 0, float("inf"))
    if len(options.betas) != 2 or any(not 0 <= beta < 1 for beta in options.betas):
        raise ValueError(f"config.{name}.betas is {options.betas} but must be two numbers in [0, 1)")
    for pair in options.multipliers:
        if (
            not isinstance(pair, tuple | list)
            or len(pair) != 2
            or not isinstance(pair[0], str)
            or isinstance(pair[1], str)
        ):
            raise ValueError(
                f"config.{name}.multipliers is {options.multipliers} but must be pairs of a pattern and a factor, such "
                'as (("head", 10.0),)'
            )


def _check_terms(terms: ConfigDict) -> None:
    positive = ("weight", "start", "ramp", "inside_weight", "inside_start", "mean_start", "bootstrap_start")
    for name, options in terms.items():
        for field in (*positive, "bootstrap_variance", "regularizer"):
            if field in options:
                _check_range(f"terms.{name}.{field}", options[field], 0, float("inf"))
    for name in ("cross_entropy", "made_labels"):
        _check_choice(f"terms.{name}.average", terms[name].average, ("pixels", "images"))
    _check_choice("terms.total_variation.norm", terms.total_variation.norm, ("l1", "l2", "curvilinear"))
    _check_range("terms.total_variation.contrast", terms.total_variation.contrast, 0, float("inf"))
    if terms.total_variation.contrast and terms.total_variation.norm == "curvilinear":
        raise ValueError("config.terms.total_variation.contrast goes with norm 'l1' or 'l2', not with 'curvilinear'")
    for field in ("min_share", "min_crossed"):
        _check_range(f"terms.boxes.{field}", terms.boxes[field], 0, 1)
    _check_choice("terms.boxes.inside", terms.boxes.inside, ("uncertainty", "foreground", "ignore"))
    _check_choice("terms.boxes.scope", terms.boxes.scope, ("weak_in_box", "all"))
    _check_choice("terms.gated_crf.implementation", terms.gated_crf.implementation, ("xla", "pallas"))
    _check_choice("terms.gated_crf.sources", terms.gated_crf.sources, ("valid", "labelled"))
    pixel = terms.gated_crf.pixel
    if pixel and (len(pixel) != 2 or any(not isinstance(place, int) or place < 0 for place in pixel)):
        raise ValueError(f"config.terms.gated_crf.pixel is {tuple(pixel)!r} but must be (y, x), or () for none")
    for field in ("stride", "radius"):
        _check_range(f"terms.gated_crf.{field}", terms.gated_crf[field], 1, float("inf"))


def _check_fields(config: Mapping[str, Any], default: Mapping[str, Any], prefix: str) -> None:
    for key, value in config.items():
        path = prefix + key
        if key not in default:
            close = difflib.get_close_matches(key, default, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise ValueError(f"config has no field {path!r}{hint} known here: {', '.join(sorted(default))}")
        if path in OPEN_FIELDS:
            if not isinstance(value, Mapping):
                raise ValueError(f"config.{path} must be a dict but is {value!r}")
            continue
        if isinstance(default[key], Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"config.{path} must be a dict with {', '.join(default[key])} but is {value!r}")
            _check_fields(value, default[key], path + ".")
        elif not _same_type(value, default[key]):
            raise ValueError(f"config.{path} is {value!r} but must be of type {type(default[key]).__name__}")
    missing = sorted(default.keys() - config.keys())
    if missing:
        raise ValueError(f"config lacks the field {prefix}{missing[0]}; start from semiseg_jax.default_config()")


def _same_type(value: Any, example: Any) -> bool:
    if isinstance(example, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(example, bool)
    if isinstance(example, float):
        return isinstance(value, int | float)
    if isinstance(example, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, type(example))


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"config.{name} is {value} but must be in [{low}, {high}]")


def _check_pair(name: str, value: Any, least: float) -> None:
    if len(value) != 2 or any(isinstance(side, str | bool) or side < least for side in value):
        raise ValueError(f"config.{name} is {tuple(value)} but must be two numbers of at least {least}")


def _check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise ValueError(f"config.{name} is {value!r}; known: {', '.join(map(str, known))}")
