"""A fraction of the images with masks, the rest without labels, and weak-to-strong consistency (arXiv 2208.09910).

    semiseg train --config=unimatch:path=DIR,weights=mnv2.npz,layout=torchvision --workdir=RUN

Arguments: `labelled`, which training images bring their mask: all that have one (as a folder does by default), a share
(0.125), a number (50), a split, or a published list (`voc:u2pl:1/8`; `semiseg list splits`); and those of the
small-data setting, which `supervised` explains. A step looks at each unlabelled image four times.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import changed, data, half_masks, parse, small, some_masks


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, labelled="")
    return changed(
        default_config("unimatch"),
        data(given),
        small(given),
        half_masks(given.batch, "unlabeled"),
        some_masks(given, given.labelled, "unlabeled", share="0.125"),
        {"separate_passes": True},
    )
