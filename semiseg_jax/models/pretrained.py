"""Weights of other libraries, brought in without doubt: every tensor is used exactly once, or named in the error."""

import dataclasses
import functools
import hashlib
import json
import logging
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from semiseg_jax.models.layers import Norm
from semiseg_jax.models.weight_names import DIALECTS, recognize
from semiseg_jax.options import Options, option

logger = logging.getLogger("semiseg_jax")

Tensors = dict[str, np.ndarray]
# Under which files of training scripts keep the weights, and prefixes that their wrappers add to every name.
_WRAPPERS = ("state_dict", "model", "model_state", "model_state_dict", "net")
_PREFIXES = ("module.", "Scale.")
_ABOUT = "__about__"


@dataclasses.dataclass(frozen=True)
class Pretrained(Options):
    """The weights that a network starts from."""

    path: str = option("", "of a .safetensors, .pth or .npz file; empty = from scratch")
    new_classifier: bool = option(False, "leave the file's classifier out and start with a fresh one")


class WeightsError(ValueError):
    """Weights that cannot be read, or that do not fit the network."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A file's tensors under the paths of our networks, e.g. `params/backbone/conv1/kernel`."""

    tensors: Tensors
    dialect: str
    layouts: tuple[str, ...]  # of the backbone that they fit; () = any
    source: str

    @property
    def checksum(self) -> str:
        return checksum(self.tensors)


def load(
    model: nn.Module,
    path: str | Path,
    *,
    new_classifier: bool = False,
    variables: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Variables of `model` with the weights of a file; what was loaded is logged with its checksum.

    Args:
      model: a network of this package that takes images.
      path: .safetensors, .pth (needs torch) or .npz with a ResNet or MobileNetV2 of torchvision or timm, a DeepLab-v2
        of the adversarial method's authors, or what `semiseg convert-weights` wrote.
      new_classifier: leave the file's classifier out where it does not fit, and keep the model's own, freshly
        initialised: for another number of classes, or a backbone without its segmentation head.
      variables: of `model`, where they exist already.
      seed: of the fresh layers, where `variables` is not given.

    Raises:
      WeightsError: with the names of all tensors that are missing, left over or of another shape.
    """
    weights = read(path)
    init = functools.partial(model.init, jax.random.key(seed), jnp.zeros((1, 64, 64, 3), jnp.float32))
    own = _flat(jax.eval_shape(init) if variables is None else variables)
    used, fresh, left_out = _fitted(model, weights, own, new_classifier)
    logger.info(
        "loaded %s numbers in %d tensors from %s (%s, sha256 %s)",
        f"{sum(x.size for x in used.values()):,}", len(used), weights.source, weights.dialect, checksum(used)[:16],
    )  # fmt: skip
    if fresh:
        logger.info("initialised anew: %s", _listed(_modules(fresh)))
        own = _flat(jax.jit(init)()) if variables is None else own
    if left_out:
        logger.info("left out of the file: %s", _listed(_modules(left_out)))
    filled = {name: jnp.asarray(used[name], value.dtype) if name in used else value for name, value in own.items()}
    return flax.traverse_util.unflatten_dict(filled, sep="/")


def check(model: nn.Module, config: Pretrained) -> None:
    """Raises what `load` would, if `config` names a file that it could not load into `model`."""
    if config.path:
        own = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3), jnp.float32))
        _fitted(model, read(config.path), _flat(own), config.new_classifier)


def _fitted(
    model: nn.Module, weights: Weights, own: Mapping[str, Any], new_classifier: bool
) -> tuple[Tensors, set[str], set[str]]:
    """-> (tensors for the network, what stays as it is in the network, what is left out of the file)."""
    _check_layout(model, weights)
    tensors = _match_norms(model, weights, own)
    fits = {name for name in tensors.keys() & own.keys() if tensors[name].shape == own[name].shape}
    missing, unused = own.keys() - fits, tensors.keys() - fits
    unused -= _never_used(model, weights, unused)
    if new_classifier:
        head = _head(own)
        left_out, fresh = {name for name in unused if head(name)}, {name for name in missing if head(name)}
    else:
        left_out, fresh = set(), set()
    _check_fit(weights, tensors, own, missing - fresh, unused - left_out, new_classifier)
    if not fits:
        raise WeightsError(f"{weights.source}: no tensor fits the network")
    return {name: tensors[name] for name in fits}, fresh, left_out


def read(path: str | Path) -> Weights:
    """Reads a file of any supported kind. Raises `WeightsError` with the names of tensors that it does not know."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path}: no such file")
    named = _read_file(path)
    if _ABOUT in named:
        about = json.loads(str(named.pop(_ABOUT)))
        weights = Weights(named, about["dialect"], tuple(about["layouts"]), path.name)
        if weights.checksum != about["sha256"]:
            raise WeightsError(f"{path}: its tensors are not those that were saved; their checksum differs")
        return weights
    for prefix in _PREFIXES:
        if named and all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    dialect = recognize(named)
    if dialect is None:
        known = "; ".join(dialect.name for dialect in DIALECTS)
        raise WeightsError(f"{path}: unknown network with tensors {_listed(named)}; known: {known}")
    tensors: Tensors = {}
    unknown = []
    for name, value in named.items():
        ours = dialect.path(name)
        if ours == "":
            unknown.append(name)
        elif ours is not None:
            tensors[ours] = _channels_last(value) if dialect.channels_first else _depthwise_last(ours, value)
    if unknown:
        raise WeightsError(f"{path} ({dialect.name}): unknown tensors {_listed(unknown)}")
    return Weights(tensors, dialect.name, dialect.layouts, path.name)


def save(path: str | Path, weights: Weights) -> None:
    """Writes weights as .npz under the paths of our networks, which `load` reads without torch or safetensors."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"output {path} must end in .npz")
    if path.exists():
        raise ValueError(f"output {path} exists already")
    about = {"dialect": weights.dialect, "layouts": weights.layouts, "sha256": weights.checksum}
    content: dict[str, Any] = {_ABOUT: np.array(json.dumps(about)), **weights.tensors}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".partial.npz")
    np.savez(partial, **content)
    partial.rename(path)


def of_variables(variables: Mapping[str, Any], *, layout: str = "", source: str = "variables") -> Weights:
    """The weights of a network of ours, e.g. to `save` them."""
    tensors = {name: np.asarray(value) for name, value in _flat(variables).items()}
    return Weights(tensors, "semiseg_jax", (layout,) if layout else (), source)


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name], np.float32)
        digest.update(f"{name}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _read_file(path: Path) -> Tensors:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix in (".pth", ".pt", ".bin"):
            return _read_torch(path)
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} cannot be read as {path.suffix}: {error}") from error
    raise WeightsError(f"{path}: unknown kind of file; known: .safetensors .pth .pt .bin .npz")


def _read_safetensors(path: Path) -> Tensors:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise WeightsError(f"{path} needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"{path} needs the package torch: pip install torch, here or where you run "
            f"`semiseg convert-weights {path.name} {path.stem}.npz`"
        ) from None
    content = torch.load(path, map_location="cpu", weights_only=True)
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError("it holds no dict of tensors")
    return {name: value.float().numpy() for name, value in content.items()}


def _channels_last(value: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO, [out,in] -> [in,out]; a depthwise kernel [C,1,k,k] becomes [k,k,1,C] likewise."""
    value = np.asarray(value, np.float32)
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def _depthwise_last(path: str, value: np.ndarray) -> np.ndarray:
    """TensorFlow keeps depthwise kernels as [k,k,C,1]."""
    depthwise = path.endswith("/depthwise/kernel") and value.ndim == 4 and value.shape[3] == 1
    return np.asarray(value.transpose(0, 1, 3, 2) if depthwise else value, np.float32)


def _check_layout(model: nn.Module, weights: Weights) -> None:
    layout = getattr(model, "layout", None)
    if layout is not None and weights.layouts and layout not in weights.layouts:
        wanted = " or ".join(weights.layouts)
        raise WeightsError(
            f"{weights.source} ({weights.dialect}) is for layout {wanted}, but the network has layout {layout!r}: "
            f"set layout={weights.layouts[0]} among the config's arguments, or model.layout"
        )


def _match_norms(model: nn.Module, weights: Weights, own: Mapping[str, Any]) -> Tensors:
    """Norms are folded into convolutions where the network has none, and written as frozen norms where it has those."""
    tensors = dict(weights.tensors)
    kind = getattr(model, "norm", None)
    dense = "params/classifier/kernel"
    if dense in tensors and dense in own and tensors[dense].shape[-2:] == own[dense].shape[-2:]:
        tensors[dense] = tensors[dense].reshape(own[dense].shape)  # a 1x1 convolution is a dense layer
    for kernel in [name for name in tensors if name.startswith("params/backbone/") and name.endswith("/kernel")]:
        conv = kernel.removesuffix("/kernel")
        norm = _norm_of(conv)
        stats = norm.replace("params/", "batch_stats/", 1)
        parts = (f"{norm}/scale", f"{norm}/bias", f"{stats}/mean", f"{stats}/var")
        bias = f"{conv}/bias"
        if bias in own and all(part in tensors for part in parts):
            scale, offset, mean, var = (tensors.pop(part) for part in parts)
            factor = scale / np.sqrt(var + Norm.epsilon)
            tensors[kernel] = tensors[kernel] * factor
            tensors[bias] = offset - mean * factor
        elif bias in tensors and parts[0] in own:
            if kind != "frozen":
                raise WeightsError(
                    f"{weights.source}: its norms are folded into the convolutions, which suits model.norm=none or "
                    f"frozen, not {kind}"
                )
            ones = np.ones_like(tensors[bias])
            tensors |= dict(zip(parts, (ones, tensors.pop(bias), 0 * ones, ones - Norm.epsilon), strict=True))
        elif parts[2] in tensors and parts[0] in own and parts[2] not in own:
            raise WeightsError(f"{weights.source} holds batch norms, but the network has model.norm={kind}")
    return tensors


def _norm_of(conv: str) -> str:
    parent, _, name = conv.rpartition("/")
    return f"{parent}/{name.replace('conv', 'norm')}" if name.startswith("conv") else f"{conv}_norm"


def _never_used(model: nn.Module, weights: Weights, unused: Iterable[str]) -> set[str]:
    """Branches that files of the published DeepLab-v2 hold, though its code never ran them."""
    if getattr(model, "aspp_branches", None) != 2:
        return set()
    found = {name for name in unused if name.startswith(("params/aspp_2/", "params/aspp_3/"))}
    if found:
        logger.info("%s: the network it comes from never ran %s", weights.source, _listed(found))
    return found


def _head(own: Iterable[str]) -> Any:
    """Which tensors belong to the classifier: all outside a backbone, and the backbone's layer that serves it alone."""
    own = set(own)
    if not any(name.startswith("params/backbone/") for name in own):
        return lambda name: name.split("/")[1] in ("classifier", "variance")
    serving = () if any("/backbone/head/" in name for name in own) else ("head", "head_norm")
    return lambda name: name.split("/")[1] != "backbone" or name.split("/")[2] in serving


def _check_fit(
    weights: Weights,
    tensors: Tensors,
    own: Mapping[str, Any],
    missing: set[str],
    unused: set[str],
    new_classifier: bool,
) -> None:
    reshaped = missing & unused
    problems = []
    if reshaped:
        shapes = (f"{name} is {tensors[name].shape} but must be {own[name].shape}" for name in sorted(reshaped))
        problems.append("shapes differ: " + _listed(shapes))
    if missing - reshaped:
        problems.append("not in the file: " + _listed(missing - reshaped))
    if unused - reshaped:
        problems.append("in the file but not in the network: " + _listed(unused - reshaped))
    if not problems:
        return
    head = _head(own)
    if not new_classifier and all(map(head, missing | unused)):
        problems.append("new_classifier=True leaves the file's classifier out and starts with a fresh one")
    raise WeightsError(f"{weights.source} ({weights.dialect}) does not fit the network:\n  " + "\n  ".join(problems))


def _flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(dict(variables), sep="/")


def _modules(names: Iterable[str]) -> set[str]:
    return {"/".join(name.split("/")[1:-1]) for name in names}


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
