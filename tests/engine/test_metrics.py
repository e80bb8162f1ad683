"""Metrics against naive counting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix, format_table

VOID = 255


def confusion(truth, prediction, classes: int) -> ConfusionMatrix:
    return ConfusionMatrix.from_model_output(np.asarray(truth, np.uint8), np.asarray(prediction, np.uint8), classes)


def naive(truth, prediction, classes: int) -> dict:
    """The definitions, class by class, with sets of pixels."""
    counted = truth != VOID
    iou, accuracy, precision, weights = [], [], [], []
    for klass in range(classes):
        true = (truth == klass) & counted
        said = (prediction == klass) & counted
        either = (true | said).sum()
        iou.append((true & said).sum() / either if either else np.nan)
        accuracy.append((true & said).sum() / true.sum() if true.sum() else np.nan)
        precision.append((true & said).sum() / said.sum() if said.sum() else np.nan)
        weights.append(true.sum())
    total = counted.sum()
    seen = [value for value in iou if not np.isnan(value)]
    return {
        "iou": iou,
        "class_recall": accuracy,
        "class_precision": precision,
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


def test_table_shows_every_class_and_a_dash_for_what_does_not_exist():
    truth = np.array([[0, 0, 1, 1]])
    results = confusion(truth, truth, 3).compute()
    results |= {"boundary_f": 0.5, "class_boundary_f": np.array([0.25, 0.75, np.nan]), "ece": 0.125}
    lines = format_table(results, ["sky", "a very long class name", "absent"]).splitlines()
    assert lines[0].split() == ["class", "IoU", "recall", "precision", "boundary"]
    assert lines[1].split() == ["sky", "1.0000", "1.0000", "1.0000", "0.2500"]
    assert lines[2].startswith("a very long class name ")
    assert lines[3].split() == ["absent", "-", "-", "-", "-"]
    assert lines[5].split() == ["mean", "1.0000", "1.0000", "1.0000", "0.5000"]
    assert "mIoU 1.0000" in lines[6]
    assert "boundary F 0.5000" in lines[6]
    assert "calibration error 0.1250" in lines[6]
    assert len({len(line) for line in lines[:6]}) == 1


def test_table_leaves_out_what_was_not_measured():
    table = format_table(confusion([[0, 1]], [[0, 1]], 2).compute(), ["sky", "sea"])
    assert "boundary" not in table
    assert "calibration" not in table


def calibration(truth, prediction, top) -> Calibration:
    return Calibration.from_model_output(
        np.asarray(truth, np.uint8), np.asarray(prediction), np.asarray(top, np.float32)
    )


def test_calibration_error_is_zero_where_probabilities_are_shares_of_hits():
    hits = np.arange(100) < 90
    assert calibration(~hits, np.zeros(100, int), np.full(100, 0.9)).compute()["ece"] == pytest.approx(0, abs=1e-6)


def test_calibration_error_is_the_gap_in_each_bin_weighted_by_its_pixels():
    # Three pixels of four at 0.95 are right, none of two at 0.5; one at 1.0 is right.
    counts = calibration([0, 0, 0, 1, 1, 1, 0], np.zeros(7, int), [0.95] * 4 + [0.5] * 2 + [1.0])
    # 0.95 and 1.0 share the last of 15 bins.
    expected = (abs(4 - (4 * 0.95 + 1.0)) + abs(0 - 2 * 0.5)) / 7
    assert counts.compute()["ece"] == pytest.approx(expected, abs=1e-6)
    merged = Calibration.empty().merge(counts).merge(counts).over_processes()
    assert merged.compute()["ece"] == pytest.approx(expected, abs=1e-6)


def test_calibration_does_not_count_void():
    assert calibration([VOID, 0], [0, 0], [0.1, 1.0]).compute()["ece"] == 0
    assert np.isnan(calibration([VOID], [0], [0.1]).compute()["ece"])
