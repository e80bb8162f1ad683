"""Boxes alone: their projections, and neighbours of like colour (Tian et al., arXiv 2012.02310).

    semiseg train --config=experiments/examples/boxinst_config.py:path=DIR --workdir=runs/boxinst

Start it in the folder that holds `experiments`. Arguments: those of the small-data setting, which `supervised`
explains. Class 0 must be background. Fields: `terms.projection`, `terms.pairwise` and `terms.boxes`, of which the
example takes what is outside boxes alone.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import changed, data, parse, shared_by, small


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg)
    return changed(
        default_config("experiments.examples.boxinst:BoxInst"),
        data(given),
        small(given),
        {
            "data.quota": shared_by("box", given.batch),
            "terms.boxes.weight": 1.0,
            "terms.boxes.inside": "ignore",
        },
    )
