"""A canvas on which people draw labels in a notebook, saved into a dataset folder as they go."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from semiseg_jax.data.types import IGNORE
from semiseg_jax.notebook.label_folder import LabelFolder, Shape

_HERE = Path(__file__).parent
_SIDE = 1280  # of the pictures that a browser gets, at most


class Predictor(Protocol):
    """What `semiseg_jax.load(WORKDIR).predictor()` gives."""

    def labels(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]: ...


class LabelCanvas:
    """Draws strokes, clicks and boxes in Jupyter, VS Code and Colab. Put it last in a cell, and it is there.

        canvas = semiseg_jax.LabelCanvas("my_labels", images="photos", classes=["background", "cat"])
        canvas

    Every stroke is saved at once, in the folder layout of the README, so that `semiseg train` and all other commands
    take the folder as it is. Broad strokes are thinned to their middle line before training. Called again with the
    same folder, the canvas goes on where it was. It needs `pip install anywidget`.
    """

    def __init__(self, folder: str | Path, images: str | Path = "", classes: Sequence[str] = ()):
        """Opens a dataset folder, or makes one.

        Args:
          folder: the dataset folder.
          images: if it is not there yet: a folder of images, at any depth, which are copied.
          classes: likewise, the names of the classes. What is no thing is a class too, called "background".
        """
        self.folder = LabelFolder(folder, images, classes)
        self._predictor: Predictor | None = None
        self._predicted: dict[str, np.ndarray] = {}
        self._versions: dict[str, int] = {}  # how often Python, and not the browser, drew on an image
        self.widget = _make_widget(
            names=self.folder.ids,
            classes=list(self.folder.classes),
            colors=[list(color) for color in self.folder.colors],
        )
        self.widget.observe(lambda change: self._show(), "index")
        self.widget.observe(lambda change: self._keep(change["new"]), "drawn")
        self._show()

    @property
    def kinds(self) -> list[str]:
        """The kinds of labels that some image has by now, as `labels=` of a config takes them."""
        return self.folder.kinds

    @property
    def ids(self) -> list[str]:
        """The images: names of files without their suffix."""
        return self.folder.ids

    @property
    def labelled(self) -> list[str]:
        """The images on which something is drawn."""
        return [id for id in self.folder.ids if self.folder.shapes(id)]

    def draw(self, id: str, shapes: Sequence[Shape]) -> None:
        """Draws shapes (`label_folder.py` has their form) on an image, in place of what is there."""
        self.folder.save(id, shapes)
        self._versions[id] = self._versions.get(id, 0) + 1
        if id == self._shown():
            self._show()

    def predict_with(self, predictor: Predictor) -> None:
        """Shows what a model finds over each image: `semiseg_jax.load(WORKDIR).predictor()`."""
        self._predictor = predictor
        self._predicted.clear()
        self._show_prediction()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.widget._repr_mimebundle_(**options)

    def _shown(self) -> str:
        return self.folder.ids[self.widget.index % len(self.folder.ids)]

    def _show(self) -> None:
        id = self._shown()
        image = self.folder.image(id)
        self.widget.shown = {
            "name": id,
            "size": list(image.shape[:2]),
            "image": _encoded(".jpg", _small(image[..., ::-1])),
            "shapes": self.folder.shapes(id),
            "version": self._versions.get(id, 0),
        }
        self._show_prediction()

    def _show_prediction(self) -> None:
        """Apart from `shown`: the browser may hold strokes that have not arrived here yet."""
        if self._predictor is not None:
            id = self._shown()
            self.widget.prediction = {"name": id, "picture": self._overlay(id, self._predictor)}

    def _keep(self, drawn: dict[str, Any]) -> None:
        """What the browser drew. It says on which image, for the next one may be shown by now."""
        if drawn:
            self.folder.save(drawn["name"], drawn["shapes"])

    def _overlay(self, id: str, predictor: Predictor) -> bytes:
        """Classes in colour, as a PNG whose background is transparent."""
        if id not in self._predicted:
            labels = next(iter(predictor.labels([self.folder.image(id)])))
            self._predicted[id] = _small(labels, cv2.INTER_NEAREST)
        labels = self._predicted[id]
        table = np.zeros((256, 4), np.uint8)
        table[: len(self.folder.colors), :3] = np.asarray(self.folder.colors)[:, ::-1]
        table[: len(self.folder.colors), 3] = 255
        table[[IGNORE if self.folder.background is None else self.folder.background, IGNORE]] = 0
        return _encoded(".png", table[labels])


def _small(picture: np.ndarray, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    height, width = picture.shape[:2]
    factor = _SIDE / max(height, width)
    if factor >= 1:
        return picture
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation))


def _encoded(suffix: str, picture: np.ndarray) -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


def _make_widget(**values: Any) -> Any:
    """The widget. Python sets `shown` and `prediction`, the browser sets `index` and `drawn`, the others stay."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ImportError("the canvas draws with anywidget: pip install 'semiseg-jax[notebook]'") from None

    class Canvas(anywidget.AnyWidget):
        _esm = _HERE / "canvas.js"
        _css = _HERE / "canvas.css"
        names: Any = traitlets.List().tag(sync=True)
        classes: Any = traitlets.List().tag(sync=True)
        colors: Any = traitlets.List().tag(sync=True)
        index = traitlets.Int(0).tag(sync=True)
        shown = traitlets.Dict().tag(sync=True)
        prediction = traitlets.Dict().tag(sync=True)
        drawn = traitlets.Dict().tag(sync=True)

    return Canvas(**values)
