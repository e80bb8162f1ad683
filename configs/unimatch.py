"""A fraction of the images with masks, the rest without labels, and weak-to-strong consistency (arXiv 2208.09910).

    semiseg train --config=configs/unimatch.py:path=DIR,labelled=0.125,weights=mobilenet_v2.npz --workdir=runs/um

Arguments: `labelled`, the share (0.125), number (50) or split of the training images that bring their mask, and those
of the small-data setting in semiseg_jax/presets.py. A step looks at each unlabelled image four times.
"""

from ml_collections import ConfigDict

from semiseg_jax.presets import half_masks, parse, small, some_masks


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, labelled="0.125")
    config = small(given)
    config.method = "unimatch"
    half_masks(config, given.batch, "unlabeled")
    config.separate_passes = True
    some_masks(config, given.labelled, "unlabeled")
    return config
