"""Settings that several configs share: the small-data setting, and networks and optimisers of the papers."""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config, parse_arg

# Arguments of every config in the small-data setting, with their defaults.
SMALL: dict[str, str | int | float | bool] = {
    "path": "",  # of a dataset folder
    "dataset": "",  # or a dataset's name; "" = shapes
    "crop": 160,
    "batch": 8,
    "steps": 2000,
    "weights": "",  # a MobileNetV2 trained on ImageNet, from which a light DeepLab starts; "" = a U-Net from scratch
    "layout": "tensorflow",  # of these weights, or torchvision
}


FIXED = ("crop", "batch", "steps", "layout")  # by any other setting


def parse(arg: str, **more: str | int | float | bool | tuple[str, ...]) -> ConfigDict:
    """The arguments of a config: `more`, and those of the small-data setting."""
    given = parse_arg(arg, **more, **SMALL)
    asked = [name for name in FIXED if name in (item.partition("=")[0] for item in arg.split(","))]
    setting = given.get("setting", "small")
    if asked and setting != "small":
        raise ValueError(
            f"config argument {asked[0]!r} is fixed by setting={setting}; leave it out, or change the field after it "
            "(such as --config.steps=1000)"
        )
    return given


def small(given: ConfigDict) -> ConfigDict:
    """A config that works on two cores: a U-Net from scratch, or a light DeepLab from ImageNet weights."""
    config = default_config()
    config.steps = given.steps
    use_data(config, given)
    config.augment.crop = (given.crop, given.crop)
    config.augment.scale = (0.5, 2.0)
    config.model.norm = "batch"
    config.ema = 0.99
    if given.weights:
        fine_tune(config, given.weights, given.layout)
    return config


def use_data(config: ConfigDict, given: ConfigDict) -> None:
    config.data.name = given.dataset or ("folder" if given.path else "shapes")
    config.data.path = given.path


def fine_tune(config: ConfigDict, weights: str, layout: str) -> None:
    """A DeepLab-v3+ with a light decoder on MobileNetV2, whose weights learn slower than its new head."""
    config.model = ConfigDict(
        {"name": "deeplab_mobile", "layout": layout, "norm": "none" if layout == "tensorflow" else "batch"}
    )
    config.pretrained.path = weights
    config.pretrained.new_classifier = True
    config.optimizer.learning_rate = 1e-3
    config.optimizer.multipliers = (("backbone", 0.1),)
    config.optimizer.warmup_steps = 100
    config.augment.scale = (0.5, 1.5)
    config.augment.jitter = 0.5
    config.ema = 0.995


def simulate(config: ConfigDict, kind: str, **options: float) -> None:
    """Draws labels of this kind from the masks of a folder."""
    if config.data.name == "folder":
        config.data.simulate = {**config.data.simulate.to_dict(), kind: options}


def sgd(config: ConfigDict, learning_rate: float, weight_decay: float, *, nesterov: bool = False) -> None:
    """Stochastic gradient descent as in the papers: momentum 0.9, poly 0.9, decay of all parameters, no clipping."""
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule = "poly"
    config.optimizer.weight_decay = weight_decay
    config.optimizer.decay_vectors = True
    config.optimizer.nesterov = nesterov
    config.optimizer.clip_norm = 0.0
    config.optimizer.warmup_steps = 0
    config.optimizer.multipliers = ()


def crops_and_flips(config: ConfigDict, crop: tuple[int, int], scale: tuple[float, float]) -> None:
    """The augmentation of the papers: no change of colour."""
    config.augment.crop = crop
    config.augment.scale = scale
    config.augment.scale_draw = "uniform"
    config.augment.jitter = 0.0
    config.ema = 0.0


def deeplab_v3plus(config: ConfigDict, backbone: str, weights: str) -> None:
    """DeepLab-v3+ from ImageNet weights, at output stride 16."""
    config.model = ConfigDict({"name": "deeplab_v3plus", "backbone": backbone})
    config.pretrained.path = weights
    config.pretrained.new_classifier = bool(weights)


def deeplab_v2(config: ConfigDict, weights: str) -> None:
    """DeepLab-v2 on ResNet-101 at output stride 8, whose norms are frozen: only kernels decay."""
    config.model = ConfigDict({"name": "deeplab_v2", "layout": "caffe", "norm": "affine_frozen"})
    config.optimizer.decay_vectors = False
    config.pretrained.path = weights
    config.pretrained.new_classifier = bool(weights)


def shared_by(labels: str, batch: int) -> dict[str, int]:
    """Rows of a batch for each of the kinds "dense+scribble", as even as can be."""
    kinds = labels.split("+")
    if "" in kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"config argument labels={labels!r} must be different kinds joined by +, as dense+scribble")
    if batch < len(kinds):
        raise ValueError(f"config argument batch={batch} leaves no row for some of labels={labels}")
    return {kind: batch // len(kinds) + (place < batch % len(kinds)) for place, kind in enumerate(kinds)}


def half_masks(config: ConfigDict, batch: int, others: str) -> None:
    """Half of a batch brings masks, the other half is of another kind."""
    if batch < 2:
        raise ValueError(f"config argument batch={batch} leaves no row for masks; of 2 rows, one would be {others}")
    config.data.quota = {"dense": batch // 2, others: batch - batch // 2}


def some_masks(config: ConfigDict, labelled: str, others: str, share: str) -> None:
    """Gives a share ("0.125"), a number ("50") or a split of the images their masks, and the rest to another kind.

    "all", the default for a folder, are the masks that there are; other datasets have them all and give `share`.
    """
    labelled = labelled or ("all" if config.data.name == "folder" else share)
    if labelled == "all":
        return
    try:
        amount: float | int | str = int(labelled) if labelled.isdigit() else float(labelled)
    except ValueError:
        amount = labelled
    rest = 1.0 - amount if isinstance(amount, float) else 1.0
    config.data.assign = {"dense": amount, others: rest}
