"""Pretrained weights on their way into a run and out of it, and what a network costs."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from runs import saved_arrays

from semiseg_jax import models
from semiseg_jax.cli import main
from semiseg_jax.config import settings, to_json
from semiseg_jax.methods import make_method
from semiseg_jax.models import pretrained
from semiseg_jax.models.pretrained import WeightsError
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.convert_weights import convert_weights
from semiseg_jax.verbs.summary import summary
from semiseg_jax.verbs.train import train


@pytest.fixture
def weights(tiny_config, tmp_path):
    """A file with the weights of the network of `tiny_config`, for 4 classes."""
    options = tiny_config.model.to_dict()
    network = models.make_model(options.pop("name"), 4, **options)
    variables = jax.jit(network.init)(jax.random.key(7), np.zeros((1, 32, 32, 3), np.float32))
    pretrained.save(tmp_path / "weights.npz", pretrained.of_variables(variables))
    return tmp_path / "weights.npz"


def test_training_starts_from_the_weights_and_so_does_its_average(tiny_config, weights):
    tiny_config.pretrained.path, tiny_config.ema = str(weights), 0.9
    stage = make_method(settings(tiny_config), 4).stages()[0]
    fresh = stage.init(jax.random.PRNGKey(0), workdirs.dummy_batch(tiny_config.augment.crop, 4))
    network = stage.start(fresh).networks["segmenter"]
    expected = dict(np.load(weights))
    for params in (network.params, network.ema):
        np.testing.assert_array_equal(params["stem"]["kernel"], expected["params/stem/kernel"])
    assert not np.array_equal(fresh.networks["segmenter"].params["stem"]["kernel"], expected["params/stem/kernel"])
    jax.tree.map(lambda x, y: x.shape == y.shape, fresh, stage.start(fresh))


@pytest.mark.heavy
def test_a_run_starts_from_the_file_until_it_has_a_checkpoint_and_then_goes_on_without(tiny_config, weights, tmp_path):
    tiny_config.pretrained.path, tiny_config.pretrained.new_classifier = str(weights), True
    tiny_config.optimizer.learning_rate = 1e-9
    tiny_config.optimizer.weight_decay = 0.0
    workdir = tmp_path / "run"
    # A kill left this of the first checkpoint.
    (workdir / "checkpoints" / "supervised" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    train(tiny_config, workdir)
    arrays = saved_arrays(workdir, tiny_config.steps)
    stem = next(x for name, x in arrays.items() if "params" in name and "'stem'" in name and "kernel" in name)
    np.testing.assert_allclose(stem, np.load(weights)["params/stem/kernel"], atol=1e-6)
    weights.unlink()
    assert train(tiny_config, workdir).step == tiny_config.steps


def test_weights_that_do_not_fit_stop_the_run_before_anything_is_written(tiny_config, weights, tmp_path):
    tiny_config.pretrained.path = str(weights)
    tiny_config.model.widths = (4, 4)
    with pytest.raises(WeightsError, match=r"weights\.npz .* does not fit the network"):
        train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.heavy
def test_a_run_is_exported_and_loaded_again(tiny_config, tmp_path, capsys):
    train(tiny_config, tmp_path / "run")
    assert main(["convert-weights", str(tmp_path / "run"), str(tmp_path / "mine.npz")]) == 0
    assert "sha256" in capsys.readouterr().out
    trained = workdirs.load(tmp_path / "run")
    loaded = pretrained.load(trained.method.model, tmp_path / "mine.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], dict(trained.variables["params"]))
    assert main(["convert-weights", str(tmp_path / "run"), str(tmp_path / "mine.npz")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_layout_can_be_told(weights, tmp_path):
    convert_weights(weights, tmp_path / "caffe.npz", layout="caffe")
    assert pretrained.read(tmp_path / "caffe.npz").layouts == ("caffe",)


def test_summary_prints_a_table_and_the_memory_of_a_step(tiny_config, tmp_path, capsys):
    found = summary(tiny_config, classes=4)
    shown = capsys.readouterr().out
    assert f"{found.parameters:,}" in shown
    assert "2 images of 32x32 on each of " in shown
    assert "GiB on each device" in shown
    (tmp_path / "mine.py").write_text(
        "from semiseg_jax.config import from_json\n"
        f"def get_config():\n    return from_json('''{to_json(ConfigDict(tiny_config.to_dict()))}''')\n"
    )
    assert main(["summary", f"--config={tmp_path / 'mine.py'}", "--classes=21"]) == 0
    assert "multiply-adds" in capsys.readouterr().out
