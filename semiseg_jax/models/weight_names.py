"""What other libraries call the tensors of our networks.

A dialect recognises the names of a file and gives each tensor its path in our networks: `params/backbone/...` and
`batch_stats/backbone/...` for backbones, `params/classifier/...` for the layer that names ImageNet classes.
"""

import dataclasses
import re
from collections.abc import Callable, Collection

from semiseg_jax.models.mobilenet import GROUPS

# Suffix of a tensor -> collection and name of ours, where the module is a norm or not.
_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}
_OTHER = {"weight": ("params", "kernel"), "bias": ("params", "bias")}


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One way to name tensors.

    Attributes:
      name: for messages.
      layouts: layouts of the backbone that the weights fit.
      path: name -> our path, None for bookkeeping that networks do not use, "" for an unknown name.
      channels_first: kernels are OIHW.
    """

    name: str
    layouts: tuple[str, ...]
    path: Callable[[str], str | None]
    channels_first: bool = True


def recognize(names: Collection[str]) -> Dialect | None:
    """The dialect that knows most of the names, if it knows half of them."""
    known = {dialect.name: sum(dialect.path(name) != "" for name in names) for dialect in DIALECTS}
    best = max(DIALECTS, key=lambda dialect: known[dialect.name])
    return best if 2 * known[best.name] > len(names) else None


def _translated(rules: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """`rules` maps a torch module to ours."""

    def path(name: str) -> str | None:
        module, _, suffix = name.rpartition(".")
        if suffix == "num_batches_tracked":
            return None
        ours = rules(module)
        if ours is None:
            return ""
        kinds = _NORM if re.search(r"norm\d?$", ours) else _OTHER
        if suffix not in kinds:
            return ""
        collection, leaf = kinds[suffix]
        return f"{collection}/{ours}/{leaf}"

    return path


def _resnet(module: str) -> str | None:
    if match := re.fullmatch(r"(conv1|bn1)", module):
        return "backbone/" + match[1].replace("bn", "norm")
    if match := re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn)([123])", module):
        kind = match[3].replace("bn", "norm")
        return f"backbone/layer{match[1]}_{match[2]}/{kind}{match[4]}"
    if match := re.fullmatch(r"layer([1-4])\.(\d+)\.downsample\.([01])", module):
        return f"backbone/layer{match[1]}_{match[2]}/{('shortcut', 'shortcut_norm')[int(match[3])]}"
    return "classifier" if module == "fc" else None


def _deeplab_v2(module: str) -> str | None:
    if match := re.fullmatch(r"layer5\.conv2d_list\.([0-3])", module):
        return f"aspp_{match[1]}"
    return None if module == "fc" else _resnet(module)


def _mobilenet_torchvision(module: str) -> str | None:
    if module == "classifier.1":
        return "classifier"
    if match := re.fullmatch(r"features\.(0|18)\.([01])", module):
        return f"backbone/{'stem' if match[1] == '0' else 'head'}{('', '_norm')[int(match[2])]}"
    if match := re.fullmatch(r"features\.(\d+)\.conv\.(\d)(?:\.([01]))?", module):
        block, part, inner = int(match[1]), int(match[2]), match[3]
        units = ("depthwise", "project") if block == 1 else ("expand", "depthwise", "project")
        last = len(units) - 1
        if not 1 <= block <= 17 or part > last + 1 or (inner is None) != (part >= last):
            return None
        unit, norm = (units[part], inner == "1") if inner is not None else (units[last], part == last + 1)
        return f"backbone/block_{block:02d}/{unit}{'_norm' if norm else ''}"
    return None


def _mobilenet_timm(module: str) -> str | None:
    whole = {"conv_stem": "stem", "bn1": "stem_norm", "conv_head": "head", "bn2": "head_norm"}
    if module in whole:
        return f"backbone/{whole[module]}"
    if module == "classifier":
        return "classifier"
    if match := re.fullmatch(r"blocks\.(\d)\.(\d)\.(conv_pw|conv_dw|conv_pwl|bn1|bn2|bn3)", module):
        group, index, part = int(match[1]), int(match[2]), match[3]
        if group >= len(GROUPS) or index >= GROUPS[group][2]:
            return None
        block = 1 + sum(count for _, _, count, _ in GROUPS[:group]) + index
        if group == 0:
            units = {"conv_dw": "depthwise", "bn1": "depthwise_norm", "conv_pw": "project", "bn2": "project_norm"}
        else:
            units = {"conv_pw": "expand", "bn1": "expand_norm", "conv_dw": "depthwise", "bn2": "depthwise_norm"}
            units |= {"conv_pwl": "project", "bn3": "project_norm"}
        return f"backbone/block_{block:02d}/{units[part]}" if part in units else None
    return None


def _mobilenet_folded(name: str) -> str | None:
    if re.fullmatch(r"(stem|head|block_\d\d/(expand|depthwise|project))/(kernel|bias)", name):
        return f"params/backbone/{name}"
    return f"params/{name}" if re.fullmatch(r"classifier/(kernel|bias)", name) else ""


# Where two know equally many names, the first is meant.
DIALECTS = (
    Dialect("ResNet of torchvision or timm", ("torchvision",), _translated(_resnet)),
    Dialect("DeepLab-v2 in PyTorch", ("caffe",), _translated(_deeplab_v2)),
    Dialect("MobileNetV2 of torchvision", ("torchvision",), _translated(_mobilenet_torchvision)),
    Dialect("MobileNetV2 of timm", ("torchvision",), _translated(_mobilenet_timm)),
    Dialect("folded MobileNetV2", ("tensorflow",), _mobilenet_folded, channels_first=False),
)
