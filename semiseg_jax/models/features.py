"""Features of a network by name, for methods that look inside; the networks know nothing of it.

A name is the path of a module, such as `down3`, `decoder_1` or `backbone/layer4_0`, or one of the stages that a module
gives: `backbone/layer4`. `semiseg summary --features` lists them.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from semiseg_jax.models.segmenter import Outputs, Perturb


def outputs_of(
    model: nn.Module,
    variables: Mapping[str, Any],
    image: jax.Array,
    *,
    train: bool,
    features: Sequence[str] = (),
    perturb: Perturb | None = None,
) -> tuple[Outputs, Any]:
    """-> (`model.outputs`, its new batch statistics). Named features [B,h,w,C] stand under `features`, by name."""
    options: dict[str, Any] = {"mutable": ["batch_stats"]}
    if features:
        options["mutable"] = ["batch_stats", "intermediates"]
        options["capture_intermediates"] = lambda module, method: (
            method == "__call__" and _leads_to(module.path, features)
        )
    result: Any = model.apply(variables, image, train=train, perturb=perturb, method="outputs", **options)
    outputs, updated = result
    if features:
        found = dict(_by_name(updated.get("intermediates", {})))
        for name in features:
            if name not in found:
                raise ValueError(_unknown(name, model))
        outputs = {**outputs, "features": {name: found[name] for name in features}}
    return outputs, updated.get("batch_stats", {})


def feature_shapes(model: nn.Module, image: Sequence[int] = (1, 64, 64, 3)) -> dict[str, tuple[int, ...]]:
    """The shapes of all features that a method can ask for, by name, for images of this shape.

    >>> from semiseg_jax.models import UNet
    >>> feature_shapes(UNet(num_classes=2))["down3"]
    (1, 4, 4, 128)
    """

    def everything(image: jax.Array) -> Any:
        variables = model.init(jax.random.key(0), image)
        result: Any = model.apply(
            variables, image, method="outputs", capture_intermediates=True, mutable=["intermediates"]
        )
        return result[1]["intermediates"]

    found = _by_name(jax.eval_shape(everything, jax.ShapeDtypeStruct(tuple(image), jnp.float32)))
    return {name: tuple(feature.shape) for name, feature in found}


def _leads_to(path: tuple[str, ...], features: Sequence[str]) -> bool:
    """Whether the module at `path` gives one of the features."""
    return any(f"{name}/".startswith(f"{'/'.join(path)}/") for name in features)


def _by_name(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """What flax captured: the maps [B,h,w,C] by the path of their module, and by stage where it gives several."""
    for key, value in tree.items():
        if key == "__call__":
            stages = {f"{path}/{stage}": x for stage, x in value[-1].items()} if isinstance(value[-1], dict) else {}
            for name, feature in (stages or {path: value[-1]}).items():
                if len(getattr(feature, "shape", ())) == 4:
                    yield name, feature
        elif isinstance(value, Mapping):
            yield from _by_name(value, f"{path}/{key}" if path else key)


def _unknown(name: str, model: nn.Module) -> str:
    known = feature_shapes(model)
    near = difflib.get_close_matches(name, known, n=3)
    shallow = [each for each in known if each.count("/") < 2 and not each.endswith("_norm")]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"{type(model).__name__} has no features {name!r}.{hint} Some that it has: {', '.join(shallow[:20])}; "
        "`semiseg summary --features` lists all"
    )
