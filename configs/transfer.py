"""Masks of some classes, tags of all (Xiao et al., arXiv 1711.06828).

    semiseg train --config=transfer:path=DIR,strong=cat+dog,weights=mnv2.npz,layout=torchvision --workdir=RUN

Arguments: `strong`, the names of the classes whose masks may be used, joined by +; `labels_from` (`l_net`, or `cam`
for the baseline that trains on class activation maps alone); `rounds` (2 = label once more with the first P-Net); and
those of the small-data setting, which `supervised` explains. One command trains classifier, L-Net and P-Net one after
the other; each leaves its maps in the workdir's `maps`. Every image needs tags (tags.json); class 0 must be
background.

`setting=paper` is our protocol for Pascal VOC 2012, of which the paper documents the data and the stages only:
DeepLab-v2 on ResNet-101, crops of 321, batch 10, 20,000 updates.
"""

from ml_collections import ConfigDict

from semiseg_jax.presets import crops_and_flips, deeplab_v2, half_masks, parse, sgd, small


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, setting=("small", "paper"), strong="", labels_from=("l_net", "cam"), rounds=1)
    config = small(given)
    config.method = "transfer"
    config.data.strong_classes = tuple(filter(None, given.strong.split("+")))
    half_masks(config, given.batch, "tags")
    config.terms.made_labels.weight = 1.0
    config.terms.absent_tags.weight = 0.1
    config.terms.absent_tags.kinds = ("tags",)
    config.adversarial.class_agnostic = True
    config.adversarial.adversarial_labelled_start = 0.25
    config.adversarial.adversarial_unlabelled_start = 0.25
    config.adversarial.semi_weight = 0.0
    config.adversarial.features = 16  # with 64, the discriminator costs more than MobileNetV2
    config.adversarial.optimizer.betas = (0.9, 0.99)
    config.transfer.labels_from = given.labels_from
    config.transfer.rounds = given.rounds
    if not given.weights:
        config.transfer.classifier_backbone = "resnet18"
    if given.setting == "paper":
        crops_and_flips(config, (321, 321), (0.5, 2.0))
        config.augment.jitter = 0.5  # so that L-Net knows objects by more than the colours of their class
        sgd(config, 2.5e-4, 5e-4)
        deeplab_v2(config, given.weights)
        config.optimizer.multipliers = (("aspp|classifier", 10.0),)
        config.steps = 20_000
        config.batch_size = 10
        config.adversarial.features = 64
        config.data.quota = {"dense": 1, "tags": 1}
        config.transfer.classifier_backbone = "resnet101"
        config.transfer.classifier_crop = (321, 321)
        config.eval.every = 2000
    return config
