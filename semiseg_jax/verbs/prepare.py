"""`semiseg prepare`: checks a source folder and builds the dataset that training reads."""

import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from semiseg_jax.config import settings
from semiseg_jax.data.datasets import Dataset, check_pools, open_dataset
from semiseg_jax.data.folder import Folder
from semiseg_jax.data.records import DataSet
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine import pictures
from semiseg_jax.verbs.contents import contact_sheet, contents_of

FEW = 5  # images, on fewer of which a score says little


def prepare(
    config: ConfigDict, *, check_quota: bool = True, clean: bool = False, picture: str | Path = ""
) -> dict[str, Any]:
    """Builds the dataset of `config.data` and prints what is in it -> images by split and kind.

    Args:
      config: with `data`.
      check_quota: whether images that cannot fill `data.quota` are an error, told before anything is read if it can be.
      clean: also remove what earlier states of the same source left behind, and builds that were interrupted.
      picture: a file for a picture of a dozen images and of what is labelled in them.
    """
    data = settings(config).data
    dataset = open_dataset(data, planned=check_quota)
    if isinstance(dataset.source, Folder):
        _ = dataset.source.listing  # says what is not read, of a set that was built before, too
    if clean:
        _clean(dataset.source)
    counts = count_kinds(dataset)
    print(f"{dataset.info.name}: {dataset.info.num_classes} classes ({', '.join(dataset.info.classes)})")
    for place in dataset.source.places:
        print(f"built in {place}")
    for split, kinds in counts.items():
        labels = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        bare = sum(len(row["kinds"]) == 1 for row in dataset.info.splits[split])
        print(
            f"  {split}: {len(dataset.info.splits[split])} images; labels: {labels or 'none'}; {bare} without any label"
        )
    scored = dataset.eval_split("")
    if scored and (count := len(dataset.masked_indices(scored))) < FEW:
        print(f"{scored} has {count} image(s) with a mask: a score on so few says little; give masks to more of them")
    if contents := contents_of(dataset):
        print("\n".join(contents.lines()))
        if picture:
            pictures.save(Path(picture), contact_sheet(dataset))
            print(f"drawn in {picture}")
    if check_quota:  # of a set that was built before, nothing was known beforehand
        check_pools(data, dataset.info)
    labels = "+".join(kind for kind in ("dense", "scribble", "points") if counts.get(data.train_split, {}).get(kind))
    if data.name == "folder" and labels:
        print(f"next: semiseg train --config=supervised:path={data.path},labels={labels} --workdir=runs/mine")
    return counts


def _clean(source: DataSet) -> None:
    stale = source.leftovers()
    size = 0
    for folder in stale:
        size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
        print(f"removed {folder}")
    print(f"{len(stale)} folders removed, {size / 2**20:.0f} MiB" if stale else "nothing to remove")


def count_kinds(dataset: Dataset) -> dict[str, dict[str, int]]:
    return {
        split: {
            kind.name.lower(): count
            for kind in sorted(Supervision, reverse=True)
            if kind and (count := sum(int(kind) in row["kinds"] for row in rows))
        }
        for split, rows in dataset.info.splits.items()
    }
