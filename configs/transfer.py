"""Masks of some classes, tags of all (Xiao et al., arXiv 1711.06828).

    semiseg train --config=transfer:path=DIR,strong=cat+dog,weights=mnv2.npz,layout=torchvision --workdir=RUN
    semiseg train --config=transfer:setting=paper,dataset=voc,path=VOCdevkit,strong=cat+dog,weights=W.npz --workdir=RUN

Arguments: `strong`, the names of the classes whose masks may be used, joined by +, or a group of those of Pascal VOC
(`voc:first10`, `voc:last10`, or `voc:fold0` to `voc:fold3`: all but that fold of PASCAL-5i); `labels_from` (`l_net`, or
`cam` for the baseline that trains on class activation maps alone); `rounds` (2 = label once more with the first
P-Net); and those of the small-data setting, which `supervised` explains. One command trains classifier, L-Net and
P-Net one after the other; each leaves its maps in the workdir's `maps`. Every image needs tags (tags.json; of VOC its
Annotations); class 0 must be background.

Labels spread over a grid of cells; over a graph of superpixels, as published, with --config.transfer.diffusion=graph,
where --config.transfer.graph.steps=20 iterates self-diffusion and 0 solves for where labels end.
--config.transfer.l_net_balance shows L-Net each strong class equally often.

`setting=paper` is our protocol for Pascal VOC 2012, of which the paper documents the data and the stages only:
DeepLab-v2 on ResNet-101, crops of 321, batch 10, 20,000 updates, superpixels and balanced images of L-Net.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.data.published import strong_classes
from semiseg_jax.presets import (
    Fields,
    changed,
    crops,
    data,
    deeplab_v2,
    half_masks,
    parse,
    published_images,
    sgd,
    small,
)

COCO_AS_VOC = {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, setting=("small", "paper"), strong="", labels_from=("l_net", "cam"), rounds=1)
    setting = {"small": small_data, "paper": paper}[given.setting]
    return changed(default_config("transfer"), data(given), method(given), {**joined(given), **setting(given)})


def method(given: ConfigDict) -> Fields:
    return {
        "data.strong_classes": strong_classes(given.strong),
        "terms.made_labels.weight": 1.0,
        "terms.absent_tags.weight": 0.1,
        "terms.absent_tags.kinds": ("tags",),
        "adversarial.class_agnostic": True,
        "adversarial.adversarial_labelled_start": 0.25,
        "adversarial.adversarial_unlabelled_start": 0.25,
        "adversarial.semi_weight": 0.0,
        "adversarial.optimizer.betas": (0.9, 0.99),
        "transfer.labels_from": given.labels_from,
        "transfer.rounds": given.rounds,
    }


def joined(given: ConfigDict) -> Fields:
    """Masks of COCO's things beside the tags of VOC, whose names of classes hold."""
    if given.dataset != "voc+coco":
        return {}
    return {
        "data.class_map": {"coco": COCO_AS_VOC},
        "data.options": {"coco": {"classes": "things"}},
        "data.train_split": "voc:train+coco:train",
        "data.eval_split": "voc:val",
    }


def small_data(given: ConfigDict) -> Fields:
    return {
        **small(given),
        **half_masks(given.batch, "tags"),
        "adversarial.features": 16,  # with 64, the discriminator costs more than MobileNetV2
        "transfer.classifier_backbone": "mobilenet_v2" if given.weights else "resnet18",
    }


def paper(given: ConfigDict) -> Fields:
    return {
        **published_images(given),
        **crops(321, (0.5, 2.0)),
        "augment.jitter": 0.5,  # so that L-Net knows objects by more than the colours of their class
        **sgd(2.5e-4, 5e-4, decay_vectors=False),
        **deeplab_v2(given.weights),
        "optimizer.multipliers": (("aspp|classifier", 10.0),),
        "steps": 20_000,
        "batch_size": 10,
        "data.quota": {"dense": 1, "tags": 1},
        "transfer.classifier_backbone": "resnet101",
        "transfer.classifier_crop": (321, 321),
        "transfer.diffusion": "graph",
        "transfer.l_net_balance": True,
        "eval.every": 2000,
    }
