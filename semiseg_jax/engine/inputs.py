"""From `config.data` to the batches of one process, and back to where they were on resume."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from semiseg_jax.data import pipeline
from semiseg_jax.data.datasets import Dataset
from semiseg_jax.data.fields import Data
from semiseg_jax.data.pools import Quota, Stream, class_shares, evenly_shown, make_pools, make_streams, parse_quota
from semiseg_jax.data.types import Supervision
from semiseg_jax.engine.checkpoints import CheckpointError
from semiseg_jax.engine.parallel import Devices, rows_per_device
from semiseg_jax.engine.settings import Settings

logger = logging.getLogger("semiseg_jax")


@dataclasses.dataclass
class Input:
    """The data of one stage on this process."""

    loader: pipeline.ExampleLoader
    streams: Sequence[Stream]
    shard: pipeline.Shard
    seed: int
    threads: int
    rows: int  # images an update over all processes
    mixture: dict[str, Any]  # what the order of images depends on
    ids: Mapping[str, list[str]]  # of the images of each kind
    offset: int = 0  # of the seed: the step at which the order last started afresh
    waited: float = 0.0  # seconds, for all batches so far

    def __post_init__(self) -> None:
        self._restart(self.offset)

    def _restart(self, offset: int) -> None:
        self.offset = offset
        self.batches = pipeline.make_batches(
            self.loader, self.streams, self.shard, seed=self.seed + offset, threads=self.threads
        )

    def next(self, devices: Devices) -> tuple[Any, dict[str, Any]]:
        """The next batch on the devices, and the state that makes the iterator go on after it."""
        start = time.perf_counter()
        examples = next(self.batches)
        self.waited += time.perf_counter() - start
        position = {"position": self.batches.get_state(), "offset": self.offset, "mixture": self.mixture}
        return devices.split(examples), position

    def check_made_labels(self) -> None:
        """Raises if an image lacks the label map that its rows are to learn from."""
        folder = self.loader.made_labels
        for kind in self.loader.made_for if folder else ():
            ids = self.ids.get(kind.name, [])
            missing = [id for id in ids if not Path(folder, f"{id}.png").is_file()]
            if missing:
                raise ValueError(
                    f"data.made_labels: {folder} lacks {len(missing)} of the {len(ids)} images of kind "
                    f"{kind.name.lower()}, the first is {missing[0]}.png"
                )

    def resume(self, saved: Mapping[str, Any], step: int) -> None:
        """Goes on exactly where the checkpoint stands; on other devices, with a fresh order of the same images."""
        before, now = dict(saved["mixture"]), dict(self.mixture)
        was, state = before.pop("state", ""), now.pop("state", "")
        if was and was != state:
            logger.warning(
                "files of the dataset were changed since the checkpoint was saved (images or labels): training goes on "
                "with what they are now"
            )
        if before["images"] != now["images"]:
            raise CheckpointError(
                "the dataset has changed since the checkpoint was saved (other images or another assignment of kinds); "
                "train in another --workdir"
            )
        if before == now:
            self._restart(saved["offset"])
            self.batches.set_state(saved["position"])
            return
        logger.warning(
            "the run goes on with %s instead of %s: the order of images starts afresh",
            _in_words(now),
            _in_words(before),
        )
        self._restart(step)


def _in_words(mixture: Mapping[str, Any]) -> str:
    parts = mixture["units"] * mixture["processes"]
    return f"{mixture['rows'] * parts} images an update in {parts} part(s) by {mixture['processes']} process(es)"


def balanced_weights(data: Data, dataset: Dataset, power: float) -> tuple[float, ...]:
    """Weights of the classes, share ** -power, of which the lowest is 1.

    A class without labels gets the weight of the rarest labelled class.
    """
    quota, records = parse_quota(data.quota), dataset.records(data.train_split)
    shares = class_shares(records, _pools(data, dataset, quota), quota, dataset.info.num_classes)
    if not shares.any():
        raise ValueError(f"balance_classes: no label names a class, with data.quota {data.quota}")
    weights = (shares.max() / np.maximum(shares, shares[shares > 0].min())) ** power
    return tuple(round(float(weight), 4) for weight in weights)


def make_input(config: Settings, dataset: Dataset, devices: int, local_devices: int) -> Input:
    """Pools, layout and iterator of a stage for this process. `check_made_labels` looks for its label maps."""
    data = config.data
    quota = parse_quota(data.quota)
    made_for = [Supervision.parse(kind) for kind in data.made_for]
    pools = _pools(data, dataset, quota)
    strict = bool(data.assign)
    layout = pipeline.make_layout(dataset.info, data.train_split, pools, data.canvas, strict)
    records = dataset.records(data.train_split)
    loader = pipeline.ExampleLoader(
        records,
        dataset.info,
        pools,
        layout,
        strict=strict,
        made_labels=data.made_labels,
        made_for=made_for,
        sizes=[row["size"] for row in dataset.info.splits[data.train_split]],
        ids=[row["id"] for row in dataset.info.splits[data.train_split]],
    )
    rows = rows_per_device(config.batch_size, sum(quota.values()), devices, config.accumulate)
    shard = pipeline.Shard(rows, local_devices * config.accumulate, jax.process_index(), jax.process_count())
    index = dataset.info.splits[data.train_split]
    ids = {kind.name: [index[i]["id"] for i in pool] for kind, pool in pools.items()}
    mixture = {
        "images": hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest()[:16],
        "rows": shard.rows,
        "units": shard.units,
        "processes": shard.processes,
        "state": dataset.source.state,
    }
    streams = make_streams(data.quota, pools, index)
    total = rows * devices * config.accumulate
    return Input(loader, streams, shard, config.seed, data.workers, total, mixture, ids)


def _pools(data: Data, dataset: Dataset, quota: Quota) -> dict[Supervision, np.ndarray]:
    pools = make_pools(dataset.info, data.train_split, quota, data.assign, data.seed, data.strong_classes)
    if data.balance_images and Supervision.DENSE in pools:
        pools[Supervision.DENSE] = evenly_shown(dataset.info, data.train_split, pools[Supervision.DENSE])
    return pools
