"""Outlines of regions: filled, they are the label map again."""

import cv2
import numpy as np
import pytest

from semiseg_jax.exchange.drawings import fill
from semiseg_jax.exchange.outlines import outlines, regions_of, seamed, without_small


def painted(regions, size, *, seams=False):
    """Regions over class 0, with the outlines of their holes or with seams to them."""
    out = np.zeros(size, np.uint8)
    for region in regions:
        out[fill([seamed(region.rings)] if seams else region.rings, size)] = region.klass
    return out


def noise(seed, classes=3, size=(17, 23)):
    """Every kind of touching: half of them single pixels, half of them blobs."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        return rng.integers(0, classes, size).astype(np.uint8)
    values = rng.normal(size=(*size, classes))
    return cv2.GaussianBlur(values, (0, 0), 1.5).argmax(-1).astype(np.uint8)


def parts(text):
    return np.array([[int(c) for c in line] for line in text.split()], np.uint8)


def test_the_outline_of_a_pixel_has_its_four_corners():
    (ring,) = outlines(np.array([[0, 0, 0], [0, 1, 0]], bool))
    assert sorted(map(tuple, ring.tolist())) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_a_hole_has_an_outline_of_its_own_and_only_corners_are_listed():
    mask = np.ones((5, 6), bool)
    mask[1:3, 2:5] = False
    outer, hole = outlines(mask)
    assert sorted(map(tuple, outer.tolist())) == [(0, 0), (0, 6), (5, 0), (5, 6)]
    assert sorted(map(tuple, hole.tolist())) == [(1, 2), (1, 5), (3, 2), (3, 5)]


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("seed", range(12))
def test_exact_outlines_give_the_label_map_whether_holes_have_outlines_or_seams(seed, background):
    labels = noise(seed)
    regions, dropped = regions_of(labels, background=background, tolerance=0)
    assert dropped == 0
    for seams in (True, False):
        np.testing.assert_array_equal(painted(regions, labels.shape, seams=seams), labels)
    assert [fill(region.rings, labels.shape).sum() for region in regions] == [region.pixels for region in regions]


def test_background_has_no_outline_and_the_largest_region_comes_first():
    labels = parts("0000000 0111110 0100010 0102010 0100010 0111110 0000000")
    assert [region.klass for region in regions_of(labels, background=0)[0]] == [1, 2]
    assert [(region.klass, region.pixels) for region in regions_of(labels)[0]] == [(0, 24), (1, 16), (0, 8), (2, 1)]


def test_a_seam_runs_to_a_hole_and_back_along_rows_and_columns():
    outer, hole = np.array([[0, 0], [0, 9], [9, 9], [9, 0]]), np.array([[4, 3], [4, 6], [7, 6], [7, 3]])
    line = seamed([outer, hole])
    np.testing.assert_array_equal(fill([line], (9, 9)), fill([outer, hole], (9, 9)))
    moves = np.abs(np.roll(line, -1, axis=0) - line)
    assert ((moves > 0).sum(1) == 1).all()
    assert len(line) == 4 + 4 + 4  # both rings; the ends of the seam again, and its bend twice


def test_single_rows_columns_and_pixels_have_outlines():
    for size in ((1, 1), (1, 9), (9, 1)):
        labels = np.arange(np.prod(size), dtype=np.uint8).reshape(size) % 3
        regions, _ = regions_of(labels, tolerance=0)
        np.testing.assert_array_equal(painted(regions, size), labels)


@pytest.mark.parametrize("tolerance", [0.5, 1, 2, 4])
def test_simplified_outlines_move_by_no_more_than_the_tolerance(tolerance):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = cv2.GaussianBlur(rng.normal(size=(60, 70, 3)), (0, 0), 5).argmax(-1).astype(np.uint8)
        regions, _ = regions_of(labels, tolerance=tolerance)
        changed = painted(regions, labels.shape) != labels
        # From the centre of a pixel to the nearest border between classes.
        edge = np.full(labels.shape, np.inf)
        for y, x in np.argwhere(changed):
            other_y, other_x = np.nonzero(labels != labels[y, x])
            dy, dx = (np.maximum(np.abs(other - own) - 0.5, 0) for other, own in ((other_y, y), (other_x, x)))
            edge[y, x] = np.hypot(dy, dx).min()
        assert (edge[changed] <= tolerance).all()


def test_neighbours_keep_a_common_border_when_outlines_are_simplified():
    yy, xx = np.mgrid[:80, :80]
    labels = np.select([(yy - 40) ** 2 + (xx - 40) ** 2 < 300, 2 * yy + xx < 110], [2, 1], 0).astype(np.uint8)
    regions, _ = regions_of(labels, tolerance=1.5)
    assert sum(len(ring) for region in regions for ring in region.rings) < 60
    times = sum(fill(region.rings, labels.shape).astype(int) for region in regions)
    assert (times == 1).all()


def test_a_thin_region_does_not_vanish_when_outlines_are_simplified():
    labels = np.zeros((20, 30), np.uint8)
    labels[10, 3:28] = 1
    (region,), _ = regions_of(labels, background=0, tolerance=3)
    np.testing.assert_array_equal(fill(region.rings, labels.shape), labels == 1)


def test_small_regions_become_what_they_touch_most_and_are_counted():
    labels = parts("0000000 0111110 0121110 0111110 0111130 0000000")
    clean, dropped = without_small(labels, 2)
    assert dropped == 2
    np.testing.assert_array_equal(clean, parts("0000000 0111110 0111110 0111110 0111100 0000000"))
    assert without_small(labels, 0)[1] == without_small(labels, 1)[1] == 0


@pytest.mark.parametrize("seed", range(8))
def test_nothing_small_is_left_and_what_is_large_stays(seed):
    labels = noise(seed)
    clean, dropped = without_small(labels, 4)
    before, after = (regions_of(map, tolerance=0)[0] for map in (labels, clean))
    largest = max(region.pixels for region in before)
    assert min(region.pixels for region in after) >= min(4, largest)
    assert dropped == sum(region.pixels < min(4, largest) for region in before)
    for region in before:
        if region.pixels >= 4:
            assert (clean[fill(region.rings, labels.shape)] == region.klass).all()


def test_the_largest_region_stays_however_small_it_is():
    regions, dropped = regions_of(parts("01 11"), min_area=50)
    assert [(region.klass, region.pixels) for region in regions] == [(1, 4)]
    assert dropped == 1


def test_the_score_of_a_region_is_the_mean_certainty_of_its_pixels():
    labels, certainty = noise(2, size=(150, 20)), np.random.default_rng(2).integers(0, 256, (150, 20), np.uint8)
    for tolerance in (0, 2):
        regions, _ = regions_of(labels, certainty, tolerance=tolerance)
        exact, _ = regions_of(labels, tolerance=0)
        for region, same in zip(regions, exact, strict=True):
            assert region.score == pytest.approx(certainty[fill(same.rings, labels.shape)].mean() / 255)
            assert same.score is None
