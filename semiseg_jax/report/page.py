"""The page of a report: one HTML file that needs nothing beside it."""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from semiseg_jax.engine.metrics import nanmean
from semiseg_jax.report import plots
from semiseg_jax.report.content import Group, Panel, Run, differing, grouped

_HERE = Path(__file__).parent
_LOSSES = 4  # kinds of numbers of which training curves are drawn, at most
_DRAWN = "image", "labels given"  # pictures that are photographs


def page(runs: Sequence[Run], title: str = "") -> str:
    """The HTML of a report on these runs."""
    groups = grouped(runs)
    title = title or ("semiseg_jax: " + ", ".join(group.name for group in groups))
    parts = [
        f"<h1>{_text(title)}</h1>",
        _summary(groups),
        _curves(groups),
        *(_classes(group) for group in groups if group.scores),
        _how_sure(groups),
        *(_pictures(run) for run in runs),
        _differences(groups),
        _versions(runs),
    ]
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{_text(title)}</title><style>{style}</style></head>\n<body>\n'
        + "\n".join(filter(None, parts))
        + f"\n<script>{script}</script>\n</body></html>\n"
    )


def _summary(groups: Sequence[Group]) -> str:
    best = max((float(np.mean(group.miou)) for group in groups if group.miou), default=0.0)
    costs = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.cost))
    head = ["run", "method", "labels", "seeds", "mIoU", "of the best", *costs]
    rows = []
    for group in groups:
        run, miou = group.runs[0], group.miou
        cells = [
            _text(group.name),
            _text(str(run.config.get("method", ""))),
            _text(run.labels),
            _text(", ".join(str(member.seed) for member in group.runs)),
            _spread(miou),
            f"{float(np.mean(miou)) / best:.1%}" if miou and best else "",
            *(_text(run.cost.get(name, "")) for name in costs),
        ]
        rows.append(cells)
    scores = [score for group in groups for score in group.scores]
    note = ""
    if scores:
        seen = sorted({(score.split, score.images, score.of) for score in scores})
        counted = "; ".join(
            f"{split}: {images} images" + (f" of {of}, spread evenly" if images < of else "")
            for split, images, of in seen
        )
        note = _note(f"mIoU is the mean over classes of intersection over union, here on {counted}.")
    unseen = [run.name for group in groups for run in group.runs if run.score is None and run.miou is not None]
    if unseen:
        note += _note(f"Measured during training, since the data cannot be opened now: {', '.join(unseen)}.")
    return "<h2>Summary</h2>" + _table(head, rows, numbers=range(4, len(head))) + note


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    mean = f"{float(np.mean(values)):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {float(np.std(values, ddof=1)):.4f}"


def _curves(groups: Sequence[Group]) -> str:
    shown = [_curve_plot("mIoU of the evaluations", groups, "miou", "eval", "mIoU")]
    rows = [row for group in groups for run in group.runs for row in run.history if row["kind"] == "train"]
    terms = [name for name in dict.fromkeys(name for row in rows for name in row) if _is_loss(name, rows)]
    shown += [_curve_plot(name.replace("_", " "), groups, name, "train", "loss") for name in terms[:_LOSSES]]
    shown = [plot for plot in shown if plot]
    if not shown:
        return ""
    note = _note(
        "Point at a curve, or use the arrow keys, to read its values. "
        "Thin lines are single seeds, the thick one is their mean."
    )
    return "<h2>Learning</h2>" + note + f'<div class="plots">{"".join(shown)}</div>'


_NO_LOSSES = ("step", "grad_norm", "images_per_second", "data_seconds", "labelled_pixels", "replaced_records")


_RATES_AND_TIMES = r"^(learning_rate|weight)|_(rate|weight|seconds|seconds_p\d+|utilisation)$"


def _is_loss(name: str, rows: Sequence[Mapping[str, object]]) -> bool:
    if name in _NO_LOSSES or re.search(_RATES_AND_TIMES, name):
        return False
    return any(isinstance(row.get(name), float) for row in rows)


def _curve_plot(title: str, groups: Sequence[Group], name: str, kind: str, label: str) -> str:
    series = [
        plots.Series(group.name, found)
        for group in groups
        if (found := [curve for run in group.runs if (curve := run.curve(name, kind))])
    ]
    return _figure(plots.curves(title, series, label)) if series else ""


def _classes(group: Group) -> str:
    run = group.runs[0]
    numbers = [score.numbers for score in group.scores]

    def mean(name: str, klass: int) -> float:
        return nanmean(np.array([found[name][klass] for found in numbers]))

    rows = []
    for klass, name in enumerate(run.classes):
        iou = mean("iou", klass)
        bar = f'<span class="bar" style="width:{0 if np.isnan(iou) else 6 * iou:.2f}em"></span>'
        rows.append(
            [
                f"{_swatch(run.colors[klass])}{_text(name)}",
                _number(iou),
                bar,
                *(_number(mean(column, klass)) for column in _RATES),
            ]
        )
    total = np.sum([score.confusion.counts for score in group.scores], axis=0)
    table = _table(["class", "IoU", "", "recall", "precision"], rows, numbers=(1, 3, 4))
    matrix = _figure(plots.confusion("What is taken for what", total, run.classes))
    note = _note("Recall: the share of a class that is found. Precision: the share of what is found that is right.")
    return (
        f"<h2>Classes: {_text(group.name)}</h2>{note}{_in_words(total, run.classes)}"
        f'<div class="plots"><div>{table}</div>{matrix}</div>'
    )


_RATES = ("class_recall", "class_precision")


def _in_words(counts: np.ndarray, classes: Sequence[str]) -> str:
    """What is lost, and the most frequent mistakes."""
    hits, truth = np.diag(counts), counts.sum(1)
    lost = [name for name, hit, there in zip(classes, hits, truth, strict=True) if there and not hit]
    wrong = counts - np.diag(hits)
    most = [divmod(int(place), len(classes)) for place in np.argsort(wrong, axis=None)[::-1][:3]]
    said = [
        f"{classes[row]} taken for {classes[column]} ({wrong[row, column] / max(truth[row], 1):.1%} of it)"
        for row, column in most
        if wrong[row, column]
    ]
    texts = [f"Never found: {', '.join(lost)}."] if lost else []
    texts += [f"Most pixels are lost to: {'; '.join(said)}."] if said else []
    return f"<p>{_text(' '.join(texts))}</p>" if texts else ""


def _how_sure(groups: Sequence[Group]) -> str:
    scores = {group.name: group.scores for group in groups if group.scores}
    if not scores:
        return ""
    series = [(name, np.sum([score.calibration.bins for score in own], axis=0)) for name, own in scores.items()]
    errors = "; ".join(f"{name} {_spread([score.numbers['ece'] for score in own])}" for name, own in scores.items())
    note = (
        "<p>On the dotted line the network is right as often as it says. Below it, it is too sure. "
        f"The mean distance (expected calibration error): {_text(errors)}.</p>"
    )
    figure = _figure(plots.calibration("How sure, and how often right", series))
    return f'<h2>Calibration</h2>{note}<div class="plots">{figure}</div>'


def _pictures(run: Run) -> str:
    sections = [
        ("What training saw", run.training),
        ("Worst images first", run.worst),
        ("Most uncertain images first", run.unsure),
    ]
    shown = [
        f'<h3>{_text(title)}</h3><div class="panels">{"".join(map(_panel, panels))}</div>'
        for title, panels in sections
        if panels
    ]
    if not shown:
        return ""
    colors = "".join(
        f'<span class="class">{_swatch(color)}{_text(name)}</span>'
        for name, color in zip(run.classes, run.colors, strict=False)
    )
    note = _note("Move a slider, or use the arrow keys on it, to go from the image to its labels.")
    return f"<h2>Pictures: {_text(run.name)}</h2>{note}<p>{colors}</p>{''.join(shown)}"


def _panel(panel: Panel) -> str:
    titles = list(panel.views)
    height, width = next(iter(panel.views.values())).shape[:2]
    images = "".join(
        f'<img alt="{_text(title)}" src="{_picture(picture, photo=title in _DRAWN)}">'
        for title, picture in panel.views.items()
    )
    facts = [f"mIoU {panel.miou:.3f}"] if panel.miou is not None else []
    facts += [f"{panel.confidence:.0%} sure"] if panel.confidence is not None else []
    start = titles.index("prediction") if "prediction" in titles else 0
    return (
        f'<figure class="panel"><div class="stack" style="aspect-ratio:{width}/{height}">{images}</div>'
        f'<input type="range" min="0" max="{len(titles) - 1}" step="0.05" value="{start}" '
        f'aria-label="{_text(panel.name)}: from {_text(titles[0])} to {_text(titles[-1])}">'
        f'<figcaption><span class="view"></span><br>{_text(" · ".join([panel.name, *facts]))}</figcaption></figure>'
    )


def _differences(groups: Sequence[Group]) -> str:
    if len(groups) < 2:
        return ""
    rows = [[_text(path), *map(_text, values)] for path, values in differing(groups).items()]
    return "<h2>Where the configs differ</h2>" + _table(["field", *(group.name for group in groups)], rows)


def _versions(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in _flat(run.versions)))
    rows = [[_text(name), *(_text(_flat(run.versions).get(name, "")) for run in runs)] for name in names]
    table = _table(["", *(run.name for run in runs)], rows)
    return f"<h2>Versions</h2><details><summary>Packages, devices and commands</summary>{table}</details>"


def _flat(versions: Mapping[str, object]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in versions.items():
        if isinstance(value, Mapping):
            flat |= {str(inner): str(text) for inner, text in value.items()}
        else:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>'


def _swatch(color: Sequence[int]) -> str:
    return f'<span class="swatch" style="background:rgb({",".join(map(str, color))})"></span>'


def _figure(plot: plots.Plot) -> str:
    points = json.dumps(plot.points, ensure_ascii=False).replace("</", "<\\/")
    title = _text(plot.title)
    return (
        f'<figure class="plot" tabindex="0" aria-label="{title}"><figcaption>{title}</figcaption>{plot.svg}'
        f'<div class="said" aria-live="polite"></div><script type="application/json">{points}</script></figure>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """`rows` are HTML, the head is text."""
    right = set(numbers)

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=number' if at in right else ''}>{cell}</{tag}>" for at, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{cells("th", [_text(name) for name in head])}</tr>{body}</table></div>'


def _picture(picture: np.ndarray, *, photo: bool) -> str:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    kind, options = ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 82]) if photo else ("png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
    data = cv2.imencode(f".{kind}", bgr, options)[1].tobytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
