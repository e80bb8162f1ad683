"""Inference with a network that looks at one pixel at a time, so that the right answer is known everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semiseg_jax.data.letterbox import Letterbox, resize
from semiseg_jax.engine.inference import Inference, Predictor
from semiseg_jax.engine.landing import landing
from semiseg_jax.engine.metrics import Calibration, ConfusionMatrix

CANVAS, WINDOW = (64, 96), (32, 48)
SIZES = [(64, 96), (20, 30), (33, 47), (1, 1), (64, 5), (31, 96)]
LARGER = [(128, 192), (100, 97), (65, 300)]


def by_colour(variables, images: jax.Array) -> jax.Array:
    """Three classes; probabilities are the colour's share of red, green and blue."""
    shifted = images + variables["offset"]
    return shifted / shifted.sum(-1, keepdims=True)


VARIABLES = {"offset": jnp.asarray(0.5)}


def expected(image: np.ndarray) -> np.ndarray:
    shifted = image.astype(np.float32) / 255 + 0.5
    return shifted / shifted.sum(-1, keepdims=True)


def smooth(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Colours that change slowly, so that shrinking and enlarging loses little."""
    y, x = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    ramps = np.stack([y, x, 1 - (x + y) / 2], -1)
    return np.rint(40 + 160 * np.roll(ramps, seed, -1)).astype(np.uint8)


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def predictor(predict=by_colour, **changes) -> Predictor:
    options = Inference(**{"canvas": CANVAS, "window": WINDOW, "batch_size": 2} | changes)
    return Predictor(predict, VARIABLES, options, 3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_images_that_fit_give_the_result_of_every_pixel_exactly(mode, flip):
    images = [noise(size, seed) for seed, size in enumerate(SIZES)]
    for image, probs in zip(images, predictor(mode=mode, flip=flip)(images), strict=True):
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs, expected(image), atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
@pytest.mark.parametrize("size", LARGER)
def test_sliding_windows_cover_large_images_at_full_resolution(size, overlap):
    image = noise(size)
    (probs,) = predictor(mode="slide", overlap=overlap)([image])
    np.testing.assert_allclose(probs, expected(image), atol=1e-6)


@pytest.mark.parametrize("size", LARGER)
def test_images_larger_than_the_canvas_come_back_at_their_size(size):
    image = smooth(size)
    (probs,) = predictor()([image])
    assert probs.shape == (*size, 3)
    np.testing.assert_allclose(probs, expected(image), atol=0.02)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_several_scales_average_to_the_result_at_the_original_size(mode, flip):
    images = [smooth(size, seed) for seed, size in enumerate([(64, 96), (33, 47), (90, 101)])]
    for image, probs in zip(images, predictor(mode=mode, flip=flip, scales=(0.5, 1.0, 1.5))(images), strict=True):
        assert probs.shape == image.shape
        np.testing.assert_allclose(probs, expected(image), atol=0.02)
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)


def test_a_scale_enlarges_what_the_network_sees():
    seen = []

    def predict(variables, images):
        seen.append(images.shape[1:3])
        return by_colour(variables, images)

    list(predictor(predict, scales=(0.5, 1.0, 2.0))([smooth(CANVAS)]))
    assert sorted(seen) == [(32, 64), (64, 96), (128, 192)]


def test_flip_averages_with_the_mirror_image():
    def leftmost(variables, images):  # knows where a column is
        share = jnp.broadcast_to(jnp.linspace(0, 1, images.shape[2])[None, None, :], images.shape[:3])
        return jnp.stack([share, 1 - share, 0 * share], -1)

    (probs,) = predictor(leftmost, flip=True)([noise(CANVAS)])
    np.testing.assert_allclose(probs[..., :2], 0.5, atol=1e-6)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_order_is_kept_for_mixed_sizes(batch_size, mode):
    sizes = [(20, 20), (64, 96), (70, 110), (5, 90), (64, 96), (33, 33), (33, 33)]
    images = [np.full((*size, 3), (40 * i, 255 - 30 * i, 100), np.uint8) for i, size in enumerate(sizes)]
    results = list(predictor(mode=mode, batch_size=batch_size)(images))
    assert len(results) == len(images)
    for image, probs in zip(images, results, strict=True):
        np.testing.assert_allclose(probs, expected(image), atol=1e-5)


def test_rows_that_fill_the_last_batch_do_not_change_results():
    images = [noise((40, 50), seed) for seed in range(5)]
    alone = [next(iter(predictor(batch_size=1)([image]))) for image in images]
    for one, other in zip(alone, predictor(batch_size=4)(images), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_statistics_over_the_canvas_are_those_of_the_image(mode):
    def mean_colour(variables, images):
        return jnp.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)

    left_dark = np.repeat(np.array([10, 250], np.uint8), 10)[None, :, None] * np.ones((20, 1, 3), np.uint8)
    # 20 is mirrored once into 32 and twice into 64, so the shares of dark and bright stay nearly the same.
    (probs,) = predictor(mean_colour, mode=mode)([left_dark])
    np.testing.assert_allclose(probs, 130 / 255, atol=0.15)


def test_small_images_do_not_pay_for_a_large_canvas():
    seen = []

    def watch(variables, images):
        seen.append(images.shape[1:3])
        return images

    list(predictor(watch, canvas=(256, 512))([noise((20, 30), 0), noise((20, 300), 0), noise((200, 500), 0)]))
    assert seen == [(32, 32), (32, 512), (256, 512)]


def test_results_come_as_soon_as_they_are_ready():
    taken = 0

    def stream():
        nonlocal taken
        for seed in range(6):
            taken += 1
            yield noise((20, 20), seed)

    results = predictor(batch_size=2)(stream())
    next(results)
    assert taken == 4  # one batch is on its way while the one before is handed out


def test_no_images_give_no_results():
    assert list(predictor()([])) == []


@pytest.mark.parametrize(("batch_size", "devices"), [(4, 2), (2, 2), (3, 1), (1, 1)])
def test_batches_are_spread_over_as_many_devices_as_divide_them(batch_size, devices):
    images = [noise((20, 30), seed) for seed in range(5)]
    spread = predictor(batch_size=batch_size)
    assert spread._split.mesh.size == devices
    for image, probs in zip(images, spread(images), strict=True):
        np.testing.assert_allclose(probs, expected(image), atol=1e-6)


def by_share(classes: int):
    """A network whose probabilities are fixed mixtures of the colour: smooth, and cheap for many classes."""
    table = np.random.default_rng(0).dirichlet(np.full(classes, 0.3), size=4).astype(np.float32)

    def predict(variables, images):
        rest = 3 - images.sum(-1, keepdims=True)
        return jnp.concatenate([images, rest], -1) @ table / 3

    return predict


def reference(predict, image: np.ndarray, canvas: tuple[int, int], scales=(1.0,)) -> np.ndarray:
    """Probabilities of an image as one tile a scale, brought back by OpenCV, 100 classes at a time."""
    total = 0
    for scale in scales:
        base = Letterbox.fit(image.shape[:2], canvas).placed
        placed = tuple(max(1, round(side * scale)) for side in base)
        probs = np.asarray(predict({}, jnp.asarray(resize(image, placed))[None].astype(jnp.float32) / 255))[0]
        parts = [resize(probs[..., k : k + 100], image.shape[:2]) for k in range(0, probs.shape[-1], 100)]
        total = total + np.concatenate(parts, -1)
    return total / len(scales)


@pytest.mark.parametrize(
    "scales", [(1.0,), *(pytest.param(scales, marks=pytest.mark.heavy) for scales in ((2.0,), (0.5, 1.0, 1.75)))]
)
def test_maps_come_back_as_opencv_resizes_them(scales):
    predict, sizes = by_share(5), [(64, 96), (200, 150), (90, 333), (20, 30), (7, 5), (301, 64)]
    images = [smooth(size, seed) for seed, size in enumerate(sizes)]
    options = Inference(CANVAS, WINDOW, batch_size=2, scales=scales)
    found = Predictor(predict, {}, options, 5).predictions(images, probabilities=True)
    for image, prediction in zip(images, found, strict=True):
        probs = reference(predict, image, CANVAS, scales)
        np.testing.assert_allclose(prediction.probs, probs, atol=2e-5)
        top = np.sort(probs, -1)
        clear = top[..., -1] - top[..., -2] > 1e-4
        np.testing.assert_array_equal(prediction.labels[clear], probs.argmax(-1)[clear])
        assert prediction.labels.dtype == np.uint8
        assert prediction.confidence == pytest.approx(top[..., -1].mean(), abs=1e-5)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("classes", [pytest.param(150, marks=pytest.mark.heavy), 254])
def test_any_number_of_classes_comes_back_at_another_size(classes, mode):
    image = smooth((100, 70))
    options = Inference((32, 32), (32, 32), mode=mode, batch_size=4, scales=(0.75,))
    (probs,) = Predictor(by_share(classes), {}, options, classes)([image])
    (labels,) = Predictor(by_share(classes), {}, options, classes).labels([image])
    assert probs.shape == (100, 70, classes)
    np.testing.assert_array_equal(labels, probs.argmax(-1))
    expected = by_share(classes)({}, jnp.asarray(image[None]).astype(jnp.float32) / 255)[0]
    np.testing.assert_allclose(probs, expected, atol=0.02)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("post", [None, lambda image, probs: probs])
def test_counts_are_those_of_the_labels_and_probabilities(mode, post):
    rng = np.random.default_rng(0)
    images = [noise(size, seed) for seed, size in enumerate([(64, 96), (40, 30), (65, 100), (64, 96), (33, 64)])]
    truths = [rng.choice([0, 1, 2, 255], image.shape[:2]).astype(np.uint8) for image in images]
    options = {"mode": mode, "post": post}
    probs = list(predictor(**options)(images))
    scored = list(predictor(**options).score(zip(images, truths, strict=True)))
    assert len(scored) == len(images)
    for one, maps, truth in zip(scored, probs, truths, strict=True):
        labels, top = maps.argmax(-1), maps.max(-1)
        np.testing.assert_array_equal(one.labels, labels)
        np.testing.assert_array_equal(one.truth, truth)
        assert one.confidence == pytest.approx(top.mean(), abs=1e-5)
        counts = ConfusionMatrix.from_model_output(truth, labels, 3).counts
        assert one.confusion.counts.dtype == np.int64
        np.testing.assert_array_equal(one.confusion.counts, counts)
        bins = Calibration.from_model_output(truth, labels, top).bins
        np.testing.assert_allclose(one.calibration.bins, bins, rtol=1e-5, atol=1e-3)


def test_a_truth_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"the truth is \[20, 31\] but its image \[20, 30\]"):
        list(predictor().score([(noise((20, 30)), np.zeros((20, 31), np.uint8))]))


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_rare_shape_holds_at_most_two_batches(mode):
    taken = handed = most = 0
    images = [noise((10, 90)), *[noise((60, 40), seed) for seed in range(24)]]

    def stream():
        nonlocal taken, most
        for image in images:
            taken += 1
            most = max(most, taken - handed)
            yield image

    for image, probs in zip(images, predictor(mode=mode, window=(64, 64), batch_size=4)(stream()), strict=True):
        handed += 1
        np.testing.assert_allclose(probs, expected(image), atol=1e-5)
    assert most <= 2 * 4


def test_programs_are_compiled_for_canvases_and_not_for_sizes():
    traced = []

    def watch(variables, images):
        traced.append(images.shape)
        return images

    before = landing.cache_info().misses
    sizes = [(61 + i % 4, 90 + i % 7) for i in range(12)]
    list(predictor(watch, batch_size=4).labels([noise(size, seed) for seed, size in enumerate(sizes)]))
    assert traced == [(4, 64, 96, 3)]
    assert landing.cache_info().misses - before <= 1


def test_overlapping_windows_of_one_image_fill_whole_batches():
    seen = []

    def watch(variables, images):
        seen.append(len(images))
        return images

    list(predictor(watch, mode="slide", window=(32, 32), batch_size=8, overlap=0.5)([noise((64, 64))] * 2))
    assert sorted(seen) == [2, 8]  # 18 windows


def test_probabilities_may_be_written_to():
    for probs in predictor()([noise((64, 96)), noise((20, 30))]):
        before = probs.copy()
        probs += 1
        np.testing.assert_array_equal(probs, before + 1)


@pytest.mark.parametrize("post", [None, lambda image, probs: probs])
def test_certainty_is_the_largest_probability_where_asked_for(post):
    images = [noise((40, 30)), noise((64, 96), 1)]
    found = predictor(post=post).predictions(images, certainty=True)
    for image, prediction in zip(images, found, strict=True):
        assert prediction.certainty.dtype == np.uint8
        np.testing.assert_allclose(prediction.certainty / 255, expected(image).max(-1), atol=0.003)
        assert prediction.probs is None
