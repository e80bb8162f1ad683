"""The example of a dataset from outside, read from a table."""

import numpy as np
import pytest
from PIL import Image

from experiments.examples.csv_table_config import get_config
from semiseg_jax.config import settings
from semiseg_jax.data.datasets import open_dataset
from semiseg_jax.data.records import decode_mask
from semiseg_jax.data.types import Supervision

pytestmark = pytest.mark.heavy


@pytest.fixture
def table(tmp_path):
    """Writes a table and its files: `table("a.png,m.png,,train", ...)` -> its config."""

    def write(*rows, header="image,mask,tags,split", classes="sky+tree"):
        rng = np.random.default_rng(0)
        for name in "abc":
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(tmp_path / f"{name}.png")
        mask = np.zeros((20, 24), np.uint8)
        mask[:9], mask[0] = 1, 255
        Image.fromarray(mask).save(tmp_path / "m.png")
        Image.fromarray(mask + 4).save(tmp_path / "wrong.png")
        (tmp_path / "table.csv").write_text("\n".join([header, *rows]) + "\n")
        config = get_config(f"path={tmp_path / 'table.csv'},classes={classes}")
        config.data.data_dir = str(tmp_path / "built")
        return config

    return write


def test_a_table_becomes_records_with_the_labels_that_it_has(table):
    config = table("a.png,m.png,,train", "b.png,,tree,train", "c.png,m.png,sky tree,val")
    dataset = open_dataset(settings(config).data)
    assert dataset.info.classes == ("sky", "tree")
    first, second = (dataset.records("train")[i] for i in range(2))
    assert [row["id"] for row in dataset.info.splits["train"]] == ["a", "b"]
    assert np.bincount(decode_mask(first["mask"], (0, 0)).ravel())[[0, 1, 255]].tolist() == [11 * 24, 8 * 24, 24]
    assert (first["tags"].tolist(), second["tags"].tolist(), second["mask"]) == ([-1, -1], [-1, 1], b"")
    kinds = [set(row["kinds"]) for row in dataset.info.splits["train"]]
    assert kinds == [{Supervision.UNLABELED, Supervision.DENSE}, {Supervision.UNLABELED, Supervision.TAGS}]
    assert dataset.eval_split("") == "val"


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("lost.png,,,train", {}, "lists 1 files that do not exist, the first is .*lost.png"),
        ("a.png,wrong.png,,train", {}, r"wrong.png: has values \[3, 4, 5\] but the classes are 0..1"),
        ("a.png,,bird,train", {}, "a.png: its tags are 'bird', but the classes are sky, tree"),
        ("a.png,,", {"header": "image,mask,tags"}, "has no column split"),
        ("a.png,,,train", {"classes": ""}, "needs --config.data.path=TABLE.csv and data.options.classes"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_words(table, row, options, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(settings(table(row, **options)).data)


def test_a_table_that_changed_is_built_again(table):
    built = [
        open_dataset(settings(table(*rows)).data).source.data_path for rows in (["a.png,,,train"], ["b.png,,,train"])
    ]
    assert built[0] != built[1]
