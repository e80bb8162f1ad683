"""Metrics against naive counting, and boundaries whose score is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semiseg_jax.engine.boundary import BoundaryF
from semiseg_jax.engine.metrics import ConfusionMatrix, format_table

VOID = 255


def confusion(truth, prediction, classes: int) -> ConfusionMatrix:
    return ConfusionMatrix.from_model_output(np.asarray(truth, np.uint8), np.asarray(prediction, np.uint8), classes)


def naive(truth, prediction, classes: int) -> dict:
    """The definitions, class by class, with sets of pixels."""
    counted = truth != VOID
    iou, accuracy, weights = [], [], []
    for klass in range(classes):
        true = (truth == klass) & counted
        said = (prediction == klass) & counted
        either = (true | said).sum()
        iou.append((true & said).sum() / either if either else np.nan)
        accuracy.append((true & said).sum() / true.sum() if true.sum() else np.nan)
        weights.append(true.sum())
    total = counted.sum()
    seen = [value for value in iou if not np.isnan(value)]
    return {
        "iou": iou,
        "class_recall": accuracy,
        "miou": np.mean(seen) if seen else np.nan,
        "mean_accuracy": np.mean([v for v in accuracy if not np.isnan(v)]) if total else np.nan,
        "pixel_accuracy": ((truth == prediction) & counted).sum() / total if total else 0.0,
        "fw_iou": sum(w * v for w, v in zip(weights, iou, strict=True) if w) / total if total else 0.0,
    }


@st.composite
def truths_and_predictions(draw):
    classes = draw(st.integers(1, 5))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    truth = draw(arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), VOID])))
    prediction = draw(arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    return truth, prediction, classes


@settings(max_examples=60, deadline=None)
@given(truths_and_predictions())
def test_metrics_equal_naive_counting(case):
    truth, prediction, classes = case
    results = confusion(truth, prediction, classes).compute()
    for name, expected in naive(truth, prediction, classes).items():
        np.testing.assert_allclose(results[name], expected, rtol=1e-12, err_msg=name)


def test_rows_are_truth_and_columns_are_prediction():
    counts = confusion([[0, 0, 0, 1]], [[0, 1, 1, 2]], 3).counts
    np.testing.assert_array_equal(counts, [[1, 2, 0], [0, 0, 1], [0, 0, 0]])


@settings(max_examples=30, deadline=None)
@given(truths_and_predictions(), st.integers(0, 6))
def test_merging_parts_equals_counting_all_at_once(case, cut):
    truth, prediction, classes = case
    parts = [(truth[:cut], prediction[:cut]), (truth[cut:], prediction[cut:])]
    merged = ConfusionMatrix.empty(classes)
    for part in parts:
        merged = merged.merge(confusion(*part, classes))
    np.testing.assert_array_equal(merged.counts, confusion(truth, prediction, classes).counts)


def test_counts_stay_exact_beyond_the_integers_of_float32():
    many = ConfusionMatrix(np.array([[2**24, 0], [0, 2**33]], np.int64))
    merged = many.merge(confusion([[0, 1]], [[0, 0]], 2))
    assert merged.counts.dtype == np.int64
    np.testing.assert_array_equal(merged.counts, [[2**24 + 1, 0], [1, 2**33]])
    np.testing.assert_array_equal(merged.over_processes().counts, merged.counts)


def test_class_that_is_absent_everywhere_is_nan_and_not_in_the_mean():
    results = confusion([[0, 0, 1, 1]], [[0, 0, 1, 0]], 3).compute()
    assert np.isnan(results["iou"][2])
    assert np.isnan(results["class_recall"][2])
    assert results["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_class_that_is_only_predicted_counts_as_zero():
    results = confusion([[0, 0]], [[0, 2]], 3).compute()
    assert results["iou"][2] == 0
    assert np.isnan(results["class_recall"][2])


@pytest.mark.parametrize("prediction", [0, 1])
def test_void_pixels_do_not_count_whatever_is_predicted(prediction):
    truth = np.array([[0, 1, VOID, VOID]])
    results = confusion(truth, [[0, 1, prediction, prediction]], 2).compute()
    assert (results["miou"], results["pixel_accuracy"], results["fw_iou"]) == (1, 1, 1)


def test_nothing_to_count_gives_nan_and_no_warning(recwarn):
    assert np.isnan(confusion([[VOID]], [[0]], 2).compute()["miou"])
    assert np.isnan(ConfusionMatrix.empty(2).compute()["mean_accuracy"])
    assert not recwarn.list


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


def test_table_shows_every_class_and_a_dash_for_what_does_not_exist():
    truth, prediction = half_plane(50), half_plane(50)
    results = confusion(truth, prediction, 3).compute() | boundary(truth, prediction, 3)
    lines = format_table(results, ["sky", "a very long class name", "absent"]).splitlines()
    assert lines[1].split() == ["sky", "1.0000", "1.0000", "1.0000"]
    assert lines[2].startswith("a very long class name ")
    assert lines[3].split() == ["absent", "-", "-", "-"]
    assert lines[5].split() == ["mean", "1.0000", "1.0000", "1.0000"]
    assert "mIoU 1.0000" in lines[6]
    assert len({len(line) for line in lines[:6]}) == 1
