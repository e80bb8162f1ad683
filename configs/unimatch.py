"""A fraction of the images with masks, the rest without labels, and weak-to-strong consistency (arXiv 2208.09910).

    semiseg train --config=unimatch:path=DIR,weights=mnv2.npz,layout=torchvision --workdir=RUN

Arguments: `labelled`, which training images bring their mask: all that have one (as a folder does by default), a share
(0.125), a number (50) or a split; and those of the small-data setting, which `supervised` explains. A step looks
at each unlabelled image four times.
"""

from ml_collections import ConfigDict

from semiseg_jax.presets import half_masks, parse, small, some_masks


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, labelled="")
    config = small(given)
    config.method = "unimatch"
    half_masks(config, given.batch, "unlabeled")
    config.separate_passes = True
    some_masks(config, given.labelled, "unlabeled", share="0.125")
    return config
