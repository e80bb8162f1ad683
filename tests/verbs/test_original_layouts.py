"""Two steps of every method in its small setting, on miniature trees of Pascal VOC and Cityscapes."""

import more_trees
import pytest
from method_steps import TinyBackbone
from runs import logged
from trees import cityscapes_tree, voc_tree

from semiseg_jax import load_config
from semiseg_jax.models import backbones
from semiseg_jax.verbs.evaluate import evaluate
from semiseg_jax.verbs.predict import predict
from semiseg_jax.verbs.train import train

pytestmark = pytest.mark.heavy

VOC = [
    ("supervised", "labels=dense+scribble+points"),
    ("total_variation", "labels=partial,rounds=2"),
    ("gated_crf", "labels=points"),
    ("label_uncertainty", "masks=3"),
    ("adversarial", "labelled=3"),
    ("mean_teacher", "labelled=3"),
    ("unimatch", "labelled=3"),
    ("transfer", "strong=cat+dog"),
]
CITYSCAPES = [
    ("supervised", "labels=dense"),
    ("total_variation", "labels=partial"),
    ("gated_crf", "labels=scribble"),  # drawn from masks
    ("label_uncertainty", "masks=3"),
    ("adversarial", "labelled=3"),
    ("mean_teacher", "labelled=3"),
    ("unimatch", "labelled=3"),
    ("transfer", "strong=vehicle"),
]


@pytest.fixture(autouse=True)
def _tiny_classifier(monkeypatch):
    monkeypatch.setattr(backbones, "make_backbone", lambda name, /, **options: TinyBackbone(name="backbone"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    return {"voc": voc_tree(root / "VOCdevkit"), "cityscapes": cityscapes_tree(root / "cityscapes")}


def small(method, arguments, dataset, path, data_dir):
    """The small setting with a smaller network."""
    batch = 3 if arguments.count("+") == 2 else 2
    spec = f"{method}:dataset={dataset},path={path},crop=32,batch={batch},steps=2,{arguments}"
    config = load_config(spec)
    config.data.data_dir, config.data.threads, config.devices = data_dir, 1, 1
    config.model.widths = (8, 8)
    config.log.tensorboard, config.log.panel_rows, config.eval.batch_size = False, 0, 2
    if method == "transfer":
        config.transfer.classifier_crop, config.transfer.cam_scales = (32, 32), (1.0,)
        config.data.options = {"classes": "vehicles+persons"} if dataset == "cityscapes" else {}
    if method == "gated_crf" and dataset == "cityscapes":
        config.data.simulate = {"scribble": {}}
    return config


@pytest.mark.parametrize(
    ("dataset", "method", "arguments"),
    [("voc", *case) for case in VOC] + [("cityscapes", *case) for case in CITYSCAPES],
)
def test_a_method_trains_on_the_tree_as_it_is_published(trees, tmp_path, data_dir, dataset, method, arguments):
    if "rounds" in arguments:
        pytest.importorskip("maxflow")
    train(small(method, arguments, dataset, trees[dataset], data_dir), tmp_path)
    assert max(logged(tmp_path, "train")) == 2
    assert 0 <= evaluate(tmp_path)["miou"] <= 1


def test_masks_of_coco_and_tags_of_voc_train_together(trees, tmp_path, data_dir):
    more_trees.coco_instances(tmp_path / "COCO")
    paths = f"{trees['voc']}+{tmp_path / 'COCO'}"
    config = small("transfer", "strong=coco:*", "voc+coco", paths, data_dir)
    assert config.data.class_map.coco["airplane"] == "aeroplane"
    config.data.class_map = {}  # the miniature has three categories
    config.data.options = {"coco": {"classes": "things"}}
    train(config, tmp_path / "run")
    found = evaluate(tmp_path / "run")
    assert found["images"] == 2  # those of VOC
    assert len(found["iou"]) == 22  # and a class that only COCO has


def test_own_masks_train_beside_a_folder_of_plain_images(tmp_path, data_dir, make_folder):
    plain = tmp_path / "plain" / "deep"
    plain.mkdir(parents=True)
    for number in range(3):
        more_trees.save_image(plain / f"{number}.jpg", (40, 48))
    config = small("adversarial", "labelled=folder:train", "folder+images", f"{make_folder()}+{plain.parent}", data_dir)
    train(config, tmp_path / "run")
    assert evaluate(tmp_path / "run")["images"] == 2
    assert predict(tmp_path / "run", [plain / "0.jpg"], output=tmp_path / "out")
