"""Between two stages: labels are made once, whatever interrupts it; and nothing of a stage stays for the next one."""

import shutil
import signal

import jax
import pytest
import shared_programs
from method_steps import TinyBackbone
from ml_collections import ConfigDict
from runs import logged

from semiseg_jax.config import settings, with_method
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.engine import postprocess
from semiseg_jax.engine.inference import Predictor
from semiseg_jax.methods import make_method
from semiseg_jax.models import backbones, pretrained
from semiseg_jax.models.pretrained import WeightsError
from semiseg_jax.verbs import train as train_verb
from semiseg_jax.verbs import workdir as workdirs
from semiseg_jax.verbs.train import train

pytest.importorskip("maxflow")


@pytest.fixture
def rounds(tiny_config) -> ConfigDict:
    """Two rounds of two steps, with labels of twelve images between them."""
    config = with_method(tiny_config, "total_variation")
    config.data.quota = {"dense": 1, "partial": 1}
    config.data.assign = {"dense": 0.5, "partial": 0.5}
    config.terms.total_variation.weight = 0.1
    config.steps = 2
    config.rounds.update({"number": 2, "steps": 2})
    return config


class Cuts:
    """Counts what is cut; SIGTERM arrives in some of them."""

    def __init__(self, monkeypatch):
        self.count, self.stopping = 0, ()
        monkeypatch.setattr(postprocess, "mrf_labels", self)

    def __call__(self, options, image, probs, given):
        self.count += 1
        if self.count in self.stopping:
            signal.raise_signal(signal.SIGTERM)
        return probs.argmax(-1)


@pytest.fixture
def cuts(monkeypatch) -> Cuts:
    return Cuts(monkeypatch)


def made(workdir) -> dict[str, int]:
    """Label maps, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (workdir / "labels_2").iterdir()}


@pytest.mark.heavy
def test_sigterm_stops_label_making_and_the_same_command_goes_on_with_the_next_image(rounds, tmp_path, cuts):
    cuts.stopping = (3, 5)
    done = []
    for stop in cuts.stopping:
        result = train(rounds, tmp_path, on_step=done.append)
        assert (result.signal, result.step) == (signal.SIGTERM, 2)
        assert cuts.count == stop
        assert len(made(tmp_path)) == stop
        assert done == [1, 2]
    before = made(tmp_path)
    assert train(rounds, tmp_path).step == 2
    after = made(tmp_path)
    assert cuts.count == len(after) == 12
    assert before.items() <= after.items()
    assert sorted(logged(tmp_path, "train", "total_variation_2")) == [2]


@pytest.mark.heavy
def test_labels_of_a_stage_whose_checkpoints_are_gone_are_made_anew(rounds, tmp_path, cuts):
    cuts.stopping = (5,)
    assert train(rounds, tmp_path).preempted
    before = made(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    train(rounds, tmp_path)
    assert cuts.count == 5 + 12
    assert not before.items() & made(tmp_path).items()


def test_a_folder_that_no_run_made_is_left_alone(rounds, tmp_path):
    (tmp_path / "labels_2").mkdir()
    (tmp_path / "labels_2" / "mine.png").touch()
    with pytest.raises(ValueError, match="labels_2 exists, but no run made it; use another --workdir"):
        train(rounds, tmp_path)
    assert list(tmp_path.rglob("*.*")) == [tmp_path / "labels_2" / "mine.png"]


@pytest.mark.heavy
def test_a_finished_run_of_several_stages_is_read_and_not_evaluated_again(rounds, tmp_path, cuts, monkeypatch):
    metrics = train(rounds, tmp_path).metrics
    for name in ("_start", "Scorer"):
        monkeypatch.setattr(train_verb, name, None)
    again = train(rounds, tmp_path)
    assert (again.step, again.signal) == (2, 0)
    assert again.metrics["miou"] == metrics["miou"]
    assert cuts.count == 12


@pytest.mark.heavy
def test_the_next_stage_starts_when_the_state_of_the_one_before_is_gone(rounds, tmp_path, cuts, monkeypatch):
    rounds.model.widths = (11, 11)  # shapes that no other test leaves behind
    monkeypatch.setattr(Predictor, "__init__", shared_programs._init)  # a shared program would keep its parameters
    alive, kept, start = [], [], train_verb._start

    def are_kernels(arrays) -> int:
        return sum(array.shape == (3, 3, 11, 11) for array in arrays)

    def counted(*arguments):
        alive.append(are_kernels(jax.live_arrays()))
        state, step = start(*arguments)
        kept.append(are_kernels(jax.tree.leaves(state.networks["segmenter"].params)))
        assert are_kernels(jax.tree.leaves(state)) == 3 * kept[-1]  # with the moments of the optimiser
        return state, step

    monkeypatch.setattr(train_verb, "_start", counted)
    train(rounds, tmp_path)
    assert alive[0] == 0
    assert alive[1] <= kept[0]  # the parameters that the second stage starts from


def test_weights_of_all_stages_are_checked_before_the_first_one_trains(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))
    config = with_method(tiny_config, "transfer")
    config.data.assign = {}
    config.data.strong_classes = ("disk", "square", "star")
    config.data.quota = {"dense": 1, "tags": 1}
    config.terms.made_labels.weight = 1.0
    config.transfer.classifier_crop = (64, 64)
    classes = open_dataset(settings(config).data).info.num_classes
    classifier = make_method(settings(config), classes).stages()[0]
    batch = workdirs.dummy_batch((64, 64), classes)
    variables = jax.jit(classifier.init)(jax.random.PRNGKey(0), batch).networks["classifier"].variables
    variables = {name: tree for name, tree in variables.items() if tree}
    pretrained.save(tmp_path / "classifier.npz", pretrained.of_variables(variables))
    config.transfer.classifier_weights = config.pretrained.path = str(tmp_path / "classifier.npz")
    with pytest.raises(WeightsError, match="does not fit the network"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    classifier.check()
