"""`semiseg export-labels` with a model that is a threshold."""

import csv
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import FolderMaker
from PIL import Image

import semiseg_jax
from semiseg_jax import cli
from semiseg_jax.config import default_config, to_json
from semiseg_jax.data.fields import Data
from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.engine import mirror
from semiseg_jax.engine.inference import Prediction
from semiseg_jax.exchange.drawings import fill
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.export_labels import WRITERS

INFO = DatasetInfo("folder", ("background", "square", "other"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), 0, {})


@pytest.fixture
def source(tmp_path):
    return FolderMaker(tmp_path / "source")()


@pytest.fixture
def run(tmp_path, source, monkeypatch):
    """Finds what is bright, and is the surer the further down it lies."""

    def predictions(images, *, probabilities, certainty):
        for image in images:
            labels = (image[..., 0] > 128).astype(np.uint8)
            sure = image[..., 0] if certainty else None
            yield Prediction(labels, 0.5 + np.nonzero(labels)[0].min() / 100, certainty=sure)

    config = types.SimpleNamespace(data=Data(name="folder", path=str(source), data_dir=str(tmp_path / "built")))
    predictor = types.SimpleNamespace(predictions=predictions)
    model = types.SimpleNamespace(config=config, info=INFO, step=7, predictor=lambda: predictor)
    monkeypatch.setattr(workdirs, "load", lambda *_, **__: model)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(default_config()))
    return folder


def pixels_of(annotation, size=(40, 48)):
    return fill([np.reshape(annotation["segmentation"][0], (-1, 2))[:, ::-1]], size)


def test_predictions_become_outlines_the_most_uncertain_image_first(run, source, tmp_path, capsys):
    summary = semiseg_jax.export_labels("coco", run, source / "images", output=tmp_path / "out", tolerance=0)
    coco = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [row["file_name"] for row in coco["images"]] == [f"im{i}.png" for i in range(6)]
    assert [row["mean_confidence"] for row in coco["images"]] == [0.6, 0.61, 0.62, 0.63, 0.64, 0.65]
    for i, annotation in enumerate(coco["annotations"]):
        mask = np.asarray(Image.open(source / "masks" / f"im{i}.png")) == 1
        np.testing.assert_array_equal(pixels_of(annotation), mask)
    with (tmp_path / "out" / "order.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"image": "im0.png", "mean_confidence": "0.60000", "regions": "1"}
    assert len(rows) == len(summary["images"]) == 6
    printed = capsys.readouterr().out
    assert "6 images with 6 regions" in printed
    assert f"semiseg import-labels coco CORRECTED.json DIR --images={source}/images" in printed


def test_files_beside_the_current_folder_stay_as_they_are(run, source, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    mine = source / "images" / "im0.json"
    mine.write_text("mine")
    shutil.copy(source / "images" / "im1.png", "other.png")
    semiseg_jax.export_labels("labelme", run, ["../source/images", "other.png"], output="out")
    assert mine.read_text() == "mine"
    assert len(list(Path("out").rglob("*.json"))) == 7


@pytest.mark.parametrize("format", ["coco", "labelme", "label_studio"])
def test_without_inputs_the_files_of_the_evaluation_split_are_exported(run, source, format):
    summary = semiseg_jax.export_labels(format, run)
    assert [row["file"] for row in summary["images"]] == [f"{source}/images/im{i}.png" for i in (4, 5)]
    assert (run / f"labels_{format}" / "order.csv").exists()


def test_small_regions_are_counted_and_unreadable_files_listed(run, source, tmp_path, capsys):
    image = np.zeros((40, 48, 3), np.uint8)
    image[3:5, 3:5], image[20:30, 20:30] = 255, 255
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    summary = semiseg_jax.export_labels("coco", run, files, output=tmp_path / "out", min_area=5)
    assert summary["dropped"] == 1
    assert [row["file"] for row in summary["failed"]] == [str(tmp_path / "b.png")]
    printed = capsys.readouterr().out
    assert "1 images with 1 regions" in printed
    assert "1 files failed" in printed
    assert "1 regions below 5 pixels became part of what is around them" in printed


def test_what_people_corrected_is_not_overwritten(run, source):
    semiseg_jax.export_labels("labelme", run, source / "images")
    with pytest.raises(ValueError, match="labels_labelme is there already and not empty; nothing is overwritten"):
        semiseg_jax.export_labels("labelme", run, source / "images")


def test_images_that_are_no_files_have_to_be_named(run, few_shapes, data_dir):
    workdirs.load("").config.data = Data(name="shapes", data_dir=data_dir)
    with pytest.raises(ValueError, match="the images of shapes are no files of their own"):
        semiseg_jax.export_labels("coco", run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "cocoa"}, "unknown format 'cocoa'; known formats: coco, labelme, label_studio"),
        ({"tolerance": -1.0}, "tolerance is -1 and min-area 64, but both must be 0 or more"),
        ({"tolerance": float("nan")}, "both must be 0 or more"),
        ({"min_area": -1}, "both must be 0 or more"),
        ({"limit": -1}, "limit is -1 but"),
    ],
)
def test_options_that_cannot_be_are_refused(run, options, message):
    with pytest.raises(ValueError, match=message):
        semiseg_jax.export_labels(workdir=run, **{"format": "coco"} | options)


def test_the_command_passes_its_flags(run, source, tmp_path, capsys):
    args = ["label_studio", str(source / "images" / "im0.png"), f"--workdir={run}", f"--output={tmp_path / 'out'}"]
    args += ["--tolerance=0", "--min-area=3", "--image-prefix=http://here/"]
    assert cli.main(["export-labels", *args]) == 0
    (task,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert task["data"]["image"] == "http://here/im0.png"
    assert "outlines are exact" in capsys.readouterr().out
    assert cli.main(["export-labels", f"--workdir={run}"]) == 1
    assert "a format, please" in capsys.readouterr().err


def test_runs_in_a_store_know_which_folders_are_exported():
    assert {f"labels_{name}/" for name in WRITERS} < set(mirror._OF_READERS)
