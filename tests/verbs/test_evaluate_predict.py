"""Evaluation and prediction of a trained model, through the functions that notebooks call."""

import dataclasses
import errno
import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from conftest import FolderMaker
from ml_collections import ConfigDict
from PIL import Image

import semiseg_jax
from semiseg_jax.config import default_config, settings
from semiseg_jax.data.records import decode_image
from semiseg_jax.engine.checkpoints import CheckpointError
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.engine.metrics import ConfusionMatrix
from semiseg_jax.exchange.drawings import fill
from semiseg_jax.verbs.evaluate import _file_name, evenly
from semiseg_jax.verbs.inspect import config_of
from semiseg_jax.verbs.workdir import read_config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return FolderMaker(tmp_path_factory.mktemp("source"))()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir, source):
    """A model that has learned to find the bright square."""
    config = default_config()
    config.steps = 60
    config.data.update({"name": "folder", "path": str(source), "data_dir": data_dir, "threads": 1})
    config.data.quota = ConfigDict({"dense": 2})
    config.augment.update({"crop": (32, 32), "jitter": 0.0})
    config.model = ConfigDict({"name": "unet", "widths": (8, 8)})
    config.optimizer.learning_rate = 0.01
    config.eval.every = 60
    config.log.update({"tensorboard": False, "panel_rows": 0})
    path = tmp_path_factory.mktemp("run")
    semiseg_jax.train(config, path)
    return path


def altered(workdir, **options):
    config = read_config(workdir)
    config.eval.update(options)
    return config


def test_evaluation_prints_a_table_and_writes_json(workdir, tmp_path, capsys):
    results = semiseg_jax.evaluate(workdir, output=tmp_path / "results.json")
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["miou"] == pytest.approx(results["miou"])
    assert written["split"] == "val"
    assert written["images"] == 2
    assert set(written["iou"]) == {"background", "square", "other"}
    assert written["iou"]["other"] is None
    for name in ("class_recall", "class_precision"):
        assert written[name]["square"] == pytest.approx(results[name][1])
    assert 0 < written["ece"] < 1
    assert 0 < written["boundary_f"] <= 1
    assert "boundary_f_note" not in written
    printed = capsys.readouterr().out
    assert f"mIoU {results['miou']:.4f}" in printed
    assert f"calibration error {results['ece']:.4f}" in printed


def test_a_workdir_that_cannot_be_written_to_is_evaluated_all_the_same(workdir, monkeypatch, capsys, caplog):
    def refuse(path, content):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("semiseg_jax.verbs.evaluate.write_json", refuse)
    results = semiseg_jax.evaluate(workdir)
    assert f"mIoU {results['miou']:.4f}" in capsys.readouterr().out
    assert "evaluation_val.json cannot be written" in caplog.text
    with pytest.raises(OSError, match="Read-only"):
        semiseg_jax.evaluate(workdir, output=workdir / "asked_for.json")


def test_boundaries_are_left_out_on_request(workdir, tmp_path):
    results = semiseg_jax.evaluate(workdir, config=altered(workdir, boundary="never"), output=tmp_path / "out.json")
    assert "boundary_f" not in results
    assert "boundary_f" not in json.loads((tmp_path / "out.json").read_text())


def test_borders_that_are_void_are_said_to_hide_the_boundaries(workdir, source, tmp_path, capsys):
    void = FolderMaker(tmp_path / "void")()
    for path in (void / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        inner, outer = (morph(mask, np.ones((9, 9), np.uint8)) for morph in (cv2.erode, cv2.dilate))
        Image.fromarray(np.where(inner == outer, mask, 255).astype(np.uint8)).save(path)
    config = read_config(workdir)
    config.data.path = str(void)
    semiseg_jax.evaluate(workdir, config=config, output=tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["boundary_f"] is None
    assert written["boundary_f_note"] in capsys.readouterr().out
    assert "cannot be measured" in written["boundary_f_note"]


@pytest.mark.parametrize(("limit", "expected"), [(0, range(10)), (3, [0, 3, 6]), (5, [0, 2, 4, 6, 8]), (99, range(10))])
def test_a_limited_evaluation_takes_images_from_all_over_the_split(limit, expected):
    assert evenly(range(10), limit) == list(expected)
    assert evenly([], limit) == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "evaluation_val.json"),
        ({"flip": True, "scales": (0.75, 1.0)}, "evaluation_val_flip_scales_0.75_1.json"),
        ({"mode": "slide", "window": (24, 40), "overlap": 0.25}, "evaluation_val_slide.json"),
        ({"post": {"name": "mean_field"}}, "evaluation_val_mean_field.json"),
    ],
)
def test_every_way_of_inference_finds_the_square_and_writes_its_own_file(workdir, options, name):
    (workdir / name).unlink(missing_ok=True)
    results = semiseg_jax.evaluate(workdir, config=altered(workdir, **options))
    assert results["miou"] > (0.6 if options else 0.8)
    written = json.loads((workdir / name).read_text())
    assert written["path"] == read_config(workdir).data.path
    assert written["miou"] == pytest.approx(results["miou"])


def test_metrics_agree_with_the_predicted_files_at_the_original_resolution(workdir, source, tmp_path):
    results = semiseg_jax.evaluate(workdir)
    semiseg_jax.predict(workdir, [source / "images" / f"im{i}.png" for i in (4, 5)], output=tmp_path)
    counts = ConfusionMatrix.empty(3)
    for i in (4, 5):
        truth = np.asarray(Image.open(source / "masks" / f"im{i}.png"))
        prediction = np.asarray(Image.open(tmp_path / f"im{i}_index.png"))
        counts = counts.merge(ConfusionMatrix.from_model_output(truth, prediction, 3))
    assert counts.compute()["miou"] == pytest.approx(results["miou"])


def test_prediction_takes_files_folders_and_globs_and_writes_pictures(workdir, source, tmp_path):
    images = source / "images"
    inputs = [images / "im0.png", f"{images}/im[12].png", images]
    summary = semiseg_jax.predict(workdir, inputs, output=tmp_path)
    assert [row["index"] for row in summary["images"]] == [f"im{i}_index.png" for i in range(6)]
    for row in summary["images"]:
        image = decode_image((images / row["file"].split("/")[-1]).read_bytes())
        index = np.asarray(Image.open(tmp_path / row["index"]))
        assert list(index.shape) == row["size"] == list(image.shape[:2])
        assert index.max() < 3
        for kind in ("color", "overlay"):
            assert np.asarray(Image.open(tmp_path / row[kind])).shape == image.shape
        assert sum(row["share"].values()) == pytest.approx(1, abs=1e-4)
        assert 1 / 3 <= row["mean_confidence"] <= 1
    assert json.loads((tmp_path / "predictions.json").read_text())["classes"] == ["background", "square", "other"]


def test_probabilities_of_sub_folders_are_written(workdir, source, tmp_path):
    (tmp_path / "photos" / "day").mkdir(parents=True)
    shutil.copy(source / "images" / "im4.png", tmp_path / "photos" / "day" / "one.png")
    semiseg_jax.predict(workdir, [tmp_path / "photos"], output=tmp_path / "out", write="probabilities")
    assert (tmp_path / "out" / "day" / "one_probabilities.npy").is_file()


def test_prediction_writes_what_is_asked_for(workdir, source, tmp_path):
    images = [source / "images" / f"im{i}.png" for i in (4, 5)]
    summary = semiseg_jax.predict(workdir, images, output=tmp_path, write="probabilities,index")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "im4_index.png", "im4_probabilities.npy", "im5_index.png", "im5_probabilities.npy", "predictions.json",
    ]  # fmt: skip
    for row in summary["images"]:
        assert "color" not in row
        probs = np.load(tmp_path / row["probabilities"])
        assert (probs.dtype, probs.shape) == (np.float16, (40, 48, 3))
        np.testing.assert_allclose(probs.sum(-1, dtype=np.float32), 1, atol=2e-3)
        index = np.asarray(Image.open(tmp_path / row["index"]))
        assert np.mean(probs.argmax(-1) == index) > 0.99
        assert probs.max(-1).mean(dtype=np.float64) == pytest.approx(row["mean_confidence"], abs=1e-3)


@pytest.mark.parametrize("write", ["", "index,colour", ()])
def test_prediction_says_what_can_be_written(workdir, write):
    with pytest.raises(ValueError, match="must name some of index, color, overlay, probabilities"):
        semiseg_jax.predict(workdir, write=write)


def test_prediction_keeps_the_size_of_images_larger_and_smaller_than_those_of_training(workdir, tmp_path):
    sizes = {"large": (301, 130), "small": (9, 7), "thin": (2, 90)}
    for name, (height, width) in sizes.items():
        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    semiseg_jax.predict(workdir, [tmp_path], output=tmp_path / "out")
    for name, size in sizes.items():
        assert np.asarray(Image.open(tmp_path / "out" / f"{name}_index.png")).shape == size


def test_unreadable_files_are_listed_and_the_others_go_on(workdir, source, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    absent = tmp_path / "absent.png"
    inputs = [source / "images" / "im0.png", broken, absent, source / "images" / "im1.png"]
    summary = semiseg_jax.predict(workdir, inputs, output=tmp_path / "out")
    assert [row["index"] for row in summary["images"]] == ["im0_index.png", "im1_index.png"]
    assert [row["file"] for row in summary["failed"]] == [str(broken), str(absent)]


def test_inputs_of_the_same_name_do_not_overwrite_each_other(workdir, source, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.png").write_bytes((source / "images" / "im0.png").read_bytes())
    summary = semiseg_jax.predict(workdir, [tmp_path / "a", tmp_path / "b"], output=tmp_path / "out")
    assert [row["index"] for row in summary["images"]] == ["same_index.png", "same-2_index.png"]


def test_sub_folders_of_a_folder_are_kept(workdir, source, tmp_path):
    for folder in ("day/1", "night"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "same.png").write_bytes((source / "images" / "im0.png").read_bytes())
    summary = semiseg_jax.predict(workdir, tmp_path / "in", output=tmp_path / "out", write="index")
    assert [row["index"] for row in summary["images"]] == ["day/1/same_index.png", "night/same_index.png"]
    assert (tmp_path / "out" / "day" / "1" / "same_index.png").is_file()


def test_predictions_of_other_images_in_the_same_folder_are_warned_of(workdir, source, tmp_path, caplog):
    first, second = (source / "images" / f"im{i}.png" for i in (0, 1))
    semiseg_jax.predict(workdir, [first], output=tmp_path)
    semiseg_jax.predict(workdir, [first, second], output=tmp_path)
    assert "lists" not in caplog.text
    semiseg_jax.predict(workdir, [second], output=tmp_path)
    assert f"lists 1 other images, such as {first}" in caplog.text
    assert (tmp_path / "im0_index.png").exists()


def test_nothing_found_is_an_error(workdir, tmp_path):
    with pytest.raises(ValueError, match="no image found"):
        semiseg_jax.predict(workdir, [tmp_path])
    with pytest.raises(ValueError, match="none of the images is there"):
        semiseg_jax.predict(workdir, [tmp_path / "absent"], output=tmp_path)
    assert not (tmp_path / "predictions.json").exists()


def test_exported_outlines_are_the_predicted_label_maps(workdir, source, tmp_path):
    semiseg_jax.predict(workdir, output=tmp_path, write="index")
    semiseg_jax.export_labels("labelme", workdir, output=tmp_path / "out", tolerance=0, min_area=0)
    for name in ("im4", "im5"):
        drawn = np.zeros((40, 48), np.uint8)
        for shape in json.loads((tmp_path / "out" / f"{name}.json").read_text())["shapes"]:
            drawn[fill([np.array(shape["points"])[:, ::-1]], drawn.shape)] = FolderMaker.classes.index(shape["label"])
        np.testing.assert_array_equal(drawn, np.asarray(Image.open(tmp_path / f"{name}_index.png")))


def test_without_inputs_the_evaluation_split_is_predicted(workdir, tmp_path):
    summary = semiseg_jax.predict(workdir, output=tmp_path, limit=1)
    assert [row["file"] for row in summary["images"]] == ["im4"]


def test_one_device_and_two_predict_the_same(workdir, source, monkeypatch):
    images = [decode_image(path.read_bytes()) for path in sorted((source / "images").iterdir())]
    both = list(semiseg_jax.load(workdir).predictor()(iter(images)))
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    one = list(semiseg_jax.load(workdir).predictor()(iter(images)))
    for a, b in zip(one, both, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("checkpoint", "error", "message"),
    [("7", CheckpointError, "no checkpoint '7'"), ("latest", CheckpointError, "there are: best, last")],
)
def test_unknown_checkpoint_lists_those_that_exist(workdir, checkpoint, error, message):
    with pytest.raises(error, match=message):
        semiseg_jax.evaluate(workdir, checkpoint=checkpoint)


def test_a_folder_that_is_no_workdir_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a workdir of `semiseg train`"):
        semiseg_jax.predict(tmp_path, ["x.png"])


def test_evaluation_on_data_of_other_classes_is_refused(workdir, data_dir, tmp_path):
    other = FolderMaker(tmp_path / "other")
    other.classes = ("background", "square")
    config = read_config(workdir)
    config.data.path = str(other())
    with pytest.raises(ValueError, match="the model knows"):
        semiseg_jax.evaluate(workdir, config=config)


def test_evaluation_on_other_data_writes_another_file(workdir, tmp_path):
    config = read_config(workdir)
    config.data.path = str(FolderMaker(tmp_path / "elsewhere")())
    semiseg_jax.evaluate(workdir, config=config)
    assert (workdir / "evaluation_val_elsewhere.json").exists()


def test_checkpoints_and_options_of_post_processing_have_files_of_their_own():
    own, other = default_config(), default_config()
    other.eval.post.update({"name": "mrf", "beta": 2.5})
    own, other = settings(own), settings(other)
    assert _file_name("val", "last", own, own) == "evaluation_val_checkpoint_last.json"
    assert _file_name("val", "best", other, own) == "evaluation_val_mrf_beta_2.5.json"


def test_a_set_of_another_name_and_one_with_a_config_have_a_file_of_their_own():
    own, other = default_config(), default_config()
    own.data.name, other.data.name = "tfds:cityscapes", "tfds:coco/2017_panoptic"
    own, other = settings(own), settings(other)
    assert _file_name("validation", "best", own, own) == "evaluation_validation.json"
    assert _file_name("validation", "best", other, own) == "evaluation_validation_tfds:coco_2017_panoptic.json"


def test_the_same_data_by_a_relative_path_is_not_other_data(workdir, source, monkeypatch):
    config = read_config(workdir)
    monkeypatch.chdir(source.parent)
    config.data.path = source.name
    (workdir / "evaluation_val.json").unlink(missing_ok=True)
    semiseg_jax.evaluate(workdir, config=config)
    assert (workdir / "evaluation_val.json").exists()


def test_a_split_without_masks_cannot_be_evaluated(workdir, source, tmp_path):
    config = read_config(workdir)
    config.data.path = str(FolderMaker(tmp_path / "unlabelled")(masks=False))
    with pytest.raises(ValueError, match=r"folder has no split val, validation or test with masks .*: train, val"):
        semiseg_jax.evaluate(workdir, config=config)


def test_prepare_counts_what_there_is(data_dir, tmp_path, capsys):
    config = default_config()
    config.data.update({"name": "folder", "data_dir": data_dir})
    config.data.path = str(FolderMaker(tmp_path / "mixed")(scribbles=True, tags=True))
    counts = semiseg_jax.prepare(config)
    assert counts == {
        "train": {"dense": 4, "scribble": 4, "tags": 4},
        "val": {"dense": 2, "scribble": 2, "tags": 2},
    }
    assert "train: 4 images; labels: 4 dense, 4 scribble, 4 tags" in capsys.readouterr().out


def test_inspect_draws_a_batch_of_every_kind(data_dir, tmp_path):
    config = default_config()
    root = FolderMaker(tmp_path / "all")(scribbles=True, points=True, boxes=True, tags=True)
    config.data.update({"name": "folder", "data_dir": data_dir, "path": str(root)})
    config.data.quota = ConfigDict({"dense": 1, "scribble": 1, "points": 1, "box": 1, "tags": 1})
    config.augment.crop = (32, 32)
    picture = Image.open(semiseg_jax.inspect(config, tmp_path / "batch.png"))
    assert picture.size[1] > 5 * 160


def test_a_folder_is_inspected_with_every_kind_that_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "built"))
    root = FolderMaker(tmp_path / "all")(scribbles=True, tags=True)
    (root / "masks" / "im0.png").unlink()
    config = config_of(root)
    assert config.data.quota.to_dict() == {"dense": 2, "scribble": 2, "tags": 2}


def test_a_single_path_is_one_input(workdir, source, tmp_path):
    summary = semiseg_jax.predict(workdir, str(source / "images" / "im0.png"), output=tmp_path)
    assert [row["index"] for row in summary["images"]] == ["im0_index.png"]


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), "im0.png"])
def test_a_predictor_says_what_it_takes(workdir, image):
    with pytest.raises(TypeError, match=r"takes a stream of uint8 arrays \[H,W,3\]"):
        next(semiseg_jax.load(workdir).predictor()([image]))


def test_the_canvas_does_not_change_the_prediction_of_a_small_image(workdir, source):
    image = decode_image((source / "images" / "im0.png").read_bytes())
    model = semiseg_jax.load(workdir)
    predictions = []
    for canvas in ((64, 64), (512, 512)):
        options = dataclasses.replace(model.predictor().options, canvas=canvas)
        predictor = Predictor(model.method.predict, model.variables, options, 3)
        predictions.append(next(predictor([image])).argmax(-1))
    assert np.mean(predictions[0] != predictions[1]) < 0.02
