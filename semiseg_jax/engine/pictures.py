"""Pictures for people: colour maps, overlays and captioned panels. All arrays are RGB uint8 unless said otherwise."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.data.types import IGNORE, Supervision

Colors = Sequence[Sequence[int]]
_UNLABELED = (128, 128, 128)
_INK, _PAPER = (20, 20, 20), (250, 250, 250)


def colorize(labels: np.ndarray, colors: Colors) -> np.ndarray:
    """[H,W] class indices -> [H,W,3]; 255 is grey."""
    table = np.full((256, 3), _UNLABELED, np.uint8)
    table[: len(colors)] = colors
    return table[labels.astype(np.uint8)]


def overlay(image: np.ndarray, labels: np.ndarray, colors: Colors, *, background: int | None = None) -> np.ndarray:
    """The prediction over the image, with class borders drawn; background stays clear."""
    edges = cv2.morphologyEx(labels.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    clear = (labels == IGNORE) | (labels == (-1 if background is None else background))
    out = image.copy()
    for top in range(0, len(image), 256):  # the floats of a large picture would take many times its memory
        rows = slice(top, top + 256)
        mixed = (0.45 * image[rows] + 0.55 * colorize(labels[rows], colors)).astype(np.uint8)
        np.copyto(out[rows], mixed, where=~clear[rows, :, None])
    out[edges] = 255
    return out


def heat(values: np.ndarray) -> np.ndarray:
    """[H,W] in [0,1], from black through red to white."""
    return cv2.cvtColor(cv2.applyColorMap(to_uint8(values.astype(np.float32)), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def draw_labels(image: np.ndarray, labels: np.ndarray, colors: Colors) -> np.ndarray:
    """Labelled pixels in colour over a dimmed grey image; sparse ones are made thicker, so that they can be seen."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2 + 40
    share = np.mean(labels != IGNORE)
    if 0 < share < 0.2:
        labels = cv2.erode(
            labels.astype(np.uint8), np.ones((3, 3), np.uint8)
        )  # 255 = nothing, so erosion spreads labels
    return np.where((labels != IGNORE)[..., None], colorize(labels, colors), grey).astype(np.uint8)


def draw_boxes(image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, colors: Colors) -> np.ndarray:
    out = np.array(image, order="C")
    for (y0, x0, y1, x1), klass in zip(np.rint(boxes).astype(int).tolist(), classes.tolist(), strict=True):
        if klass >= 0:
            color = _UNLABELED if klass == IGNORE else tuple(int(c) for c in colors[klass])
            cv2.rectangle(out, (x0, y0), (x1 - 1, y1 - 1), color, 2)
    return out


def grid(rows: Sequence[Sequence[np.ndarray | None]], titles: Sequence[str], captions: Sequence[str], *,
         legend: tuple[Sequence[str], Colors] | None = None, cell: int = 192,
         absent: str = "not used") -> np.ndarray:  # fmt: skip
    """Pictures in rows and columns with titles above, a caption left of each row and a legend of classes below."""
    font = ImageFont.load_default(13)
    margin, head, gap = 112, 24, 6
    heights = [max(_fit(p.shape, cell)[0] for p in row if p is not None) for row in rows]
    legend_rows = _legend_layout(legend[0], margin + len(titles) * (cell + gap), font) if legend else []
    width = margin + len(titles) * (cell + gap)
    height = head + sum(heights) + gap * (len(rows) + 1) + 22 * len(legend_rows)
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((margin + column * (cell + gap), 5), title, fill=_INK, font=font)
    y = head
    for row, caption, row_height in zip(rows, captions, heights, strict=True):
        draw.multiline_text((6, y + 4), caption, fill=_INK, font=font)
        for column, picture in enumerate(row):
            x = margin + column * (cell + gap)
            if picture is None:
                draw.text((x + 8, y + row_height // 2 - 8), absent, fill=(150, 150, 150), font=font)
                continue
            size = _fit(picture.shape, cell)
            page.paste(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.NEAREST), (x, y))
        y += row_height + gap
    for entries in legend_rows:
        for x, number in entries:
            assert legend is not None
            draw.rectangle((x, y + 4, x + 12, y + 16), fill=tuple(legend[1][number]), outline=_INK)
            draw.text((x + 17, y + 2), legend[0][number], fill=_INK, font=font)
        y += 22
    return np.asarray(page)


def batch_picture(batch: Mapping[str, np.ndarray], info: DatasetInfo) -> np.ndarray:
    """One row an image of a `Batch`: image, labels, boxes and valid pixels, with kind and tags as the caption."""
    rows, captions = [], []
    for i in range(len(batch["kind"])):
        image = to_uint8(batch["image"][i])
        rows.append([
            image,
            draw_labels(image, batch["label"][i], info.colors),
            draw_boxes(image, batch["boxes"][i], batch["box_class"][i], info.colors),
            np.repeat(batch["valid"][i][..., None].astype(np.uint8) * 200, 3, -1),
        ])  # fmt: skip
        captions.append(_row_caption(batch, i, info))
    titles = ["image", "label", "boxes", "valid"]
    return grid(rows, titles, captions, legend=(info.classes, info.colors), cell=160)


def _row_caption(batch: Mapping[str, np.ndarray], i: int, info: DatasetInfo) -> str:
    kind = Supervision(int(batch["kind"][i]))
    labelled = batch["label"][i] != IGNORE
    share, tags = 100 * float(np.mean(labelled)), batch["tags"][i]
    lines = [kind.name.lower()]
    if kind == Supervision.BOX:
        lines.append(f"boxes: {np.sum(batch['box_class'][i] >= 0)}")
    elif kind not in (Supervision.TAGS, Supervision.UNLABELED) or share:
        lines.append(f"{share:.1f} % labelled" if share >= 0.1 else f"labelled pixels: {np.sum(labelled)}")
    if (tags >= 0).any():
        lines += ["tags:", *[f"  {info.classes[k]}" for k in np.flatnonzero(tags == 1)][:6]]
    return "\n".join(lines)


def to_uint8(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _fit(shape: Sequence[int], cell: int) -> tuple[int, int]:
    factor = cell / max(shape[0], shape[1])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def _legend_layout(names: Sequence[str], width: int, font: Any) -> list[list[tuple[int, int]]]:
    """Lines of (x, class number)."""
    lines: list[list[tuple[int, int]]] = [[]]
    x = 6
    for number, name in enumerate(names):
        needed = 17 + int(font.getlength(name)) + 18
        if x + needed > width and lines[-1]:
            lines.append([])
            x = 6
        lines[-1].append((x, number))
        x += needed
    return lines
