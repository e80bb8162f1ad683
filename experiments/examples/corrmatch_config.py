"""A fraction of the images with masks, the rest without labels, and labels that spread along correlations of features.

    semiseg train --config=experiments/examples/corrmatch_config.py:path=DIR --workdir=runs/corrmatch

Start it in the folder that holds `experiments`. Arguments: `labelled`, which training images bring their mask: all that
have one (as a folder does by default), a share (0.125), a number (50) or a split; and those of the small-data setting,
which `supervised` explains. Fields under `corrmatch`: the features that are correlated, seeds, and the threshold.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import changed, data, half_masks, parse, small, some_masks


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, labelled="")
    return changed(
        default_config("experiments.examples.corrmatch:CorrMatch"),
        data(given),
        small(given),
        half_masks(given.batch, "unlabeled"),
        some_masks(given, given.labelled, "unlabeled", share="0.125"),
        {"separate_passes": True, "corrmatch.features": "backbone/layer4" if given.weights else "down3"},
    )
