"""`label_studio`: tasks with predictions, and the labelling interface that they are made for.

Points are in percent of the image. The score of a prediction is its mean confidence, by which Label Studio can order
tasks, too; each region has a score of its own. Polygons have no holes: a seam joins the outline of a hole to the outer
one. What no polygon covers is background, which therefore is none of the labels of the interface.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from semiseg_jax.exchange.exported import Export, ExportedImage, score_of, write_json
from semiseg_jax.exchange.outlines import seamed

FILE, INTERFACE = "tasks.json", "interface.xml"


def write(export: Export, output: Path) -> Path:
    """-> the file that was written; the interface stands beside it."""
    path = output / FILE
    write_json(path, [_task(export, image) for image in export.images])
    labels = "".join(
        f'\n    <Label value={quoteattr(name)} background="#{bytes(color).hex()}"/>'
        for klass, (name, color) in enumerate(zip(export.classes, export.colors, strict=True))
        if klass != export.background
    )
    (output / INTERFACE).write_text(
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <PolygonLabels name="label" toName="image">{labels}\n  </PolygonLabels>\n</View>\n',
        encoding="utf-8",
    )
    return path


def _task(export: Export, image: ExportedImage) -> dict[str, Any]:
    height, width = image.size
    score = round(image.confidence, 5)
    result = [
        {
            "id": f"region{number}",
            "type": "polygonlabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            **score_of(region),
            "value": {
                "points": np.round(seamed(region.rings)[:, ::-1] * (100 / np.array([width, height])), 7).tolist(),
                "closed": True,
                "polygonlabels": [export.classes[region.klass]],
            },
        }
        for number, region in enumerate(image.regions, 1)
    ]
    return {
        "data": {"image": export.image_prefix + quote(image.name)},
        "predictions": [{"model_version": "semiseg_jax", "score": score, "result": result}],
    }
