"""`semiseg import-labels`: from the files of an annotation tool to a dataset folder."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from semiseg_jax.exchange import coco_json, csv_tags, cvat, label_studio, labelme_json, masks, voc_xml
from semiseg_jax.exchange.archive import unpack_images
from semiseg_jax.exchange.drawings import Drawings, LabelFileError
from semiseg_jax.exchange.folder import Report, write_folder

# A reader takes the file or folder that the tool wrote.
READERS: Mapping[str, Callable[..., Drawings]] = {
    "coco": coco_json.read,
    "csv": csv_tags.read,
    "cvat": cvat.read,
    "label_studio": label_studio.read,
    "labelme": labelme_json.read,
    "voc": voc_xml.read,
}
MASKS = "masks"  # the format whose files are read together with the images


def import_labels(
    format: str,
    source: str | Path,
    output: str | Path,
    *,
    images: str | Path = "",
    link: bool = False,
    classes: Sequence[str] = (),
    predictions: bool = False,
    colors: str | Path = "",
    names: str = "",
    drop: Sequence[str] = (),
) -> Report:
    """Writes a dataset folder of images and of what people drew on them, and prints what it holds.

    Args:
      format: what wrote the labels, one of `READERS`, or masks.
      source: the file or folder that it wrote.
      output: the dataset folder to write; it must be absent or empty.
      images: the folder with the images; by default the one that holds the labels, or the .zip that also has them.
      link: link images instead of copying them.
      classes: names in order; by default background, then those that the labels name.
      predictions: of `label_studio`, take what models predicted on images that nobody annotated.
      colors: of masks in colours: a file with the name and R, G, B of each class.
      names: of masks: how they are named after their images, such as *_mask; by default this is found out.
      drop: labels that are remarks and no classes, such as "good_frame"; what has them is left out, and counted.
    """
    if format not in (*READERS, MASKS):
        raise ValueError(f"unknown format {format!r}; known formats: {', '.join([*READERS, MASKS])}")
    if (colors or names) and format != MASKS:
        raise ValueError(f"colors and names are about the format {MASKS}, not {format}")
    source = Path(source).expanduser()
    if not source.exists():
        raise LabelFileError(f"{source}: there is no such file or folder")
    if predictions and format != "label_studio":
        raise ValueError(f"predictions are read from label_studio only, not from {format}")
    if link and not images and source.suffix.lower() == ".zip":
        raise ValueError("images inside of a .zip can be copied only; leave out --link")
    with _folder_of_images(source, images) as place:
        if format == MASKS:
            table = Path(colors).expanduser() if colors else None
            drawings = masks.read(source, place, colors=table, names=names, classes=classes, drop=drop)
            classes = classes or drawings.classes  # in the order of their values
        else:
            reader = partial(label_studio.read, predictions=True) if predictions else READERS[format]
            drawings = reader(source, drop=drop)
        _check_dropped(drop, drawings)
        classes = [name for name in classes if name not in drop]
        report = write_folder(drawings, place, Path(output).expanduser(), link=link, classes=classes)
    print(report)
    print(f"next: semiseg prepare {report.output}")
    return report


def _check_dropped(drop: Sequence[str], drawings: Drawings) -> None:
    """A slip in a name would leave in what was to be left out."""
    if unknown := [name for name in drop if name not in drawings.dropped]:
        labels = ", ".join([*drawings.all_classes(), *sorted(drawings.dropped)])
        raise LabelFileError(f"drop names {unknown[0]!r}, but the labels are: {labels}")


@contextlib.contextmanager
def _folder_of_images(source: Path, images: str | Path) -> Iterator[Path]:
    if images:
        yield Path(images).expanduser()
    elif source.suffix.lower() == ".zip" and source.is_file():
        with tempfile.TemporaryDirectory(prefix="semiseg-import-") as folder:
            yield unpack_images(source, Path(folder))
    else:
        yield source if source.is_dir() else source.parent
