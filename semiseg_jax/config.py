"""The config of a run: every field with its default, and how it is written and read. Checks are in config_checks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

# Fields that may differ from the run that made a workdir: they change neither the numbers nor the checkpoints' meaning.
# A dataset may be moved: that its images are the same is checked when training goes on.
FREE_FIELDS = ("log", "eval", "checkpoint", "data.threads", "data.data_dir", "data.path", "distributed")
# Dicts whose keys the user invents; assigned as a whole.
OPEN_FIELDS = ("data.quota", "data.assign", "data.simulate", "model")


def default_config() -> ConfigDict:
    """All fields. `configs/*.py` start from this and change what their method needs."""
    return ConfigDict(
        {
            "method": "supervised",
            "seed": 0,
            "steps": 1000,  # optimiser updates
            "batch_size": 0,  # images an update over all devices; 0 = sum of the quota x devices x accumulate
            "accumulate": 1,  # micro-batches an update; gradients are averaged, each micro-batch with its own means
            # Rows without a mask and rows with one pass the network apart, each with batch statistics of their own.
            "separate_passes": False,
            "parallel": "shard_map",  # or "pmap"
            "devices": 0,  # use only the first n devices of a single process; 0 = all
            "dtype": "float32",  # of the computation: float32 or bfloat16; parameters are float32
            "ema": 0.0,  # decay of the averaged parameters that evaluation then uses; 0 = off
            "class_weights": (),  # of every cross-entropy: one a class, or () for none
            # Class weights of 1 / share ** this, where share is that of a class among the labels: 0 = none, 1 = all
            # classes weigh the same.
            "balance_classes": 0.0,
            # What the loss is the sum of, for any method; weight 0 = off. `start` and `ramp` are shares of the steps,
            # or steps where they are above 1; `kinds` limits a term to rows of these kinds, () = all.
            "terms": _terms(),
            "data": {
                "name": "shapes",
                "path": "",  # of a folder dataset
                "data_dir": "",  # where built datasets are kept; "" = TFDS_DATA_DIR or ~/tensorflow_datasets
                "train_split": "train",  # or several: "train+extra"
                "eval_split": "",  # "" = val, validation or test, whichever exists first
                "quota": {"dense": 8},  # rows of each kind in a micro-batch of one device
                "assign": {},  # kind -> share (float), number (int) or split (str) of images; {} = whatever they have
                "simulate": {},  # kind -> options: weak labels to draw from masks, e.g. {"scribble": {}}
                "seed": 0,  # of simulated labels and of `assign`
                "strong_classes": (),  # names; images with any other class but background then serve as tags only
                "made_labels": "",  # folder of label maps ID.png for rows of kind unlabeled, tags and box
                "canvas": (0, 0),  # images are shrunk to fit; (0, 0) = the largest image, at most 512
                "threads": 4,
                "skip_bad": False,  # leave unreadable or inconsistent images out instead of stopping
            },
            "augment": {
                "crop": (96, 96),
                "scale": (0.75, 1.5),
                "scale_draw": "log",  # evenly in the logarithm; or "uniform"; or "window": evenly in what a crop shows
                "flip": 0.5,
                "jitter": 0.8,
                "brightness": 0.25,
                "contrast": 0.25,
                "saturation": 0.25,
                "hue": 0.0,
                "grayscale": 0.0,
                "blur": 0.0,
                "blur_sigma": (0.1, 2.0),
            },
            "model": {"name": "unet", "widths": (24, 48, 96, 128), "norm": "group"},
            "pretrained": {
                "path": "",  # .safetensors, .pth or .npz; see semiseg_jax.models.pretrained
                "new_classifier": False,  # leave the file's classifier out and start with a fresh one
            },
            "optimizer": _optimizer(),
            "adversarial": _adversarial(),  # of the method of this name
            "transfer": _transfer(),  # of the method of this name
            "total_variation": _total_variation(),  # of the method of this name
            "consistency": {  # of mean_teacher and unimatch, for rows without a mask
                "weight": 1.0,
                "start": 0.0,
                "ramp": 0.0,
                "threshold": 0.95,  # of unimatch: probability from which a prediction teaches
                "cutmix": 0.5,  # probability; between neighbours, so it takes two such rows a device
            },
            "eval": {
                "every": 500,  # steps
                "mode": "whole",  # or "slide"
                "batch_size": 16,
                "flip": False,
                "scales": (1.0,),
                "window": (0, 0),  # of slide; (0, 0) = the crop
                "overlap": 0.5,
                "max_images": 0,  # of evaluations in training, evenly over the split; 0 = all
                "boundary": "auto",  # boundary F: in `semiseg evaluate` only; or "always", in training too; or "never"
                "post": {
                    "name": "",  # "mrf" or "mean_field": post-processing of each prediction
                    "beta": 1.0,  # of mrf: what a boundary between two pixels costs
                    "connectivity": 8,  # of mrf: 4 or 8 neighbours
                    "contrast": 0.2,  # of mrf: colour difference (standardised) that makes a boundary cheap; 0 = never
                    "color": 0.0,  # of mrf: weight of the colours that each class has in the image; 0 = off
                    "kernels": ({"weight": 3.0, "xy": 3.0}, {"weight": 5.0, "xy": 6.0, "rgb": 0.2}),  # of mean_field
                    "radius": 5,
                    "iterations": 5,
                },
                "weights": "auto",  # "auto" = what the method says (the average, where there is one), or "raw"
            },
            "checkpoint": {"every": 0, "metric": "miou"},  # steps; 0 = at each evaluation
            "log": {
                "every": 20,
                "tensorboard": True,
                "panel_rows": 6,
                # Images of each kind whose hidden mask each evaluation opens, to score labels that the method made.
                "hidden_masks": 0,
            },
            "distributed": {"enabled": False, "coordinator": "", "processes": 0, "process": -1},
        }
    )


def _terms() -> dict[str, Any]:
    return {
        "cross_entropy": {"weight": 1.0, "average": "pixels", "kinds": ()},  # or each image alike: "images"
        "total_variation": {
            "weight": 0.0,
            "start": 0.05,
            "ramp": 0.1,
            "norm": "l1",  # "l2" or "curvilinear"
            "contrast": 0.0,  # of l1 and l2: colour difference (standardised) that makes a boundary cheap; 0 = never
            "sigma": 1.0,  # of curvilinear: half the width of a line
            "kinds": (),
        },
        "gated_crf": {
            "weight": 0.0,
            "start": 0.1,
            "ramp": 0.0,
            "stride": 4,  # of the grid that it runs on
            "kernels": ({"weight": 1.0, "xy": 6.0, "rgb": 0.1},),
            "radius": 5,
            "implementation": "xla",  # "pallas": a kernel for NVIDIA GPUs, where it runs
            "sources": "valid",  # pixels that pull; "labelled": grid cells that hold a label only
            "pixel": (),  # (y, x) whose kernel panels show; () = the first that has a label
            "kinds": (),
        },
        "boxes": {
            "weight": 0.0,
            "inside": "uncertainty",  # "foreground": boxes as masks; "ignore": learn outside only
            "inside_weight": 0.3,
            "inside_start": 0.1,
            "mean_start": 0.3,  # before, only the variance learns from what is inside
            "scope": "weak_in_box",  # "all": the variance tempers exact masks too
            "bootstrap_start": 0.3,
            "bootstrap_variance": 20.0,  # that of a wrong label; scales the logits by a third
            "min_share": 0.2,  # of a box that its object fills, else the box is not corrected
            "min_crossed": 0.9,  # of a box's rows and of its columns that hold some of the object, likewise
            "regularizer": 0.0,  # of log(1 + v)
        },
        # Takes rows whose labels a program made (data.made_labels) from cross_entropy, and gives them its own weight.
        "made_labels": {"weight": 0.0, "start": 0.0, "ramp": 0.0, "average": "pixels"},
        "absent_tags": {"weight": 0.0, "start": 0.0, "ramp": 0.0, "kinds": ()},
    }


def _adversarial() -> dict[str, Any]:
    return {
        "adversarial_labelled_weight": 0.01,
        "adversarial_labelled_start": 0.0,  # shares of the steps, or steps where above 1
        "adversarial_unlabelled_weight": 0.001,
        "adversarial_unlabelled_start": 0.0,
        "semi_weight": 0.1,
        "semi_start": 0.25,
        "threshold": 0.2,  # confidence above which a pixel's own prediction becomes its label
        "label_smoothing": 0.0,  # of real maps
        "real_rows": 0,  # of the quota's dense rows, those that only show D their labels; 0 = all do
        # True maps show the network's own prediction where they have no label, and predictions nothing in padding: else
        # D tells true maps by their holes, which lie around objects and in padding.
        "fill_void": True,
        "hard_maps": False,  # D sees predictions as one-hot maps too, and cannot tell them by how soft they are
        "features": 64,  # of the discriminator's first layer
        "output_stride": 32,  # of its map of confidences; or 16 or 8, finer
        "sees_image": False,  # it judges whether map and image fit each other, not the map alone
        "class_agnostic": False,  # it sees background against everything else, beside the image
        "optimizer": _optimizer(learning_rate=1e-4, schedule="poly", weight_decay=0.0, clip_norm=0.0),
    }


def _transfer() -> dict[str, Any]:
    return {
        "labels_from": "l_net",  # or "cam": the activation maps alone
        "rounds": 1,  # 2: labels anew from the first P-Net, and once more
        "classifier_backbone": "mobilenet_v2",
        "classifier_weights": "",  # "" = pretrained.path
        "classifier_steps": 0,  # 0 = as many as P-Net
        "classifier_crop": (224, 224),
        "classifier_scale": (0.6, 1.0),
        "l_net_steps": 0,
        "cam_scales": (0.75, 1.0, 1.25),
        "class_seed": 0.4,  # activation above which a pixel is of its class
        "object_seed": 0.5,  # and the object map must be above this
        "background_seed": 0.2,  # both below this: background
        "color_sigma": 0.3,  # of the affinity between neighbours, in standardised colours
        "object_sigma": 0.2,
        "radius": 5,  # of the affinity, in cells of 4 pixels
        "alpha": 0.95,  # how much a cell takes from its neighbours
        "margin": 0.1,  # two classes nearer than this share leave a pixel without label
        "sure": 0.5,  # probability from which the first P-Net labels a pixel for the second
        "pictures": 24,  # images of each stage whose maps are drawn
    }


def _total_variation() -> dict[str, Any]:
    return {
        "rounds": 1,  # more: labels by graph cuts between them, from which the same network goes on
        "round_steps": 0,  # of each later round; 0 = half of the steps
        "cut": {"beta": 30.0, "connectivity": 8, "contrast": 0.2, "color": 0.0},  # as in eval.post
    }


def _optimizer(**changes: Any) -> dict[str, Any]:
    return {
        "name": "adamw",  # or "sgd"
        "learning_rate": 2e-3,
        "schedule": "cosine",  # "poly" or "constant"
        "warmup_steps": 0,
        "power": 0.9,  # of poly
        "momentum": 0.9,  # of sgd
        "betas": (0.9, 0.999),  # of adamw
        "nesterov": False,
        "weight_decay": 1e-4,
        "decay_vectors": False,  # decay biases and norm parameters too
        "clip_norm": 1.0,  # 0 = off
        "multipliers": (),  # (pattern over paths such as "down0/Conv_0/kernel", learning-rate factor), ...
    } | changes


YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class ArgumentProbe(str):
    """The empty argument of a `get_config`; it takes down what `parse_arg` is asked for, so that help can list it."""

    defaults: dict[str, str | int | float | bool | tuple[str, ...]]

    def __new__(cls) -> "ArgumentProbe":
        probe = super().__new__(cls)
        probe.defaults = {}
        return probe


def parse_arg(arg: str, **defaults: str | int | float | bool | tuple[str, ...]) -> ConfigDict:
    """`"dataset=voc,labels=points"` -> values over `defaults`, typed as these. Unknown names fail.

    A tuple lists the words that are possible, the default first.
    """
    if isinstance(arg, ArgumentProbe):
        arg.defaults.update(defaults)
    given: dict[str, str] = {}
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=")
        given[name] = text if "=" in item else "true"
    values: dict[str, Any] = {name: value[0] if isinstance(value, tuple) else value for name, value in defaults.items()}
    for name, text in given.items():
        if name not in defaults:
            raise ValueError(f"config argument {name!r} is unknown; known: {', '.join(defaults)}")
        kind = type(values[name])
        try:
            values[name] = YES_OR_NO[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise ValueError(f"config argument {name}={text!r} must be of type {kind.__name__}") from None
        choices = defaults[name]
        if isinstance(choices, tuple) and text not in choices:
            raise ValueError(f"config argument {name}={text!r} is unknown; known: {', '.join(choices)}")
    return ConfigDict(values)


def to_json(config: ConfigDict) -> str:
    return json.dumps(_plain(config.to_dict()), indent=2, sort_keys=True)


def from_json(text: str) -> ConfigDict:
    """The stored config over today's defaults, so that workdirs survive fields that were added later."""
    config = default_config()
    stored = _tuples(json.loads(text))
    for field in OPEN_FIELDS:
        parent, _, leaf = field.rpartition(".")
        node = field_of(config, parent) if parent else config
        value = _lookup(stored, field.split("."))
        if value is not None:
            node[leaf] = ConfigDict(value)
    for path, value in _leaves(stored):
        if not any(path == field or path.startswith(field + ".") for field in OPEN_FIELDS):
            node = field_of(config, path.rpartition(".")[0]) if "." in path else config
            node[path.rpartition(".")[2]] = value
    return config


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """`field: old -> new` for every field that differs and is not free to."""
    before, after = dict(_leaves(_plain(old.to_dict()))), dict(_leaves(_plain(new.to_dict())))
    changed = [
        path
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path) and not any((path + ".").startswith(f + ".") for f in FREE_FIELDS)
    ]
    return [f"{path}: {before.get(path, 'absent')} -> {after.get(path, 'absent')}" for path in changed]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _tuples(value: Any) -> Any:
    """JSON has no tuples: its lists become tuples again."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def field_of(config: Any, path: str) -> Any:
    """The field that a dotted path such as "optimizer.learning_rate" names."""
    for part in path.split("."):
        config = config[part]
    return config


def _lookup(tree: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree
