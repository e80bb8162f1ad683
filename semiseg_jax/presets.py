"""Settings that several configs share: the small-data setting, and networks and optimisers of the papers.

Each is a function that gives fields, path -> value, and changes nothing. `changed` puts them into a config and refuses
two that disagree, so that the order in which they are named is no matter.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config_arguments import ArgumentProbe, parse_arg, set_fields

Fields = dict[str, Any]

# Arguments of every config in the small-data setting, with their defaults.
SMALL: dict[str, str | int | float | bool] = {
    "path": "",  # of a dataset folder
    "dataset": "",  # or a dataset's name; "" = shapes
    "crop": 160,
    "batch": 8,
    "steps": 2000,
    "weights": "",  # a MobileNetV2 trained on ImageNet, from which a light DeepLab starts; none = a U-Net from scratch
    "layout": "tensorflow",  # of these weights, or torchvision
}
FIXED = ("crop", "batch", "steps", "layout")  # by any other setting


def parse(arg: str, *, from_scratch: bool = False, **more: str | int | float | bool | tuple[str, ...]) -> ConfigDict:
    """The arguments of a config: `more`, and those of the small-data setting.

    Other settings start from pretrained weights, which have to be named, unless they are trained `from_scratch`.
    """
    given = parse_arg(arg, **more, **SMALL)
    asked = [name for name in FIXED if name in (item.partition("=")[0] for item in arg.split(","))]
    setting = given.get("setting", "small")
    if asked and setting != "small":
        raise ValueError(
            f"config argument {asked[0]!r} is fixed by setting={setting}; leave it out, or change the field after it "
            "(such as --config.steps=1000)"
        )
    if setting != "small" and not given.weights and not from_scratch and not isinstance(arg, ArgumentProbe):
        raise ValueError(
            f"setting={setting} starts from pretrained weights: give weights=FILE, or weights=none for a network that "
            "trains from scratch"
        )
    if given.weights == "none":
        given.weights = ""
    return given


def changed(config: ConfigDict, *settings: Mapping[str, Any]) -> ConfigDict:
    """The config with the fields of all settings."""
    values: Fields = {}
    for setting in settings:
        for path, value in setting.items():
            if values.setdefault(path, value) != value:
                raise ValueError(f"two settings disagree on {path}: {values[path]!r} and {value!r}")
    set_fields(config, values)
    return config


def data(given: ConfigDict) -> Fields:
    """The dataset that the arguments name."""
    return {"data.name": given.dataset or ("folder" if given.path else "shapes"), "data.path": given.path}


def published_images(given: ConfigDict) -> Fields:
    """Those of a paper's protocol, as they are: of Pascal VOC the 10,582 with masks of SBD."""
    splits = {
        "voc": {"data.train_split": "train_aug", "data.eval_split": "val"},
        "voc+coco": {"data.train_split": "voc:train_aug+coco:train", "data.eval_split": "voc:val"},
    }
    return {"data.max_side": 0, **splits.get(given.dataset, {})}


def small(given: ConfigDict) -> Fields:
    """What works on two cores: a U-Net from scratch, or a light DeepLab from ImageNet weights."""
    common = {"steps": given.steps, "augment.crop": (given.crop, given.crop)}
    if given.weights:
        return common | fine_tuned(given.weights, given.layout)
    return common | {"model.norm": "batch", "augment.scale": (0.5, 2.0), "ema": 0.99}


def fine_tuned(weights: str, layout: str) -> Fields:
    """A DeepLab-v3+ with a light decoder on MobileNetV2, whose weights learn slower than its new head."""
    norm = "none" if layout == "tensorflow" else "batch"
    return {
        "model": {"name": "deeplab_mobile", "layout": layout, "norm": norm},
        **pretrained(weights),
        "optimizer.learning_rate": 1e-3,
        "optimizer.multipliers": (("backbone", 0.1),),
        "optimizer.warmup_steps": 100,
        "augment.scale": (0.5, 1.5),
        "augment.jitter": 0.5,
        "ema": 0.995,
    }


def pretrained(weights: str) -> Fields:
    """Weights from a file, but for the classifier."""
    return {"pretrained.path": weights, "pretrained.new_classifier": bool(weights)}


def simulated(given: ConfigDict, kind: str, **options: float) -> Fields:
    """Images without labels of this kind get some that are drawn from their masks; those of shapes have all kinds."""
    return {"data.simulate": {kind: options}} if data(given)["data.name"] != "shapes" else {}


def sgd(learning_rate: float, weight_decay: float, *, nesterov: bool = False, decay_vectors: bool = True) -> Fields:
    """Stochastic gradient descent as in the papers: momentum 0.9, poly 0.9, no clipping, decay of all parameters."""
    return {
        "optimizer.name": "sgd",
        "optimizer.learning_rate": learning_rate,
        "optimizer.schedule": "poly",
        "optimizer.weight_decay": weight_decay,
        "optimizer.decay_vectors": decay_vectors,
        "optimizer.nesterov": nesterov,
        "optimizer.clip_norm": 0.0,
    }


def crops(side: int, scale: tuple[float, float]) -> Fields:
    """The augmentation of the papers: crops of the scaled image and flips, no change of colour."""
    return {
        "augment.crop": (side, side),
        "augment.scale": scale,
        "augment.scale_draw": "uniform",
        "augment.jitter": 0.0,
    }


def deeplab_v3plus(backbone: str, weights: str) -> Fields:
    """DeepLab-v3+ from ImageNet weights, at output stride 16."""
    return {"model": {"name": "deeplab_v3plus", "backbone": backbone}, **pretrained(weights)}


def deeplab_v2(weights: str) -> Fields:
    """DeepLab-v2 on ResNet-101 at output stride 8, whose norms are frozen: let only kernels decay."""
    return {"model": {"name": "deeplab_v2", "layout": "caffe", "norm": "affine_frozen"}, **pretrained(weights)}


def shared_by(labels: str, batch: int) -> dict[str, int]:
    """Rows of a batch for each of the kinds "dense+scribble", as even as can be."""
    kinds = labels.split("+")
    if "" in kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"config argument labels={labels!r} must be different kinds joined by +, as dense+scribble")
    if batch < len(kinds):
        raise ValueError(f"config argument batch={batch} leaves no row for some of labels={labels}")
    return {kind: batch // len(kinds) + (place < batch % len(kinds)) for place, kind in enumerate(kinds)}


def half_masks(batch: int, others: str) -> Fields:
    """Half of a batch brings masks, the other half is of another kind."""
    if batch < 2:
        raise ValueError(f"config argument batch={batch} leaves no row for masks; of 2 rows, one would be {others}")
    return {"data.quota": {"dense": batch // 2, others: batch - batch // 2}}


def some_masks(given: ConfigDict, labelled: str, others: str, share: str) -> Fields:
    """A share ("0.125"), a number ("50"), a split or published list of images brings masks, others are of another kind.

    "all", the default for a folder and beside plain images, are the masks that there are; other datasets have them
    all and give `share`.
    """
    own_choice = {"folder", "images"} & set(data(given)["data.name"].split("+"))
    labelled = labelled or ("all" if own_choice else share)
    if labelled == "all":
        return {}
    try:
        amount: float | int | str = int(labelled) if labelled.isdigit() else float(labelled)
    except ValueError:
        amount = labelled
    rest = 1.0 - amount if isinstance(amount, float) else 1.0
    return {"data.assign": {"dense": amount, others: rest}}
