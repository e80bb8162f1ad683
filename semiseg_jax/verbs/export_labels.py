"""`semiseg export-labels`: predictions as files of an annotation tool, so that people correct instead of draw."""

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm.auto import tqdm

from semiseg_jax.data.layout import Layout
from semiseg_jax.data.remote import refuse
from semiseg_jax.data.threads import in_order
from semiseg_jax.engine import mirror, processes
from semiseg_jax.engine.inference import Prediction
from semiseg_jax.engine.parallel import is_main, keep_memory
from semiseg_jax.exchange import export_coco, export_label_studio, export_labelme
from semiseg_jax.exchange.exported import Export, ExportedImage, write_order
from semiseg_jax.exchange.outlines import regions_of
from semiseg_jax.verbs import predict
from semiseg_jax.verbs import workdir as workdirs

logger = logging.getLogger("semiseg_jax")

# A writer takes what is exported and a folder -> what people open with their tool.
WRITERS: Mapping[str, Callable[[Export, Path], Path]] = {
    "coco": export_coco.write,
    "labelme": export_labelme.write,
    "label_studio": export_label_studio.write,
}
ORDER = "order.csv"


@processes.together
def export_labels(
    format: str,
    workdir: str | Path,
    inputs: str | Path | Sequence[str | Path] = (),
    *,
    output: str | Path = "",
    checkpoint: str = "best",
    config: ConfigDict | None = None,
    limit: int = 0,
    tolerance: float = 1.0,
    min_area: int = 64,
    image_prefix: str = "/data/local-files/?d=",
) -> dict[str, Any]:
    """Writes what a trained model finds as outlines, the most uncertain images first, and their order to `order.csv`.

    Args:
      format: of the tool, one of `WRITERS`.
      workdir: of `semiseg_jax.train`.
      inputs: image files, folders (searched recursively) or globs; none = the evaluation split of the training data.
      output: the folder to write, absent or empty; by default `labels_FORMAT` in the workdir.
      checkpoint: "best", "last" or a step.
      config: the run's own config by default; an altered copy changes the inference mode.
      limit: at most this many images; 0 = all.
      tolerance: pixels by which outlines may be simplified; with 0 they are those of the label map, exactly.
      min_area: pixels of the smallest region; smaller ones become part of what is around them, and are counted.
      image_prefix: what stands before the names of images in tasks of Label Studio.

    A file that cannot be read is listed under "failed" and the others go on.
    """
    refuse(output, "--output")
    if format in WRITERS:  # else nothing is asked of a store
        workdir = mirror.reading(workdir)
        keep_memory()
        workdirs.join(workdir, config)
    output = Path(output).expanduser() if output else Path(workdir) / f"labels_{format}"
    mirror.fetch_output(output)
    _check(format, output, tolerance, min_area)
    predict.check_limit(limit)
    model = workdirs.load(workdir, checkpoint=checkpoint, config=config)
    files = _files(model, inputs)[: limit or None]
    root = Path(os.path.commonpath([file.parent for file in files]))
    failed: list[dict[str, str]] = []
    processes.check_same(list(map(str, files)), "images to predict")
    sources = [(str(file), functools.partial(predict.read_file, file)) for file in processes.share(files)]

    def outlined(found: tuple[str, Any, Prediction]) -> ExportedImage:
        name, _, prediction = found
        labels = prediction.labels
        regions, dropped = regions_of(
            labels, prediction.certainty, background=model.info.background, tolerance=tolerance, min_area=min_area
        )
        size = (labels.shape[0], labels.shape[1])
        relative = Path(name).relative_to(root).as_posix()
        return ExportedImage(Path(name), relative, size, prediction.confidence, regions, dropped)

    rows = in_order(outlined, predict.stream(model, sources, failed, certainty=True))
    shown = tqdm(rows, total=len(sources), desc="predicting", disable=None if is_main() else True)
    images, failed = _of_all(files, list(shown), failed)
    info = model.info
    export = Export(info.classes, info.colors, info.background, root, images, image_prefix)
    written = ""
    if is_main():
        output.mkdir(parents=True, exist_ok=True)
        opened = WRITERS[format](export, output)
        write_order(output / ORDER, images)
        mirror.send_output(output)
        for failure in failed:
            logger.error("%s: %s", failure["file"], failure["error"])
        _report(format, export, opened, tolerance, min_area, len(failed))
        written = str(opened)
    return {
        "checkpoint": model.step,
        "output": processes.gather(written)[0],
        "images": [{"file": str(image.file), "mean_confidence": image.confidence} for image in images],
        "dropped": sum(image.dropped for image in images),
        "failed": failed,
    }


def _of_all(
    files: Sequence[Path], images: Sequence[ExportedImage], failed: Sequence[dict[str, str]]
) -> tuple[list[ExportedImage], list[dict[str, str]]]:
    """What all processes found, the most uncertain images first."""
    found = processes.gather((images, failed))
    place = {file: number for number, file in enumerate(files)}
    everything = [image for part, _ in found for image in part]
    everything.sort(key=lambda image: (image.confidence, place[image.file]))
    return everything, [failure for _, part in found for failure in part]


def _check(format: str, output: Path, tolerance: float, min_area: int) -> None:
    """What can be refused before the model is read."""
    if format not in WRITERS:
        raise ValueError(f"unknown format {format!r}; known formats: {', '.join(WRITERS)}")
    if not tolerance >= 0 or min_area < 0:
        raise ValueError(f"tolerance is {tolerance:g} and min-area {min_area}, but both must be 0 or more")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(
            f"{mirror.shown(output)} is there already and not empty; nothing is overwritten, as it may hold what "
            "people corrected: take another --output=DIR"
        )


def _files(model: workdirs.Trained, inputs: str | Path | Sequence[str | Path]) -> list[Path]:
    if inputs:
        return [Path(os.path.abspath(path)) for path in predict.find_images(inputs)]  # without .., below one root
    dataset, split = predict.evaluation_split(model)
    if not isinstance(dataset.source, Layout):
        raise ValueError(f"the images of {dataset.info.name} are no files of their own: name the files to export")
    images = [dataset.source.listing.items[row["id"]].image for row in dataset.info.splits[split]]
    return [Path(os.path.abspath(image)) for image in images]


def _report(format: str, export: Export, written: Path, tolerance: float, min_area: int, failed: int) -> None:
    images = export.images
    regions, dropped = sum(len(image.regions) for image in images), sum(image.dropped for image in images)
    exact = f"outlines are simplified by at most {tolerance:g} pixels" if tolerance else "outlines are exact"
    place = mirror.shown(written)
    print(f"{len(images)} images with {regions} regions in {place}" + f", {failed} files failed" * bool(failed))
    print(f"the most uncertain images come first, as {ORDER} lists them; {exact}")
    if dropped:
        print(f"{dropped} regions below {min_area} pixels became part of what is around them (--min-area=0 keeps them)")
    source = place if format == "labelme" else "CORRECTED.json"  # LabelMe corrects files in place
    print(f"when they are corrected: semiseg import-labels {format} {source} DIR --images={export.root}", flush=True)
