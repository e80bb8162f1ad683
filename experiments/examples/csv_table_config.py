"""Images and masks that a CSV table lists.

    semiseg train --config=experiments/examples/csv_table_config.py:path=TABLE.csv,classes=sky+tree --workdir=runs/table

Start it in the folder that holds `experiments`. Arguments: `path` of the table, `classes` joined by +, `labels` (dense)
and the others of the small-data setting, which `supervised` explains.
"""

from ml_collections import ConfigDict

from semiseg_jax.config import default_config
from semiseg_jax.presets import changed, data, parse, shared_by, small


def get_config(arg: str = "") -> ConfigDict:
    given = parse(arg, classes="", labels="dense")
    return changed(
        default_config("supervised"),
        small(given),
        {
            **data(given),
            "data.name": "experiments.examples.csv_table:CsvTable",
            "data.options": {"classes": tuple(filter(None, given.classes.split("+")))},
            "data.quota": shared_by(given.labels, given.batch),
        },
    )
