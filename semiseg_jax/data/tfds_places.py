"""Where a prepared tfds set lies: DATA_DIR/NAME/[CONFIG/]VERSION."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from semiseg_jax.data.label_maps import FolderError
from semiseg_jax.data.tfds_mappings import KNOWN

_NAME = re.compile(r"tfds:(?P<name>\w+)(/(?P<config>[\w.@+-]+))?(:(?P<version>[\d.*]+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def split_name(text: str) -> tuple[str, str, str]:
    """`tfds:NAME[/config][:version]` -> the three, "" for what is not given."""
    found = _NAME.fullmatch(text)
    if not found:
        raise ValueError(f"dataset {text!r} must be tfds:NAME, tfds:NAME/CONFIG, or either with :VERSION, as :1.0.0")
    return found["name"], found["config"] or "", found["version"] or ""


def find_set(text: str, data_dir: Path, path: str) -> Path:
    """The folder of the set `tfds:...`, the newest version that fits.

    With `path` the set is looked for there: its own folder, one that holds its versions, or another DATA_DIR.
    """
    name, config, version = split_name(text)
    if path:
        root = Path(path).expanduser()
        if _is_set(root):
            return root
        places = [root / name, root]
    else:
        root = data_dir
        places = [root / name]
    for place in places:
        found = _newest(place / config, version) or (None if config else _in_configs(place, name, version))
        if found:
            return found
    wanted = "/".join([str(root), name, *filter(None, [config]), version or "VERSION"])
    there = [str(folder.relative_to(root)) for place in places for folder in _sets_below(place)]
    has = f" There is: {', '.join(there)}." if there else ""
    title = "/".join(filter(None, [name, config]))
    near = difflib.get_close_matches(name, {*KNOWN, *(folder.name for folder in _folders(root))}, n=1)
    hint = f" Did you mean tfds:{near[0]}?" if near and near[0] != name else ""
    raise FolderError(
        f"{text} is not prepared: there is no {wanted}.{has}{hint} Prepare it where TensorFlow is installed, with\n"
        f"  tfds build {title} --data_dir={root} --file_format=array_record\n"
        f'or with tfds.builder("{title}", data_dir=..., file_format="array_record").download_and_prepare(). A set that '
        "lies elsewhere is named by TFDS_DATA_DIR or --config.data.data_dir, or its folder by --config.data.path=DIR."
    )


def _in_configs(place: Path, name: str, version: str) -> Path | None:
    """If no config is named: the only one, or the usual one of a known set."""
    found = {folder.name: newest for folder in _folders(place) if folder.name and (newest := _newest(folder, version))}
    usual = KNOWN[name].config if name in KNOWN else ""
    if len(found) > 1 and usual not in found:
        raise FolderError(f"{place} has several configs; name one: {', '.join(f'tfds:{name}/{key}' for key in found)}")
    return found.get(usual) or next(iter(found.values()), None)


def _newest(place: Path, version: str) -> Path | None:
    wanted = re.compile(version.replace(".", r"\.").replace("*", r"\d+")) if version else _VERSION
    found = [folder for folder in _folders(place) if wanted.fullmatch(folder.name) and _is_set(folder)]
    return max(found, key=lambda folder: [int(part) for part in folder.name.split(".")], default=None)


def _sets_below(place: Path) -> Sequence[Path]:
    nested = [folder for config in _folders(place) for folder in _folders(config)]
    return [folder for folder in [*_folders(place), *nested] if _VERSION.fullmatch(folder.name) and _is_set(folder)]


def _folders(place: Path) -> Sequence[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def _is_set(folder: Path) -> bool:
    return (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file()
