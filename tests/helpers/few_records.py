"""A dataset of a few small records with every label, of which an index says what they may be used for."""

import numpy as np

from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.records import DatasetInfo, describe_record, encode_png, make_record
from semiseg_jax.data.types import Supervision

SIZE = (20, 24)
K = 3
D, P, B, S, T, C, U = (
    Supervision.DENSE,
    Supervision.PARTIAL,
    Supervision.BOX,
    Supervision.SCRIBBLE,
    Supervision.TAGS,
    Supervision.POINTS,
    Supervision.UNLABELED,
)


def record_of(number, size=SIZE):
    """A record with every label; its image is as bright as its number."""
    return make_record(
        id=f"r{number}",
        image=encode_png(np.full((*size, 3), number, np.uint8)),
        num_classes=K,
        mask=np.full(size, 1, np.uint8),
        points=np.array([[1, 2, 1], [3, 4, 0]]),
        strokes=np.array([[2, 2, 2, 9, 1]]),
        partial=np.array([[5, 6, 2]]),
        boxes=(np.array([[1, 1, 9, 9]]), np.array([1])),
        tags=np.array([1, 0, 1], np.int8),
    )


def make_set(count=12, kinds=None, size=SIZE, **splits):
    """Records and their index; `kinds(i)` are the labels of record i, `splits` list record numbers."""
    records = [record_of(i, size) for i in range(count)]
    rows = [
        describe_record(record, size, [U, *(kinds(i) if kinds else tuple(Supervision))])
        for i, record in enumerate(records)
    ]
    listed = {name: [rows[i] for i in numbers] for name, numbers in splits.items()}
    return records, DatasetInfo("fake", ("a", "b", "c"), ((0, 0, 0),) * K, 0, {"train": rows} | listed)


def pools_of(info, quota, assign=None, seed=0, split="train"):
    return make_pools(info, split, parse_quota(quota), assign or {}, seed)
