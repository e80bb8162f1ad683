"""Sizes within an exported program are those of prediction."""

import pytest

from semiseg_jax.data.letterbox import round_up
from semiseg_jax.engine.views import ROWS, rungs, whole_view
from semiseg_jax.exports.program import _placed, _rung


@pytest.mark.parametrize("canvas", [(96, 128), (321, 321), (64, 512)])
def test_images_lie_on_the_canvas_of_prediction(canvas):
    steps = [rungs(round_up(side, ROWS)) for side in canvas]
    for size in [(h, w) for h in (1, 31, 32, 33, 64, 97, 320, 333, 500, 1001) for w in (1, 48, 65, 96, 128, 375, 640)]:
        view = whole_view(size, canvas, 1.0)
        placed = _placed(size, canvas)
        assert placed == view.placed, size
        assert tuple(_rung(side, of_side) for side, of_side in zip(placed, steps, strict=True)) == view.canvas, size
