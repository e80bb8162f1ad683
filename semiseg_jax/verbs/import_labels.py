"""`semiseg import-labels`: from the files of an annotation tool to a dataset folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from semiseg_jax.exchange import csv_tags
from semiseg_jax.exchange.drawings import Drawings, LabelFileError
from semiseg_jax.exchange.folder import Report, write_folder

# A reader takes the file or folder that the tool wrote.
READERS: Mapping[str, Callable[[Path], Drawings]] = {"csv": csv_tags.read}


def import_labels(
    format: str,
    source: str | Path,
    output: str | Path,
    *,
    images: str | Path = "",
    link: bool = False,
    classes: Sequence[str] = (),
) -> Report:
    """Writes a dataset folder of images and of what people drew on them, and prints what it holds.

    Args:
      format: what wrote the labels, one of `READERS`.
      source: the file or folder that it wrote.
      output: the dataset folder to write; it must be absent or empty.
      images: the folder with the images; by default the one that holds the labels.
      link: link images instead of copying them.
      classes: names in order; by default background, then those that the labels name.
    """
    if format not in READERS:
        raise ValueError(f"unknown format {format!r}; known formats: {', '.join(READERS)}")
    source = Path(source).expanduser()
    if not source.exists():
        raise LabelFileError(f"{source}: there is no such file or folder")
    drawings = READERS[format](source)
    place = Path(images).expanduser() if images else source if source.is_dir() else source.parent
    report = write_folder(drawings, place, Path(output).expanduser(), link=link, classes=classes)
    print(report)
    print(f"next: semiseg prepare {report.output}")
    return report
