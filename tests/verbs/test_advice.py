import numpy as np

from semiseg_jax.verbs.advice import advice

CLASSES = ("background", "cat", "dog", "horse")


def said(scores, iou=(0.9, 0.8, 0.7, 0.75), **options):
    rows = {step: {"miou": value} for step, value in scores.items()}
    return advice(rows, {"iou": np.array(iou)}, CLASSES, steps=max(scores), **options)


def test_classes_are_listed_from_the_best_to_the_worst():
    assert said({10: 0.8}) == ["IoU by class: background 0.90, cat 0.80, horse 0.75, dog 0.70"]


def test_of_many_classes_the_best_and_the_worst_are_listed():
    names = [f"class{k}" for k in range(20)]
    (line,) = advice({}, {"iou": np.linspace(0.5, 0.9, 20)}, names, steps=10)
    assert line == (
        "IoU by class: class19 0.90, class18 0.88, class17 0.86, class16 0.84, ..., "
        "class3 0.56, class2 0.54, class1 0.52, class0 0.50"
    )


def test_lost_and_weak_classes_are_named_with_what_helps():
    _, lost, weak = said({10: 0.5}, iou=(0.9, 0.0, 0.2, 0.8))
    assert lost.startswith("warning: no pixel of cat was found")
    assert "balance_classes" in lost
    assert weak.startswith("dog: found far worse than the others")
    assert "balance_classes" in weak
    _, lost, weak = said({10: 0.5}, iou=(0.9, 0.0, 0.2, 0.8), weighted=True)
    assert "balance_classes" not in lost + weak


def test_a_class_that_no_mask_shows_is_neither_listed_nor_lost():
    assert said({10: 0.8}, iou=(0.9, np.nan, 0.7, 0.75)) == ["IoU by class: background 0.90, horse 0.75, dog 0.70"]


def test_a_score_that_still_rises_asks_for_more_steps():
    assert said({500: 0.5, 1000: 0.7, 1500: 0.8})[1] == (
        "miou was still rising (0.700 at step 1000, 0.800 at the end): --config.steps=3000 in the same command goes on "
        "in this workdir"
    )
    assert "give it more steps" in said({500: 0.5, 1000: 0.7, 1500: 0.8}, can_grow=False)[1]


def test_a_score_that_stands_still_asks_for_nothing():
    assert len(said({500: 0.5, 1000: 0.79, 1500: 0.8})) == 1


def test_a_score_that_fell_asks_for_labels():
    assert "more steps do not help here" in said({500: 0.9, 1000: 0.7, 1500: 0.8})[1]


def test_a_class_that_no_evaluated_image_holds_is_not_called_lost():
    found = {"iou": np.array([0.9, 0.0, 0.7]), "class_recall": np.array([0.9, np.nan, 0.8])}
    _, absent = advice({}, found, CLASSES[:3], steps=10)
    assert absent.startswith("the evaluated images hold no cat")
