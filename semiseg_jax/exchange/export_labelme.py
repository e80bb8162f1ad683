"""`labelme`: a JSON file an image, of the same name, for `labelme IMAGES --output FOLDER --labels FOLDER/labels.txt`.

LabelMe's polygons have no holes: a seam joins the outline of a hole to the outer one.
"""

import os
from pathlib import Path
from typing import Any

from semiseg_jax.exchange.drawings import LabelFileError
from semiseg_jax.exchange.exported import Export, ExportedImage, write_json
from semiseg_jax.exchange.outlines import seamed


def write(export: Export, output: Path) -> Path:
    """-> the folder that was written."""
    written: dict[Path, ExportedImage] = {}
    for image in export.images:
        path = (output / image.name).with_suffix(".json")
        if path in written:
            raise LabelFileError(
                f"{written[path].file} and {image.file} would have the same LabelMe file, {path.name}; rename one"
            )
        written[path] = image
    for path, image in written.items():
        write_json(path, _content(export, path, image))
    # So that the tool offers all classes, and that they come back in this order, also those that nobody draws.
    (output / "labels.txt").write_text("\n".join(["__ignore__", *export.classes]) + "\n", encoding="utf-8")
    return output


def _content(export: Export, path: Path, image: ExportedImage) -> dict[str, Any]:
    shapes = [
        {
            "label": export.classes[region.klass],
            "points": seamed(region.rings)[:, ::-1].astype(float).tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for region in image.regions
    ]
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(os.path.relpath(image.file, path.parent.absolute())).as_posix(),
        "imageData": None,
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
        "mean_confidence": round(image.confidence, 5),
    }
