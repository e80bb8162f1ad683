"""`semiseg <command>`: parses flags and calls the verb of that name."""

import difflib
import logging as std_logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from absl import flags, logging
from ml_collections import ConfigDict

import semiseg_jax
from semiseg_jax.flags import Flags, UsageError, take, wants_help

_USAGE = """semiseg: semantic segmentation from whatever labels you can afford

  semiseg train     trains what a config describes, or goes on where it stopped
  semiseg evaluate  metrics of a trained model, at the original resolution
  semiseg predict   label maps, colour pictures and overlays for files, folders and globs
  semiseg import-labels     a dataset folder from the files of an annotation tool
  semiseg prepare   checks a folder of images and labels and builds the dataset
  semiseg inspect   draws one training batch after augmentation
  semiseg summary   parameters, multiply-adds and memory of a config's network, before it is trained
  semiseg config    what a run of a config will do: method, stages, networks, terms, batch
  semiseg list configs      what ships with the package; or fields, methods, terms, models, datasets, splits
  semiseg convert-weights   weights of PyTorch models, or of a run, as a file that needs neither

`semiseg <command> --help` explains a command, with --config=NAME a config too; `semiseg --version`. A first run:

  semiseg train --config=quickstart --workdir=runs/quickstart
"""

_HELP = {
    "train": """Trains what a config describes; the same command goes on where the workdir's last checkpoint stands.

  semiseg train --config=supervised:path=DIR --config.steps=2000 --workdir=runs/mine

Any field of the config can be overridden. Dicts such as the quota are replaced as a whole:
  --config.data.quota='{"dense": 2, "scribble": 6}'""",
    "evaluate": """Metrics of a trained model at the original resolution of every image, as a table and as JSON.

  semiseg evaluate --workdir=runs/mine
  semiseg evaluate --workdir=runs/mine --split=test --config.eval.flip=True --config.eval.scales='(0.75,1.0,1.25)'
  semiseg evaluate --workdir=runs/mine --config.eval.mode=slide --config.eval.window='(256,256)'
  semiseg evaluate --workdir=runs/mine --post=mrf --config.eval.post.beta=2""",
    "predict": """Writes a label map, a colour picture and an overlay for every image, and predictions.json.

  semiseg predict --workdir=runs/mine photos/ 'more/*.jpg' one.png --output=predictions
  semiseg predict --workdir=runs/mine photos/ --write=index,probabilities

Without any file, the evaluation split of the training data is predicted.""",
    "prepare": """Checks a dataset folder, reports every problem, and builds the records that training reads.

  semiseg prepare DIR
  semiseg prepare --config=supervised:path=DIR,labels=scribble
  semiseg prepare DIR --clean

With --clean, what earlier states of the folder left behind is removed.""",
    "import-labels": """Writes a dataset folder from images and the files of an annotation tool, and says what it holds.

  semiseg import-labels csv tags.csv DIR --images=photos
  semiseg import-labels masks labels DIR --images=photos --colors=label_colors.txt --names='*_mask'

Formats: coco (instances or keypoints, a .json), csv (tags), labelme (a folder of .json), masks (a folder of class
indices, or of colours with --colors), voc (a folder of .xml with boxes). Images below --images are copied, or linked
with --link; folders become part of the ids.""",
    "inspect": """Draws one training batch after augmentation: image, labels, boxes, valid pixels, kind and tags.

  semiseg inspect --config=quickstart --output=batch.png""",
    "summary": """Parameters, multiply-adds, sizes and memory of a config's network, stage by stage.

  semiseg summary --config=supervised:path=DIR
  semiseg summary --config=supervised --config.model='{"name": "deeplab_v2"}' --classes=21""",
    "list": """Lists what there is, a line each: configs that ship with the package, all fields of a config with their
defaults and meanings, and methods, terms, models and datasets, those of installed packages included; and published
splits: which images papers take as labelled, and which classes as those that have masks.

  semiseg list configs
  semiseg list fields
  semiseg list methods""",
    "config": """What a run of a config will do: method, stages, networks, terms, schedule, batch on the devices at
hand, and the fields that differ from the defaults. --all prints every field as JSON.

  semiseg config --config=adversarial:path=DIR,labelled=50
  semiseg config --config=quickstart --config.method=supervised --all""",
    "convert-weights": """Writes pretrained weights as .npz under this package's names, for --config.pretrained.path.

  semiseg convert-weights resnet50.safetensors resnet50.npz
  semiseg convert-weights deeplab_v2.pth deeplab_v2.npz        # needs torch, once
  semiseg convert-weights runs/mine mine.npz                   # the best checkpoint of a run""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command -> exit code; errors of the user's making are one message, not a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(
            f"semiseg_jax {semiseg_jax.__version__}, jax {metadata.version('jax')}, Python {platform.python_version()}"
        )
        return 0
    command, rest = args[0], args[1:]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"semiseg: unknown command {command!r}{hint}\n\n{_USAGE}", file=sys.stderr)
        return 2
    _set_up_logging()
    _see_current_folder()
    try:
        return _COMMANDS[command](command, rest)
    except KeyboardInterrupt:
        print(f"\nsemiseg {command}: interrupted; what was saved stays", file=sys.stderr)
        return 130
    except (ValueError, OSError, flags.Error) as error:
        if os.environ.get("SEMISEG_TRACEBACK"):
            raise
        print(f"semiseg {command}: {error}", file=sys.stderr)
        return 1
    except (TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        if os.environ.get("SEMISEG_TRACEBACK"):
            raise
        print(f"semiseg {command}: {error}\n(SEMISEG_TRACEBACK=1 shows where this came from)", file=sys.stderr)
        return 1


def _see_current_folder() -> None:
    """Modules in the current folder can be named in a config; they come last, so that they hide no package."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _set_up_logging() -> None:
    """Our own messages as plain lines; of the libraries only errors."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logger = std_logging.getLogger("semiseg_jax")
    if not logger.handlers:
        logger.addHandler(std_logging.StreamHandler())
        logger.setLevel(std_logging.INFO)
        logger.propagate = False


def _train(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.string("workdir", "", "folder of the run: checkpoints, metrics, pictures")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    _no_positional(positional)
    config, workdir = parsed.config(), parsed.required("workdir")
    from semiseg_jax.verbs.train import train

    stopped_by = train(config, workdir).signal
    return 128 + stopped_by if stopped_by else 0


def _evaluate(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.string("split", "", "split to evaluate; empty = val, validation or test, whichever exists first")
    parsed.string("output", "", "JSON file; empty = evaluation_SPLIT.json in the workdir")
    positional = _with_workdir(parsed, args)
    if positional is None:
        return 0
    _no_positional(positional)
    values = parsed.values
    from semiseg_jax.verbs.evaluate import evaluate

    evaluate(
        values.workdir,
        checkpoint=values.checkpoint,
        split=values.split,
        config=_with_post(values),
        output=values.output,
    )
    return 0


def _predict(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.string("output", "", "folder to write into; empty = predictions in the workdir")
    parsed.integer("limit", 0, "at most this many images; 0 = all")
    parsed.string("write", "index,color,overlay", "what to write of each image; also probabilities, as float16 .npy")
    positional = _with_workdir(parsed, args)
    if positional is None:
        return 0
    values = parsed.values
    from semiseg_jax.verbs.predict import predict

    summary = predict(
        values.workdir,
        positional,
        output=values.output,
        checkpoint=values.checkpoint,
        config=_with_post(values),
        limit=values.limit,
        write=values.write,
    )
    return 0 if summary["images"] or not summary["failed"] else 1


def _prepare(command: str, args: list[str]) -> int:
    from semiseg_jax.config import default_config

    parsed = Flags(command, _HELP[command])
    parsed.boolean("clean", False, "also remove what was built of earlier states of the same source")
    has_file = bool(take(args, "config")[0])
    if has_file or wants_help(args):
        positional = parsed.parse_with_config(args)
    else:
        parsed.config_dict(default_config(), args)
        positional = parsed.parse(args)
    if positional is None:
        return 0
    if len(positional) > 1:
        raise UsageError(f"one folder, please, not {positional}")
    config = parsed.config()
    if positional:
        config.data.name, config.data.path = "folder", positional[0]
    elif not has_file:
        raise UsageError(f"a folder or --config is missing:\n\n{_HELP[command]}")
    from semiseg_jax.verbs.prepare import prepare

    prepare(config, check_quota=has_file, clean=parsed.values.clean)
    return 0


def _inspect(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.string("output", "batch.png", "the picture to write")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    _no_positional(positional)
    config = parsed.config()
    from semiseg_jax.verbs.inspect import inspect

    inspect(config, parsed.values.output)
    return 0


def _summary(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.integer("classes", 0, "number of classes; 0 = those of the dataset")
    parsed.boolean("features", False, "list the features that a method can ask for, by name")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    _no_positional(positional)
    config = parsed.config()
    from semiseg_jax.verbs.summary import summary

    summary(config, classes=parsed.values.classes, features=parsed.values.features)
    return 0


def _config(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.boolean("all", False, "print every field as JSON")
    parsed.integer("classes", 0, "number of classes; 0 = those of the dataset, where it is there")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    _no_positional(positional)
    config, values = parsed.config(), parsed.values
    from semiseg_jax.verbs.config import show_config

    show_config(config, everything=values.all, classes=values.classes)
    return 0


def _list(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    positional = parsed.parse(args)
    if positional is None:
        return 0
    from semiseg_jax.verbs.list import list_names

    list_names(" ".join(positional))
    return 0


def _import_labels(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.string("images", "", "the folder of images; by default the one that holds the labels")
    parsed.boolean("link", False, "link images instead of copying them")
    parsed.string("classes", "", "names of the classes in order, joined by commas; by default those of the labels")
    parsed.string("colors", "", "of masks in colours: a .txt, .csv or .json with the name and R, G, B of each class")
    parsed.string("names", "", "of masks: how they are named after their images, such as *_mask; else it is found out")
    positional = parsed.parse(args)
    if positional is None:
        return 0
    if len(positional) != 3:
        raise UsageError(f"a format, the labels and the folder to write, please\n\n{_HELP[command]}")
    from semiseg_jax.verbs.import_labels import import_labels

    values = parsed.values
    classes = [name.strip() for name in values.classes.split(",") if name.strip()]
    import_labels(
        *positional,
        images=values.images,
        link=values.link,
        classes=classes,
        colors=values.colors,
        names=values.names,
    )
    return 0


def _convert_weights(command: str, args: list[str]) -> int:
    parsed = Flags(command, _HELP[command])
    parsed.string("layout", "", "that the weights fit, where their names do not tell: caffe for its ResNets")
    positional = parsed.parse(args)
    if positional is None:
        return 0
    if len(positional) != 2:
        raise UsageError(f"two files, please: the weights and the .npz to write\n\n{_HELP[command]}")
    from semiseg_jax.verbs.convert_weights import convert_weights

    convert_weights(*positional, layout=parsed.values.layout)
    return 0


def _with_workdir(parsed: Flags, args: list[str]) -> list[str] | None:
    """Flags of a command that reads a trained model."""
    parsed.string("checkpoint", "best", "best, last or a step")
    parsed.string(
        "post", "", "post-processing of each prediction: mrf or mean_field; --config.eval.post has its options"
    )
    return parsed.parse_with_workdir(args)


def _with_post(values: Any) -> ConfigDict:
    config = values.config
    if values.post:
        config.eval.post.name = values.post
    return config


def _no_positional(rest: Sequence[str]) -> None:
    if rest:
        raise UsageError(f"what is {' '.join(rest)!r}? Flags are written --name=value")


_COMMANDS: Mapping[str, Callable[[str, list[str]], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "prepare": _prepare,
    "import-labels": _import_labels,
    "inspect": _inspect,
    "summary": _summary,
    "config": _config,
    "list": _list,
    "convert-weights": _convert_weights,
}


if __name__ == "__main__":
    sys.exit(main())
