"""`semiseg prepare`: checks a source folder and builds the dataset that training reads."""

from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config import settings
from semiseg_jax.data.datasets import Dataset, open_dataset
from semiseg_jax.data.types import Supervision


def prepare(config: ConfigDict) -> dict[str, Any]:
    """Builds the dataset of `config.data` and prints what is in it -> images by split and kind."""
    dataset = open_dataset(settings(config).data, planned=True)
    counts = count_kinds(dataset)
    print(f"{dataset.info.name}: {dataset.info.num_classes} classes ({', '.join(dataset.info.classes)})")
    print(f"built in {dataset.source.home.parent}")
    for split, kinds in counts.items():
        labels = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        bare = sum(len(row["kinds"]) == 1 for row in dataset.info.splits[split])
        print(
            f"  {split}: {len(dataset.info.splits[split])} images; labels: {labels or 'none'}; {bare} without any label"
        )
    return counts


def count_kinds(dataset: Dataset) -> dict[str, dict[str, int]]:
    return {
        split: {
            kind.name.lower(): count
            for kind in sorted(Supervision, reverse=True)
            if kind and (count := sum(int(kind) in row["kinds"] for row in rows))
        }
        for split, rows in dataset.info.splits.items()
    }
