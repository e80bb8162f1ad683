"""Models that leave: what is in the file, what it computes, and what is refused."""

import datetime
import importlib.util
import json
import logging
import os
import zipfile

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from random_weights import fill

import semiseg_jax
from semiseg_jax.cli import main
from semiseg_jax.config import settings
from semiseg_jax.data.records import DatasetInfo
from semiseg_jax.exports import stablehlo
from semiseg_jax.exports.card import GUARANTEE, age_warning, stamped
from semiseg_jax.methods import make_method
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.export import ALLOWED, save

ONNX_PYTHON = os.environ.get("SEMISEG_ONNX_PYTHON", "")
CLASSES = ("background", "square", "other")
CANVAS = (64, 96)
SIZES = [(64, 96), (30, 41), (100, 170)]  # fits, smaller, larger and so shrunk
NETWORKS = {
    "unet": {"name": "unet", "widths": (8, 8)},
    "deeplab_mobile": {"name": "deeplab_mobile", "channels": 16},
    "deeplab_v3plus": {"name": "deeplab_v3plus", "backbone": "resnet50", "channels": 16},
}


def random_model(tiny_config, network="unet", **evaluation):
    """A network with random weights, as if it were trained."""
    tiny_config.model = ConfigDict(NETWORKS[network])
    tiny_config.eval.update(evaluation)
    options = settings(tiny_config)
    method = make_method(options, len(CLASSES))
    variables, flat = fill(method.model, np.zeros((1, 32, 32, 3), np.float32))
    flat["params/classifier/kernel"] *= 5  # predictions that are sure of something
    info = DatasetInfo("random", CLASSES, ((0, 0, 0), (255, 0, 0), (0, 0, 255)), 0, {})
    return workdirs.Trained(options, method, variables, info, CANVAS, 7)


def noise(size):
    return np.random.default_rng(size[0]).integers(0, 256, (*size, 3)).astype(np.uint8)


def needs_serialisation():
    pytest.importorskip("flatbuffers", reason="jax.export writes files with flatbuffers: pip install flatbuffers")


def test_an_export_older_than_its_guarantee_says_so():
    card = stamped({"classes": CLASSES}, stablehlo.PROMISE)
    today = datetime.date.fromisoformat(card["date"])
    assert age_warning(card, "mine.semiseg", today + GUARANTEE) == ""
    warning = age_warning(card, "mine.semiseg", today + GUARANTEE + datetime.timedelta(days=1))
    assert "mine.semiseg" in warning
    assert card["versions"]["jax"] in warning
    assert "tried all the same" in warning


def test_an_onnx_file_has_no_date_at_which_it_ends():
    card = stamped({}, "")
    assert "good_until" not in card
    assert age_warning(card, "mine.onnx", datetime.date(2999, 1, 1)) == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--output=x.semiseg", "--format=torch"], "stablehlo, onnx"),
        ([], "--output is missing"),
        (["--output=x.semiseg", "--size=64x64"], "of --format=onnx"),
        (["--output=x.onnx", "--python=no_such_python"], "pip install jax2onnx"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_model_is_read(flags, words, tiny_config, tmp_path, capsys):
    (tmp_path / "config.json").write_text(tiny_config.to_json())
    assert main(["export", f"--workdir={tmp_path}", *flags]) == 1
    assert words in capsys.readouterr().err


def test_a_folder_that_is_no_workdir_is_refused(tmp_path, capsys):
    assert main(["export", f"--workdir={tmp_path}", "--output=x.semiseg"]) == 1
    assert "not a workdir" in capsys.readouterr().err


def test_sliding_windows_are_refused(tiny_config, tmp_path):
    tiny_config.eval.mode = "slide"
    model = workdirs.Trained(settings(tiny_config), None, {}, DatasetInfo("none", CLASSES, (), 0, {}), CANVAS, 0)
    with pytest.raises(stablehlo.ExportError, match=r"eval\.mode=whole"):
        save(model, tmp_path / "x.semiseg", {})


@pytest.mark.parametrize("content", [b"nothing", None])
def test_a_file_that_is_no_export_is_named(content, tmp_path, capsys):
    path = tmp_path / "other.zip"
    if content:
        path.write_bytes(content)
    assert main(["predict", f"--model={path}", "photos"]) == 1
    assert str(path) in capsys.readouterr().err


def test_a_model_and_a_workdir_are_not_both_taken(tmp_path):
    with pytest.raises(ValueError, match="not both"):
        semiseg_jax.predict(tmp_path, exported=tmp_path / "x.semiseg")


@pytest.mark.heavy
@pytest.mark.parametrize("network", NETWORKS)
def test_an_export_predicts_as_its_run_at_three_sizes(network, tiny_config, tmp_path):
    needs_serialisation()
    model = random_model(tiny_config, network, flip=network == "unet")
    save(model, tmp_path / "x.semiseg", {}, compare=False)
    saved = stablehlo.read(tmp_path / "x.semiseg")
    images = [noise(size) for size in SIZES]
    run, program = list(model.predictor()(images)), jax.jit(saved.program.call)
    for image, expected in zip(images, run, strict=True):
        found = program(saved.weights, image[None])
        np.testing.assert_allclose(found["probabilities"][0], expected, atol=1e-5)
        np.testing.assert_array_equal(found["labels"][0], found["probabilities"][0].argmax(-1))
    assert np.ptp(run[0]) > 0.1  # the comparison is not one of constants


@pytest.mark.heavy
def test_a_run_is_exported_with_its_card_and_predicts_the_same_files_without_the_run(
    tiny_config, tmp_path, capsys, caplog
):
    needs_serialisation()
    tiny_config.ema = 0.5
    run, file, photos = tmp_path / "run", tmp_path / "mine.semiseg", tmp_path / "photos"
    semiseg_jax.train(tiny_config, run)
    semiseg_jax.evaluate(run)
    photos.mkdir()
    for number, size in enumerate(SIZES):
        cv2.imwrite(str(photos / f"{number}.png"), noise(size))
    assert main(["export", f"--workdir={run}", f"--output={file}", "--licence=CC-BY-4.0"]) == 0
    assert "images of any size" in capsys.readouterr().out
    with zipfile.ZipFile(file) as parts:
        card = json.loads(parts.read("card.json"))
    assert (card["licence"], card["labels"]["images"].keys()) == ("CC-BY-4.0", {"dense", "scribble"})
    assert 0 <= next(iter(card["scores"].values()))["miou"] <= 1
    assert len(card["config_sha256"]) == 64
    for source, where in ((f"--workdir={run}", "of_run"), (f"--model={file}", "of_file")):
        assert main(["predict", source, str(photos), f"--output={tmp_path / where}"]) == 0
    written = sorted(path.relative_to(tmp_path / "of_run") for path in (tmp_path / "of_run").rglob("*.*"))
    assert len(written) == 1 + 3 * len(SIZES)
    for name in written:
        assert (tmp_path / "of_file" / name).read_bytes() == (tmp_path / "of_run" / name).read_bytes(), name
    assert main(["predict", f"--model={file}"]) == 1
    assert "does not know the training data" in capsys.readouterr().err

    card["good_until"] = "2020-01-01"
    saved = stablehlo.read(file)
    with zipfile.ZipFile(file) as parts:
        programs = {name: parts.read(name) for name in ("network.bin", "program.bin")}
    stablehlo.write(file, card, saved.weights, programs)
    with caplog.at_level(logging.WARNING, logger="semiseg_jax"):
        logging.getLogger("semiseg_jax").propagate = True
        stablehlo.read(file)
    assert "2020-01-01" in caplog.text


@pytest.mark.heavy
@pytest.mark.skipif(
    not ONNX_PYTHON and not (importlib.util.find_spec("jax2onnx") and importlib.util.find_spec("onnxruntime")),
    reason="jax2onnx is kept in an environment of its own: SEMISEG_ONNX_PYTHON names its interpreter",
)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_onnx_file_predicts_as_its_run(network, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(ALLOWED, "float32", 1e-4)  # a file that is further off is refused and removed
    model = random_model(tiny_config, network)
    for height, width in SIZES:
        file = tmp_path / f"{height}x{width}.onnx"
        assert save(model, file, {}, format="onnx", size=f"{height}x{width}", python=ONNX_PYTHON)["size"] == (
            height,
            width,
        )
        assert file.stat().st_size
