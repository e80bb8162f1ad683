"""`semiseg <command>`: parses flags and calls the verb of that name."""

import difflib
import errno
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
from semiseg_jax.command_help import HELP, USAGE
from semiseg_jax.flags import Flags, UsageError, take, wants_help


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command -> exit code; errors of the user's making are one message, not a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(
            f"semiseg_jax {semiseg_jax.__version__}, jax {metadata.version('jax')}, Python {platform.python_version()}"
        )
        return 0
    command, rest = args[0], [_with_home(arg) for arg in args[1:]]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"semiseg: unknown command {command!r}{hint}\n\n{USAGE}", file=sys.stderr)
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
        room = "; make room, and the same command goes on" if getattr(error, "errno", 0) == errno.ENOSPC else ""
        print(f"semiseg {command}: {error}{room}", file=sys.stderr)
        return 1
    except (TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        if os.environ.get("SEMISEG_TRACEBACK"):
            raise
        print(f"semiseg {command}: {error}\n(SEMISEG_TRACEBACK=1 shows where this came from)", file=sys.stderr)
        return 1


def _with_home(arg: str) -> str:
    """An argument with the home folder for ~, which shells leave alone behind the name of a flag: --workdir=~/run."""
    name, sign, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return name + sign + os.path.expanduser(value)


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
    parsed = Flags(command, HELP[command])
    parsed.string("workdir", "", "folder of the run: checkpoints, metrics, pictures; or gs://..., s3://...")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    _no_positional(positional)
    config, workdir = parsed.config(), parsed.required("workdir")
    from semiseg_jax.verbs.train import train

    stopped_by = train(config, workdir).signal
    return 128 + stopped_by if stopped_by else 0


def _evaluate(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
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
    parsed = Flags(command, HELP[command])
    parsed.string("output", "", "folder to write into; empty = predictions in the workdir, or here with --model")
    parsed.integer("limit", 0, "at most this many images; 0 = all")
    parsed.string("write", "index,color,overlay", "what to write of each image; also probabilities, as float16 .npy")
    parsed.string("model", "", "a file of `semiseg export --format=stablehlo`, instead of --workdir")
    exported = take(args, "model")[0] and not wants_help(args)
    positional = parsed.parse(args) if exported else _with_workdir(parsed, args)
    if positional is None:
        return 0
    values = parsed.values
    run = {} if exported else {"checkpoint": values.checkpoint, "config": _with_post(values)}
    run |= {name: getattr(values, name) for name in ("output", "limit", "write")}
    from semiseg_jax.verbs.predict import predict

    summary = predict("" if exported else values.workdir, positional, exported=values.model, **run)
    return int(bool(summary["failed"]))


def _prepare(command: str, args: list[str]) -> int:
    from semiseg_jax.config import default_config

    parsed = Flags(command, HELP[command])
    parsed.boolean("clean", False, "also remove what was built of earlier states of the same source")
    parsed.string("picture", "", "draw a dozen images and their labels into this file")
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
        config.data.path = positional[0]
        if config.data.name == "shapes":  # which has no folder
            config.data.name = "folder"
    elif not has_file:
        raise UsageError(f"a folder or --config is missing:\n\n{HELP[command]}")
    from semiseg_jax.verbs.prepare import prepare

    prepare(config, check_quota=has_file, clean=parsed.values.clean, picture=parsed.values.picture)
    return 0


def _inspect(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("output", "batch.png", "the picture to write")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    from semiseg_jax.verbs.inspect import config_of, inspect

    if positional and "config" in parsed.values:
        raise UsageError(f"a folder or --config, please, not both: {positional[0]}")
    if len(positional) > 1:
        raise UsageError(f"one folder, please, not {positional}")
    inspect(config_of(positional[0]) if positional else parsed.config(), parsed.values.output)
    return 0


def _summary(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
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
    parsed = Flags(command, HELP[command])
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


def _preflight(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("topology", "", "the devices to compile for, such as v5e:2x4, v4:2x2x2, h200:8 or cpu:2")
    parsed.integer("classes", 0, "number of classes; 0 = those of the dataset, where it is there")
    parsed.boolean("propose", True, "where it does not fit, compile what would")
    parsed.boolean(
        "quick", False, "compile for TPUs in a hurry: a part of the time, and a program that is not the best"
    )
    parsed.string("json", "", "a file for all numbers")
    positional = parsed.parse_with_config(args)
    if positional is None:
        return 0
    _no_positional(positional)
    config, topology, values = parsed.config(), parsed.required("topology"), parsed.values
    from semiseg_jax.verbs.preflight import preflight

    names = ("classes", "propose", "quick", "json")
    report = preflight(config, topology, **{name: getattr(values, name) for name in names})
    return int(not report.fits)


def _list(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    positional = parsed.parse(args)
    if positional is None:
        return 0
    from semiseg_jax.verbs.list import list_names

    list_names(" ".join(positional))
    return 0


def _import_labels(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("images", "", "the folder of images; by default the one that holds the labels")
    parsed.boolean("link", False, "link images instead of copying them")
    parsed.string("classes", "", "names of the classes in order, joined by commas; by default those of the labels")
    parsed.boolean("predictions", False, "of label_studio: take predictions on images that nobody annotated")
    parsed.string("colors", "", "of masks in colours: a .txt, .csv or .json with the name and R, G, B of each class")
    parsed.string("drop", "", "labels that are remarks and no classes, joined by commas; what has them is left out")
    parsed.string("names", "", "of masks: how they are named after their images, such as *_mask; else it is found out")
    positional = parsed.parse(args)
    if positional is None:
        return 0
    if len(positional) != 3:
        raise UsageError(f"a format, the labels and the folder to write, please\n\n{HELP[command]}")
    from semiseg_jax.verbs.import_labels import import_labels

    values = parsed.values
    classes, drop = (
        [name.strip() for name in names.split(",") if name.strip()] for names in (values.classes, values.drop)
    )
    import_labels(
        *positional,
        images=values.images,
        link=values.link,
        classes=classes,
        drop=drop,
        colors=values.colors,
        names=values.names,
        predictions=values.predictions,
    )
    return 0


def _export_labels(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("output", "", "folder to write, absent or empty; empty = labels_FORMAT in the workdir")
    parsed.integer("limit", 0, "at most this many images; 0 = all")
    parsed.number("tolerance", 1.0, "pixels by which outlines may be simplified; 0 = exact")
    parsed.integer("min-area", 64, "pixels of the smallest region; smaller ones join what is around them")
    parsed.string("image-prefix", "/data/local-files/?d=", "Label Studio: what stands before the paths of images")
    positional = _with_workdir(parsed, args)
    if positional is None:
        return 0
    if not positional:
        raise UsageError(f"a format, please\n\n{HELP[command]}")
    from semiseg_jax.verbs.export_labels import export_labels

    values = parsed.values
    summary = export_labels(
        positional[0],
        values.workdir,
        positional[1:],
        output=values.output,
        checkpoint=values.checkpoint,
        config=_with_post(values),
        limit=values.limit,
        tolerance=values.tolerance,
        min_area=parsed.get("min-area"),
        image_prefix=parsed.get("image-prefix"),
    )
    return int(bool(summary["failed"]))


def _export(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("output", "", "the file to write, such as mine.semiseg or mine.onnx")
    parsed.string("format", "", "stablehlo or onnx; empty = onnx for a name that ends in .onnx, else stablehlo")
    parsed.string("licence", "", "of the weights, for the model card")
    parsed.string("size", "", "of onnx: height x width of the images, such as 480x640; empty = the training canvas")
    parsed.string("python", "", "of onnx: an interpreter that has jax2onnx and onnxruntime; empty = this one")
    parsed.string("checkpoint", "best", "best, last or a step")
    positional = parsed.parse_with_workdir(args)
    if positional is None:
        return 0
    _no_positional(positional)
    values, output = parsed.values, parsed.required("output")
    from semiseg_jax.verbs.export import export

    names = ("format", "checkpoint", "config", "licence", "size", "python")
    export(values.workdir, output, **{name: getattr(values, name) for name in names})
    return 0


def _report(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("workdir", "", "one more run, as other commands name it")
    parsed.string("output", "", "the .html to write; empty = report.html in the workdir, or here for several")
    parsed.string("checkpoint", "best", "best, last or a step")
    parsed.integer("images", 8, "how many of the worst and of the most uncertain images to show, of each run")
    parsed.integer("limit", 500, "at most this many images are looked at, spread over the split; 0 = all")
    positional = parsed.parse(args)
    if positional is None:
        return 0
    positional = [*positional, *filter(None, [parsed.values.workdir])]
    if not positional:
        raise UsageError(f"at least one workdir, please\n\n{HELP[command]}")
    from semiseg_jax.verbs.report import report

    values = parsed.values
    report(positional, values.output, checkpoint=values.checkpoint, images=values.images, limit=values.limit)
    return 0


def _convert_weights(command: str, args: list[str]) -> int:
    parsed = Flags(command, HELP[command])
    parsed.string("layout", "", "that the weights fit, where their names do not tell: caffe for its ResNets")
    positional = parsed.parse(args)
    if positional is None:
        return 0
    if len(positional) != 2:
        raise UsageError(f"two files, please: the weights and the .npz to write\n\n{HELP[command]}")
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
    "export-labels": _export_labels,
    "export": _export,
    "report": _report,
    "inspect": _inspect,
    "summary": _summary,
    "config": _config,
    "preflight": _preflight,
    "list": _list,
    "convert-weights": _convert_weights,
}


if __name__ == "__main__":
    sys.exit(main())
