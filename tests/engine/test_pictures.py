"""Pictures: sizes, colours, and that every kind of label can be drawn."""

import numpy as np
import pytest
from PIL import Image

from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import pictures

COLORS = ((0, 0, 0), (255, 0, 0), (0, 200, 50))
INFO = DatasetInfo("toy", ("background", "square", "other"), COLORS, 0, {})
VOID = 255


def image(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def square(height: int = 40, width: int = 60) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[10:30, 20:50] = 1
    return labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13)])
def test_colorize_gives_each_class_its_colour_and_void_grey(shape, dtype):
    labels = np.random.default_rng(0).choice([0, 1, 2, VOID], shape).astype(dtype)
    drawn = pictures.colorize(labels, COLORS)
    assert drawn.shape == (*shape, 3)
    assert drawn.dtype == np.uint8
    for klass, color in [*enumerate(COLORS), (VOID, (128, 128, 128))]:
        assert (drawn[labels == klass] == color).all()


def test_overlay_leaves_the_background_clear_and_tints_the_rest():
    picture, labels = image(), square()
    drawn = pictures.overlay(picture, labels, COLORS, background=0)
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[:8], picture[:8])
    inside = (slice(13, 27), slice(23, 47))
    np.testing.assert_allclose(drawn[inside], 0.45 * picture[inside] + 0.55 * np.array(COLORS[1]), atol=1)


def test_overlay_draws_borders_white():
    drawn = pictures.overlay(image(), square(), COLORS, background=0)
    assert (drawn[10, 25] == 255).all()
    assert (drawn[20, 20] == 255).all()


def test_overlay_without_a_background_tints_every_class_and_leaves_void_clear():
    picture, labels = image(), square()
    labels[labels == 0] = VOID
    np.testing.assert_array_equal(pictures.overlay(picture, labels, COLORS)[:8], picture[:8])
    drawn = pictures.overlay(picture, square(), COLORS)
    np.testing.assert_allclose(drawn[:8], 0.45 * picture[:8], atol=1)


def test_drawing_does_not_change_its_input():
    picture, labels = image(), square()
    before = picture.copy(), labels.copy()
    pictures.overlay(picture, labels, COLORS, background=0)
    pictures.draw_labels(picture, labels, COLORS)
    pictures.draw_boxes(picture, np.array([[2.0, 3, 20, 30]]), np.array([1]), COLORS)
    np.testing.assert_array_equal(picture, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_sparse_labels_are_made_thicker_and_keep_their_colour():
    labels = np.full((40, 60), VOID, np.uint8)
    labels[20, 30], labels[5, 5] = 1, 2
    drawn = pictures.draw_labels(image(), labels, COLORS)
    assert (drawn[19:22, 29:32] == COLORS[1]).all()
    assert (drawn[4:7, 4:7] == COLORS[2]).all()
    rest = np.ones((40, 60), bool)
    rest[19:22, 29:32] = rest[4:7, 4:7] = False
    assert (drawn[rest].max(-1) == drawn[rest].min(-1)).all()  # grey


def test_dense_labels_are_drawn_as_they_are():
    labels = square()
    np.testing.assert_array_equal(pictures.draw_labels(image(), labels, COLORS), pictures.colorize(labels, COLORS))


def test_image_without_labels_is_grey():
    drawn = pictures.draw_labels(image(), np.full((40, 60), VOID), COLORS)
    assert (drawn.max(-1) == drawn.min(-1)).all()


def test_boxes_are_drawn_in_class_colour_and_padding_is_not():
    boxes = np.array([[5.0, 10, 25, 40], [0, 0, 39, 59], [28, 2, 38, 12]])
    drawn = pictures.draw_boxes(np.full((40, 60, 3), 7, np.uint8), boxes, np.array([1, -1, VOID]), COLORS)
    assert (drawn[5, 10:40] == COLORS[1]).all()
    assert (drawn[5:25, 39] == COLORS[1]).all()
    assert (drawn[28, 2:12] == 128).all()
    assert (drawn[0] == 7).all()


@pytest.mark.parametrize("cell", [32, 100])
def test_grid_has_a_column_for_every_title_and_grows_with_rows(cell):
    rows = [[image(), image(60, 40)], [image(20, 20), None]]
    page = pictures.grid(rows, ["one", "two"], ["first\nrow", "second"], cell=cell)
    single = pictures.grid(rows[:1], ["one", "two"], ["first"], cell=cell)
    wider = pictures.grid([[*rows[0], None]], ["one", "two", "three"], ["first"], cell=cell)
    assert page.dtype == np.uint8
    assert page.shape[2] == 3
    assert page.shape[1] == single.shape[1] == wider.shape[1] - cell - 6
    assert page.shape[0] == single.shape[0] + cell + 6


def test_grid_holds_the_pictures_and_the_legend():
    plain = np.full((10, 10, 3), (1, 2, 3), np.uint8)
    page = pictures.grid([[plain]], ["title"], ["caption"], legend=(INFO.classes, COLORS), cell=50)
    assert (page == (1, 2, 3)).all(-1).sum() == 2500
    without = pictures.grid([[plain]], ["title"], ["caption"], cell=50)
    assert page.shape[0] > without.shape[0]
    assert (page == COLORS[1]).all(-1).any()


def test_long_legend_wraps_instead_of_leaving_the_page():
    names = [f"class number {i}" for i in range(30)]
    colors = [(i, 200, 10) for i in range(30)]
    page = pictures.grid([[image()]], ["image"], ["row"], legend=(names, colors), cell=64)
    assert all((page == color).all(-1).any() for color in colors)


def make_batch(kind: Supervision, rows: int = 2, size: tuple[int, int] = (24, 32)) -> dict[str, np.ndarray]:
    label = np.full((rows, *size), VOID, np.int32)
    if kind == Supervision.DENSE:
        label[:] = 0
        label[:, 5:15, 5:15] = 1
    elif kind in (Supervision.POINTS, Supervision.SCRIBBLE, Supervision.PARTIAL):
        label[:, 5, 5:9] = 1
    boxed, tagged = kind == Supervision.BOX, kind in (Supervision.TAGS, Supervision.BOX)
    return {
        "image": np.random.default_rng(0).random((rows, *size, 3), np.float32),
        "label": label,
        "valid": np.ones((rows, *size), bool),
        "boxes": np.tile(np.array([[4.0, 4, 20, 25]], np.float32), (rows, 1, 1)),
        "box_class": np.full((rows, 1), 1 if boxed else -1, np.int32),
        "tags": np.full((rows, 3), 1 if tagged else -1, np.int8),
        "kind": np.full(rows, int(kind), np.int32),
        "id": np.zeros((rows, 2), np.int32),
    }


@pytest.mark.parametrize("kind", list(Supervision), ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("rows", [1, 3])
def test_batch_of_any_kind_can_be_drawn(kind, rows):
    page = pictures.batch_picture(make_batch(kind, rows), INFO)
    assert page.dtype == np.uint8
    assert page.shape[0] > rows * 120
    if kind == Supervision.BOX:
        assert (page == COLORS[1]).all(-1).sum() > 100 * rows


def test_kinds_are_told_apart_by_their_captions():
    dense, unlabeled = make_batch(Supervision.UNLABELED), make_batch(Supervision.UNLABELED)
    dense["kind"][:] = Supervision.DENSE
    assert not np.array_equal(pictures.batch_picture(dense, INFO), pictures.batch_picture(unlabeled, INFO))


def test_to_uint8_rounds_and_clips_and_leaves_uint8_alone():
    given = np.array([[-0.1, 0.0, 0.5, 1.0, 1.2]])
    np.testing.assert_array_equal(pictures.to_uint8(given), [[0, 0, 128, 255, 255]])
    np.testing.assert_array_equal(pictures.to_uint8(image()), image())


def test_saved_picture_reads_back_and_missing_folders_are_made(tmp_path):
    pictures.save(tmp_path / "deep" / "a.png", image())
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "deep" / "a.png")), image())
