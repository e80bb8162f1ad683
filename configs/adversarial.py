"""A fraction of the images with masks, the rest without labels, and a discriminator (Hung et al., arXiv 1802.07934).

    semiseg train --config=adversarial:path=DIR --workdir=runs/adv
    semiseg train --config=adversarial:path=DIR,labelled=50,weights=mnv2.npz,layout=torchvision --workdir=RUN
    semiseg train --config=adversarial:setting=paper,dataset=voc,path=VOCdevkit,weights=resnet101.npz --workdir=RUN
    semiseg train --config=adversarial:setting=paper,dataset=cityscapes,path=DIR,weights=resnet101.npz --workdir=RUN

Arguments: `labelled`, which training images bring their mask: all that have one (as a folder does by default), a share
(0.125), a number (50), a split, or a published list (`voc:u2pl:1/8`; `semiseg list splits`); and those of the
small-data setting, which `supervised` explains. All others are unlabelled: an image without a mask file is fine.

In the small-data setting the discriminator sees the image beside the map, which no published setting does: with few
masks, whether the two fit teaches more than how maps look.

`setting=paper` is the protocol of the text for Pascal VOC 2012 with 10,582 training images: DeepLab-v2 on ResNet-101,
crops of 321, 10 labelled and 10 unlabelled images an update, 20,000 updates, self-training from update 5,000 on; with
it goes what only the code does, an adversarial term on unlabelled images, whose predictions the discriminator sees. An
eighth of the images brings masks unless `labelled` says otherwise. With dataset=cityscapes it is the text's protocol
for Cityscapes: whole images at half their size, 2 + 2 an update, 40,000 updates.
`setting=released` is what the published code does instead: two of the four ASPP branches, crops without scale or
flip, block convolutions at 3 and shortcuts at 4 times the learning rate, batch statistics that move on unlabelled and
labelled images in turn, and a third stream of masks for the discriminator.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
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
    some_masks,
)


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, setting=("small", "paper", "released"), labelled="")
    setting = {"small": small_data, "paper": paper, "released": released}[given.setting]
    return changed(default_config("adversarial"), data(given), setting(given))


def small_data(given: ConfigDict) -> Fields:
    return {
        **small(given),
        **half_masks(given.batch, "unlabeled"),
        **some_masks(given, given.labelled, "unlabeled", share="0.125"),
        "separate_passes": True,
        "adversarial.features": 16,  # with 64, the discriminator costs more than MobileNetV2
        "adversarial.sees_image": True,  # whether a map fits its image says more, where masks are few
        # In short runs predictions stay soft, which a discriminator sees: it would win within 100 updates.
        "adversarial.label_smoothing": 0.1,
    }


def paper(given: ConfigDict) -> Fields:
    return published(given) | (on_cityscapes() if given.dataset == "cityscapes" else {})


def on_cityscapes() -> Fields:
    return {
        "data.canvas": (512, 1024),
        "data.max_side": -1,  # stored at the half of their size that training sees
        "augment.crop": (512, 1024),
        "augment.scale": (1.0, 1.0),
        "steps": 40_000,
        "batch_size": 4,
        "adversarial.semi_start": 0.125,  # update 5,000
        "eval.every": 4000,
    }


def published(given: ConfigDict) -> Fields:
    return {
        **published_images(given),
        **some_masks(given, given.labelled or "0.125", "unlabeled", share="0.125"),
        **crops(321, (0.5, 1.5)),
        **sgd(2.5e-4, 1e-4, nesterov=True, decay_vectors=False),
        **deeplab_v2(given.weights),
        "optimizer.multipliers": (("aspp", 10.0),),
        "steps": 20_000,
        "batch_size": 20,
        "data.quota": {"dense": 1, "unlabeled": 1},
        "adversarial.fill_void": False,
        "adversarial.semi_start": 0.25,  # update 5,000
        "eval.every": 2000,
    }


def released(given: ConfigDict) -> Fields:
    fields = published(given)
    return fields | {
        **crops(321, (1.0, 1.0)),
        "augment.flip": 0.0,
        "model": {**fields["model"], "aspp_branches": 2},
        "optimizer.nesterov": False,
        "optimizer.weight_decay": 5e-4,
        "optimizer.multipliers": (("aspp", 10.0), ("shortcut/", 4.0), ("layer./conv|layer._", 3.0)),
        "adversarial.optimizer.betas": (0.9, 0.99),
        "separate_passes": True,
        "batch_size": 30,
        "data.quota": {"dense": 2, "unlabeled": 1},
        "adversarial.real_rows": 1,
    }
