"""Plots as SVG that sits in a page: ink takes the page's colour, and each point says its value."""

import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand for colours of the page, which may be dark or light.
_INK, _LINES = "#010203", "#040506"
COLORS = ("#3b8edb", "#e07b39", "#3aa76d", "#c9527a", "#8a6fd1", "#b59a2c", "#2aa5a5", "#8c8c8c")
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 11, "text.color": _INK, "axes.labelcolor": _INK,
    "axes.edgecolor": _LINES, "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": _LINES, "grid.alpha": 0.35, "legend.frameon": False,
    "savefig.facecolor": "none", "axes.facecolor": "none",
}  # fmt: skip
_LARGEST = 1.3  # times its own size a plot may grow: a small one would shout
_numbers = itertools.count()
Points = list[tuple[float, float, str]]  # in the units of the axes, with what is said of each


@dataclasses.dataclass(frozen=True)
class Plot:
    """An SVG, and places in it with what they mean."""

    svg: str
    points: Sequence[tuple[float, float, str]]
    title: str


@dataclasses.dataclass(frozen=True)
class Series:
    """Curves of one name: several of them are seeds, whose mean is drawn as well."""

    name: str
    curves: Sequence[Sequence[tuple[float, float]]]


def curves(title: str, series: Sequence[Series], label: str) -> Plot:
    """Values by step."""

    def draw(axes: Any) -> Points:
        points: Points = []
        for number, one in enumerate(series):
            color = COLORS[number % len(COLORS)]
            several = len(one.curves) > 1
            for curve in one.curves:
                dots = "o" if len(curve) == 1 else None  # a line through one point shows nothing
                style = {"alpha": 0.35, "lw": 1} if several else {"lw": 2}
                axes.plot(*_columns(curve), color=color, marker=dots, **style)
            means = _mean(one.curves) if several else [(x, y, 0.0) for x, y in one.curves[0]]
            if several:
                axes.plot(*_columns([row[:2] for row in means]), color=color, lw=2)
            axes.plot([], [], color=color, lw=2, label=_as_text(one.name))
            points += [(x, y, _said(one.name, x, y, spread, several)) for x, y, spread in means]
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.legend(loc="best")
        return points

    return _plot(title, draw)


def calibration(title: str, series: Sequence[tuple[str, np.ndarray]]) -> Plot:
    """How often pixels are right, by how sure the network is; `series` of [3,BINS] pixels, probabilities, hits."""

    def draw(axes: Any) -> Points:
        points: Points = []
        axes.plot([0, 1], [0, 1], color=_INK, lw=1, ls=":")
        for number, (name, (pixels, probability, hits)) in enumerate(series):
            used = pixels > 0
            x, y = probability[used] / pixels[used], hits[used] / pixels[used]
            axes.plot(x, y, color=COLORS[number % len(COLORS)], lw=2, marker="o", ms=4, label=_as_text(name))
            shares = pixels[used] / pixels.sum()
            points += [
                (float(a), float(b), f"{name}: {a:.0%} sure, {b:.0%} right ({share:.1%} of the pixels)")
                for a, b, share in zip(x, y, shares, strict=True)
            ]
        axes.set_xlabel("how sure")
        axes.set_ylabel("how often right")
        axes.legend(loc="upper left")
        return points

    return _plot(title, draw, size=(5.0, 4.2))


MOST_NAMED = 30  # classes that a matrix names and explains


def confusion(title: str, counts: np.ndarray, classes: Sequence[str]) -> Plot:
    """The share of each true class that is taken for each class."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(classes) <= MOST_NAMED

    def draw(axes: Any) -> Points:
        axes.grid(False)
        axes.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if not named:
            return []
        names = [_as_text(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        return [
            (float(column), float(row), f"{classes[row]} taken for {classes[column]}: {shares[row, column]:.1%}")
            for row, column in np.ndindex(shares.shape)
        ]

    side = 3.0 + 0.22 * min(len(classes), MOST_NAMED)
    return _plot(title, draw, size=(side, side))


def _plot(title: str, draw: Callable[[Any], Points], size: tuple[float, float] = (7.0, 3.6)) -> Plot:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, dpi=72, layout="constrained")  # a point is a unit of the SVG
        canvas = FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        points = draw(axes)
        figure.draw_without_rendering()  # places everything
        height = size[1] * 72
        places = axes.transData.transform(np.array([point[:2] for point in points]).reshape(-1, 2))
        file = io.StringIO()
        canvas.print_svg(file, metadata={"Date": None, "Creator": None})
    found = [
        (round(float(x), 1), round(float(height - y), 1), text)
        for (x, y), (_, _, text) in zip(places, points, strict=True)
    ]
    return Plot(_for_page(file.getvalue(), round(_LARGEST * size[0] * 72)), found, title)


def _for_page(svg: str, most: int) -> str:
    """The SVG alone, as wide as its place but at most `most` pixels, with names of its own."""
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg style="max-width: {most}px" ', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"|(<svg [^>]*?)height="[^"]*" width="[^"]*"', r"\1\2", svg)
    own = f"p{next(_numbers)}-"
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}", svg)
    return svg.replace(_INK, "currentColor").replace(_LINES, "var(--lines)")


def _as_text(name: str) -> str:
    """A name that matplotlib neither reads as a formula nor, as one that begins with _, leaves out."""
    return ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")


def _columns(curve: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [row[0] for row in curve], [row[1] for row in curve]


def _mean(several: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float, float]]:
    """(x, mean, standard deviation) wherever all curves have a value."""
    tables = [dict(curve) for curve in several]
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    values = {x: np.array([table[x] for table in tables]) for x in shared}
    return [(x, float(found.mean()), float(found.std(ddof=1))) for x, found in values.items()]


def _said(name: str, x: float, y: float, spread: float, several: bool) -> str:
    return f"{name}, step {x:g}: {y:.4g}" + (f" ± {spread:.2g}" if several else "")
