"""Weights of other libraries: every tensor arrives in its place, and whatever does not fit is named.

weight_names.json holds names and shapes of the state dicts of torchvision 0.28 and timm 1.0.
"""

import json
import logging
import sys
from pathlib import Path

import flax
import jax
import numpy as np
import pytest
from random_weights import fill
from safetensors.numpy import save_file

from semiseg_jax.models import Classifier, Discriminator, make_model, pretrained
from semiseg_jax.models.pretrained import WeightsError

NAMES = json.loads(Path(__file__).with_name("weight_names.json").read_text())
NETWORKS = {
    "torchvision_resnet18": "resnet18",
    "torchvision_resnet50": "resnet50",
    "torchvision_mobilenet_v2": "mobilenet_v2",
    "timm_mobilenetv2_100": "mobilenet_v2",
}
# Some tensors of each file and where they belong.
PLACES = {
    "torchvision_resnet18": {
        "conv1.weight": "params/backbone/conv1/kernel",
        "bn1.running_var": "batch_stats/backbone/norm1/var",
        "layer2.0.downsample.0.weight": "params/backbone/layer2_0/shortcut/kernel",
        "layer2.0.downsample.1.bias": "params/backbone/layer2_0/shortcut_norm/bias",
        "layer4.1.conv2.weight": "params/backbone/layer4_1/conv2/kernel",
        "fc.weight": "params/classifier/kernel",
    },
    "torchvision_resnet50": {
        "layer3.5.conv3.weight": "params/backbone/layer3_5/conv3/kernel",
        "layer3.5.bn3.weight": "params/backbone/layer3_5/norm3/scale",
    },
    "torchvision_mobilenet_v2": {
        "features.0.0.weight": "params/backbone/stem/kernel",
        "features.1.conv.0.0.weight": "params/backbone/block_01/depthwise/kernel",
        "features.1.conv.1.weight": "params/backbone/block_01/project/kernel",
        "features.17.conv.0.1.running_mean": "batch_stats/backbone/block_17/expand_norm/mean",
        "features.17.conv.1.0.weight": "params/backbone/block_17/depthwise/kernel",
        "features.17.conv.3.bias": "params/backbone/block_17/project_norm/bias",
        "features.18.0.weight": "params/backbone/head/kernel",
        "classifier.1.bias": "params/classifier/bias",
    },
    "timm_mobilenetv2_100": {
        "conv_stem.weight": "params/backbone/stem/kernel",
        "blocks.0.0.conv_pw.weight": "params/backbone/block_01/project/kernel",
        "blocks.2.1.conv_dw.weight": "params/backbone/block_05/depthwise/kernel",
        "blocks.6.0.bn3.running_var": "batch_stats/backbone/block_17/project_norm/var",
        "bn2.weight": "params/backbone/head_norm/scale",
        "classifier.weight": "params/classifier/kernel",
    },
}


def tensors(shapes):
    """Random tensors; variances are positive."""
    random = np.random.default_rng(0)
    found = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: np.abs(x) + 0.5 if name.endswith("running_var") else x for name, x in found.items()}


def classifier(file, **options):
    return Classifier(1000, backbone=NETWORKS[file], **options)


def flat(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name in NETWORKS:
        found[name] = folder / f"{name}.safetensors"
        save_file(tensors(NAMES[name]), found[name])
    return found


@pytest.mark.parametrize("file", NETWORKS)
def test_every_tensor_of_published_files_arrives_in_its_place(files, file):
    loaded = flat(pretrained.load(classifier(file), files[file]))
    named = tensors(NAMES[file])
    assert sum(x.size for x in loaded.values()) == sum(
        x.size for name, x in named.items() if not name.endswith("num_batches_tracked")
    )
    for name, path in PLACES[file].items():
        expected = named[name]
        if expected.ndim > 1:
            expected = np.transpose(expected, (2, 3, 1, 0) if expected.ndim == 4 else (1, 0))
        np.testing.assert_array_equal(loaded[path], expected, err_msg=name)


def test_what_was_loaded_is_logged_with_a_checksum(files, caplog):
    with caplog.at_level(logging.INFO, logger="semiseg_jax"):
        logging.getLogger("semiseg_jax").propagate = True
        pretrained.load(classifier("torchvision_resnet18"), files["torchvision_resnet18"])
    expected = pretrained.read(files["torchvision_resnet18"]).checksum
    assert "loaded 11,699,112 numbers in 102 tensors from torchvision_resnet18.safetensors" in caplog.text
    assert f"sha256 {expected[:16]}" in caplog.text


def test_a_checksum_changes_with_every_value_and_name():
    one = {"a": np.zeros((2, 2)), "b": np.ones(3)}
    changed = [{"a": np.zeros((2, 2)), "b": np.array([1, 1, 2])}, {"a": np.zeros(4), "b": np.ones(3)}, {"a": one["a"]}]
    assert len({pretrained.checksum(x) for x in (one, *changed)}) == 4


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        (["layer1.0.conv1.weight"], {}, "not in the file: params/backbone/layer1_0/conv1/kernel$"),
        ([], {"layer1.0.extra.weight": (3,)}, r"unknown tensors layer1\.0\.extra\.weight$"),
        (
            [],
            {"layer1.5.conv1.weight": (64, 64, 3, 3)},
            "in the file but not in the network: params/backbone/layer1_5/conv1/kernel$",
        ),
        (
            [],
            {"layer1.0.conv1.weight": (64, 64, 1, 1)},
            r"shapes differ: .*/layer1_0/conv1/kernel is \(1, 1, 64, 64\) but must be \(3, 3, 64, 64\)$",
        ),
    ],
)
@pytest.mark.parametrize("new_classifier", [False, True])
def test_missing_and_unknown_and_reshaped_tensors_are_named(tmp_path, drop, add, message, new_classifier):
    file = tmp_path / "edited.safetensors"
    named = {name: x for name, x in tensors(NAMES["torchvision_resnet18"]).items() if name not in drop}
    save_file(named | tensors(add), file)
    with pytest.raises(WeightsError, match=message):
        pretrained.load(classifier("torchvision_resnet18"), file, new_classifier=new_classifier)


def test_another_number_of_classes_needs_to_be_asked_for(files, caplog):
    file = "torchvision_resnet18"
    network = Classifier(7, backbone="resnet18")
    with pytest.raises(WeightsError, match=r"(?s)kernel is \(512, 1000\) but must be \(512, 7\).*new_classifier=True"):
        pretrained.load(network, files[file])
    with caplog.at_level(logging.INFO, logger="semiseg_jax"):
        logging.getLogger("semiseg_jax").propagate = True
        loaded = flat(pretrained.load(network, files[file], new_classifier=True))
    assert "initialised anew: classifier" in caplog.text
    assert loaded["params/classifier/kernel"].shape == (512, 7)
    np.testing.assert_array_equal(loaded["batch_stats/backbone/norm1/var"], tensors(NAMES[file])["bn1.running_var"])


def test_variables_that_exist_keep_their_head(files):
    network = make_model("deeplab_v3plus", 3, backbone="resnet18", channels=8)
    variables, _ = fill(network, np.zeros((1, 64, 64, 3), np.float32))
    loaded = pretrained.load(network, files["torchvision_resnet18"], new_classifier=True, variables=variables)
    np.testing.assert_array_equal(loaded["params"]["aspp_1"]["kernel"], variables["params"]["aspp_1"]["kernel"])
    assert not np.array_equal(
        loaded["params"]["backbone"]["conv1"]["kernel"], variables["params"]["backbone"]["conv1"]["kernel"]
    )


@pytest.mark.heavy
def test_norms_fold_into_convolutions_and_back(files, tmp_path):
    file, image = "torchvision_mobilenet_v2", np.random.default_rng(0).normal(size=(1, 40, 40, 3)).astype(np.float32)
    small = {name: 0.05 * x if x.ndim == 4 else x for name, x in tensors(NAMES[file]).items()}
    save_file(small, tmp_path / "small.safetensors")
    stored, folded = (classifier(file, norm=norm) for norm in ("batch", "none"))
    expected = jax.jit(stored.apply)(pretrained.load(stored, tmp_path / "small.safetensors"), image)
    variables = pretrained.load(folded, tmp_path / "small.safetensors")
    np.testing.assert_allclose(
        jax.jit(folded.apply)(variables, image), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    pretrained.save(tmp_path / "folded.npz", pretrained.of_variables(variables, layout="torchvision"))
    frozen = classifier(file, norm="frozen")
    again = pretrained.load(frozen, tmp_path / "folded.npz")
    np.testing.assert_allclose(
        jax.jit(frozen.apply)(again, image), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    for norm in ("batch", "affine_frozen", "group"):
        with pytest.raises(
            WeightsError, match=f"folded into the convolutions, which suits .*none or frozen, not {norm}"
        ):
            pretrained.load(classifier(file, norm=norm), tmp_path / "folded.npz")


def test_layouts_and_norms_that_do_not_fit_are_refused(files):
    with pytest.raises(WeightsError, match=r"is for layout torchvision, .* has layout 'caffe': set layout=torchvision"):
        pretrained.load(make_model("deeplab_v2", 3, backbone="resnet18"), files["torchvision_resnet18"])
    with pytest.raises(WeightsError, match=r"holds batch norms, but the network has model\.norm=group"):
        pretrained.load(classifier("torchvision_resnet18", norm="group"), files["torchvision_resnet18"])


def deeplab_v2_tensors(bookkeeping, classes=21):
    """Names and shapes of the published DeepLab-v2: 528 entries, or 632 with the counters of newer PyTorch."""
    shapes: dict = {"conv1.weight": (64, 3, 7, 7)}
    norms = {"bn1": 64}
    inputs = 64
    for layer, (blocks, width) in enumerate(((3, 64), (4, 128), (23, 256), (3, 512)), start=1):
        for block in range(blocks):
            at = f"layer{layer}.{block}"
            shapes[f"{at}.conv1.weight"] = (width, inputs, 1, 1)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{at}.conv3.weight"] = (4 * width, width, 1, 1)
            norms |= {f"{at}.bn1": width, f"{at}.bn2": width, f"{at}.bn3": 4 * width}
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, inputs, 1, 1)
                norms[f"{at}.downsample.1"] = 4 * width
            inputs = 4 * width
    for norm, channels in norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (channels,)
        if bookkeeping:
            shapes[f"{norm}.num_batches_tracked"] = ()
    for branch in range(4):
        shapes[f"layer5.conv2d_list.{branch}.weight"] = (classes, 2048, 3, 3)
        shapes[f"layer5.conv2d_list.{branch}.bias"] = (classes,)
    return {name: np.full(shape, index, np.float32) for index, (name, shape) in enumerate(shapes.items())}


@pytest.mark.heavy
def test_deeplab_v2_of_the_adversarial_method_loads(tmp_path, caplog):
    assert len(deeplab_v2_tensors(bookkeeping=False)) == 528
    named = deeplab_v2_tensors(bookkeeping=True)
    assert len(named) == 632
    np.savez(tmp_path / "deeplab.npz", **{f"module.{name}": x for name, x in named.items()})
    loaded = pretrained.load(make_model("deeplab_v2", 21), tmp_path / "deeplab.npz")
    assert sum(x.size for x in jax.tree.leaves(loaded["params"])) == 44_048_532
    assert float(loaded["params"]["aspp_3"]["bias"][0]) == named["layer5.conv2d_list.3.bias"][0]
    with caplog.at_level(logging.INFO, logger="semiseg_jax"):
        logging.getLogger("semiseg_jax").propagate = True
        released = pretrained.load(make_model("deeplab_v2", 21, aspp_branches=2), tmp_path / "deeplab.npz")
    assert "never ran params/aspp_2/bias" in caplog.text
    assert "aspp_2" not in released["params"]
    with pytest.raises(WeightsError, match="in the file but not in the network: params/aspp_3/bias"):
        pretrained.load(make_model("deeplab_v2", 21, aspp_branches=3), tmp_path / "deeplab.npz")
    with pytest.raises(WeightsError, match=r"aspp_0/kernel is \(3, 3, 2048, 21\) but must be .*, 7\)"):
        pretrained.load(make_model("deeplab_v2", 7), tmp_path / "deeplab.npz")


def test_our_own_files_come_back_as_they_were(tmp_path):
    network = make_model("unet", 3, widths=(4, 8))
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    pretrained.save(tmp_path / "sub" / "unet.npz", pretrained.of_variables(variables))
    loaded = pretrained.load(network, tmp_path / "sub" / "unet.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))
    with pytest.raises(ValueError, match="exists already"):
        pretrained.save(tmp_path / "sub" / "unet.npz", pretrained.of_variables(variables))
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        pretrained.save(tmp_path / "unet.pth", pretrained.of_variables(variables))
    other = make_model("unet", 5, widths=(4, 8))
    with pytest.raises(WeightsError, match="new_classifier=True"):
        pretrained.load(other, tmp_path / "sub" / "unet.npz")
    fresh = pretrained.load(other, tmp_path / "sub" / "unet.npz", new_classifier=True)
    np.testing.assert_array_equal(fresh["params"]["stem"]["kernel"], variables["params"]["stem"]["kernel"])


def test_a_discriminator_comes_back_too(tmp_path):
    network, x = Discriminator(features=4), np.zeros((1, 32, 32, 3), np.float32)
    variables = network.init(jax.random.key(0), x)
    pretrained.save(tmp_path / "d.npz", pretrained.of_variables(variables))
    loaded = pretrained.load(network, tmp_path / "d.npz", variables=network.init(jax.random.key(1), x))
    jax.tree.map(np.testing.assert_array_equal, loaded, dict(variables))


def test_a_changed_file_is_noticed(tmp_path):
    network = make_model("unet", 3, widths=(4,))
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    pretrained.save(tmp_path / "a.npz", pretrained.of_variables(variables))
    content = dict(np.load(tmp_path / "a.npz"))
    content["params/classifier/bias"] = content["params/classifier/bias"] + 1
    np.savez(tmp_path / "b.npz", **content)
    with pytest.raises(WeightsError, match="checksum differs"):
        pretrained.load(network, tmp_path / "b.npz")


def test_files_that_cannot_be_read_say_so(tmp_path, files):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pretrained.read(tmp_path / "absent.npz")
    truncated = tmp_path / "short.safetensors"
    truncated.write_bytes(files["torchvision_resnet18"].read_bytes()[:10_000])
    with pytest.raises(WeightsError, match=r"short\.safetensors cannot be read as \.safetensors"):
        pretrained.read(truncated)
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(WeightsError, match=r"bad\.npz cannot be read as \.npz"):
        pretrained.read(tmp_path / "bad.npz")
    (tmp_path / "weights.h5").touch()
    with pytest.raises(WeightsError, match=r"unknown kind of file; known: \.safetensors \.pth"):
        pretrained.read(tmp_path / "weights.h5")
    np.savez(tmp_path / "vgg.npz", **{"features.0.weight": np.zeros(3)})
    with pytest.raises(WeightsError, match=r"unknown network with tensors features\.0\.weight; known: .*torchvision"):
        pretrained.read(tmp_path / "vgg.npz")


def test_pth_without_torch_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").touch()
    with pytest.raises(WeightsError, match=r"needs the package torch: .*semiseg convert-weights a\.pth a\.npz"):
        pretrained.read(tmp_path / "a.pth")


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_pth_files_load(tmp_path, wrapper):
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(x) for name, x in tensors(NAMES["torchvision_resnet18"]).items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pth")
    loaded = flat(pretrained.load(classifier("torchvision_resnet18"), tmp_path / "a.pth"))
    np.testing.assert_array_equal(loaded["params/backbone/conv1/kernel"], state["conv1.weight"].permute(2, 3, 1, 0))
    torch.save({"args": object}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"b\.pth cannot be read as \.pth"):
        pretrained.read(tmp_path / "b.pth")
