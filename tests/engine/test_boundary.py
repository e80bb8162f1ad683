"""Boundaries whose score is known, and the definition class by class."""

import cv2
import numpy as np
import pytest

from semiseg_jax.engine.boundary import BoundaryF, boundary_note

VOID = 255


def half_plane(column: int, size=(100, 100)) -> np.ndarray:
    """Class 1 from `column` on. The diagonal of 100x100 gives a tolerance of one pixel, of 400x400 of four."""
    labels = np.zeros(size, np.uint8)
    labels[:, column:] = 1
    return labels


def boundary(truth, prediction, classes=2) -> dict:
    return BoundaryF.from_model_output(truth, prediction, classes).compute()


def test_perfect_boundary_scores_one():
    results = boundary(half_plane(50), half_plane(50))
    assert results["boundary_f"] == pytest.approx(1)
    np.testing.assert_allclose(results["class_boundary_f"], 1)


@pytest.mark.parametrize(
    ("size", "shift", "score"),
    [((100, 100), 1, 1), ((100, 100), 2, 0), ((400, 400), 4, 1), ((400, 400), 5, 0), ((300, 500), 4, 1)],
)
def test_boundary_counts_within_the_tolerance_and_not_beyond(size, shift, score):
    assert boundary(half_plane(50, size), half_plane(50 + shift, size))["boundary_f"] == pytest.approx(score)


def test_half_of_a_boundary_has_precision_one_and_recall_a_half():
    truth, prediction = half_plane(50), half_plane(50)
    prediction[50:] = 0
    prediction[50:, 50:] = VOID - 1  # a third class takes the lower half of class 1
    labels = np.where(prediction == VOID - 1, 2, prediction).astype(np.uint8)
    score = BoundaryF.from_model_output(truth, labels, 3).compute()["class_boundary_f"]
    # Class 0 keeps its whole boundary; class 1 keeps half and gains the border with class 2.
    assert score[0] == pytest.approx(1)
    assert 0 < score[1] < 1
    assert score[2] == 0


def test_images_without_any_boundary_have_no_score():
    flat = np.zeros((20, 20), np.uint8)
    results = boundary(flat, flat)
    assert np.isnan(results["boundary_f"])
    assert np.isnan(boundary(np.full((20, 20), VOID, np.uint8), flat)["boundary_f"])


def test_boundary_that_only_one_side_has_scores_zero():
    flat = np.zeros((100, 100), np.uint8)
    assert boundary(half_plane(50), flat)["boundary_f"] == 0
    assert boundary(flat, half_plane(50))["boundary_f"] == 0


def test_void_region_makes_no_boundary():
    truth, prediction = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth[10:20, 10:20] = VOID
    prediction[10:20, 10:20] = 1
    assert np.isnan(boundary(truth, prediction)["boundary_f"])


def test_boundary_drawn_as_a_line_of_void_is_in_its_middle():
    truth = half_plane(50, size=(400, 400))
    truth[:, 48:52] = VOID
    for column, score in ((50, 1), (54, 1), (60, 0)):
        assert boundary(truth, half_plane(column, size=(400, 400)))["boundary_f"] == pytest.approx(score)


def test_boundary_scores_are_means_over_images_then_classes():
    good = BoundaryF.from_model_output(half_plane(50), half_plane(50), 3)
    bad = BoundaryF.from_model_output(half_plane(50), half_plane(70), 3)
    results = BoundaryF.empty(3).merge(good).merge(bad).over_processes().compute()
    np.testing.assert_allclose(results["class_boundary_f"], [0.5, 0.5, np.nan])
    assert results["boundary_f"] == pytest.approx(0.5)


def by_class(truth: np.ndarray, prediction: np.ndarray, klass: int) -> float:
    """The definition: distances of each boundary pixel to the other boundary. No void."""
    reach = max(1, round(0.0075 * np.hypot(*truth.shape)))
    edges = []
    for labels in (truth, prediction):
        inside = (labels == klass).astype(np.uint8)
        edges.append((inside == 1) & (cv2.dilate(1 - inside, np.ones((3, 3), np.uint8)) == 1))
    if not edges[0].any() and not edges[1].any():
        return np.nan
    if not edges[0].any() or not edges[1].any():
        return 0.0
    away = [cv2.distanceTransform(1 - edge.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for edge in edges]
    recall, precision = (away[1][edges[0]] <= reach).mean(), (away[0][edges[1]] <= reach).mean()
    return 2 * precision * recall / max(precision + recall, 1e-9)


@pytest.mark.parametrize(("size", "classes"), [((60, 90), 3), ((400, 300), 21), ((200, 500), 254)])
def test_score_of_each_class_follows_the_definition(size, classes):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, classes, (6, 8)).astype(np.uint8)
    truth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    coarse[rng.random(coarse.shape) < 0.2] = classes - 1
    prediction = np.roll(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST), (2, -2), (0, 1))
    scores = BoundaryF.from_model_output(truth, prediction, classes).compute()["class_boundary_f"]
    expected = [by_class(truth, prediction, klass) for klass in range(classes)]
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_a_line_of_void_across_many_cells_is_closed_everywhere():
    truth = half_plane(200, size=(400, 400))
    truth[:, 198:202] = VOID
    np.testing.assert_allclose(boundary(truth, half_plane(200, size=(400, 400)))["class_boundary_f"], 1)


def void_between(width: int) -> np.ndarray:
    truth = half_plane(50)
    truth[:, 50 - width : 50 + width] = VOID
    return truth


def test_borders_that_are_void_give_no_score_and_say_so():
    results = boundary(void_between(10), half_plane(50))
    assert np.isnan(results["boundary_f"])
    assert np.isnan(results["class_boundary_f"]).all()
    assert results["boundary_share"] == 0
    assert boundary_note(results).startswith("boundary F cannot be measured: 100% of the outlines")


def test_there_is_nothing_to_say_of_boundaries_that_were_measured_or_are_none():
    flat = np.zeros((20, 20), np.uint8)
    assert boundary_note(boundary(half_plane(50), half_plane(50))) == ""
    assert boundary_note(boundary(flat, flat)) == ""
    assert boundary_note({}) == ""
