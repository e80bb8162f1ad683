"""A fraction of the images with masks, the rest without labels, and an average of the network as their teacher.

    semiseg train --config=mean_teacher:path=DIR --workdir=runs/mt

Arguments: `labelled`, which training images bring their mask: all that have one (as a folder does by default), a share
(0.125), a number (50) or a split; and those of the small-data setting, which `supervised` explains. Fields under
`consistency`: the weight, its ramp, and CutMix.
"""

from ml_collections import ConfigDict

from semiseg_jax.presets import half_masks, parse, small, some_masks


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, labelled="")
    config = small(given)
    config.method = "mean_teacher"
    half_masks(config, given.batch, "unlabeled")
    config.separate_passes = True
    config.consistency.ramp = 0.3
    some_masks(config, given.labelled, "unlabeled", share="0.125")
    return config
