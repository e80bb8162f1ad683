"""Published splits are what was published, and training takes them or says why it cannot."""

import dataclasses
import hashlib
import json
import re
from pathlib import PurePosixPath

import pytest
from few_records import B, D, U
from optional_files import optional_files

from semiseg_jax.data import published
from semiseg_jax.data.fields import Data
from semiseg_jax.data.pools import make_pools, parse_quota
from semiseg_jax.data.published import CLASS_GROUPS, VOC_CLASSES, find_list, published_lists, strong_classes
from semiseg_jax.data.records import DatasetInfo

FIXTURES = optional_files() / "data" / "voc_lists"
# Name -> images, how many of them are in the official training set, and how the SHA-256 begins.
VOC = {
    "train": (1464, 1464, "aa623bd2"), "train_aug": (10582, 1464, "d1326bd5"), "val": (1449, 0, "cdc1326d"),
    "classic:92": (92, 92, "325a965b"), "classic:183": (183, 183, "3b208061"), "classic:366": (366, 366, "ea8aa0b2"),
    "classic:732": (732, 732, "81c3256e"), "classic:1464": (1464, 1464, "aa623bd2"),
    "pseudoseg:92": (92, 92, "325a965b"), "pseudoseg:183": (183, 183, "3b208061"),
    "pseudoseg:366": (366, 366, "ea8aa0b2"), "pseudoseg:732": (732, 732, "80cc40b7"),
    "cps:1/16": (662, 93, "7dada8cc"), "cps:1/8": (1323, 193, "df63f50a"),
    "cps:1/4": (2646, 388, "62c45078"), "cps:1/2": (5291, 742, "192132b4"),
    "u2pl:1/16": (662, 662, "0c6466b6"), "u2pl:1/8": (1323, 1323, "2f24ef96"),
    "u2pl:1/4": (2646, 1464, "3c653f4f"), "u2pl:1/2": (5291, 1464, "8ef07e48"),
    "stpp:92:0": (92, 92, "325a965b"), "stpp:92:1": (92, 92, "44053589"), "stpp:92:2": (92, 92, "de960403"),
    "stpp:1/16:0": (662, 85, "abf8992c"), "stpp:1/16:1": (662, 89, "332381f8"), "stpp:1/16:2": (662, 105, "0a7baa80"),
    "stpp:1/8:0": (1323, 177, "e77eb808"), "stpp:1/8:1": (1323, 184, "fc1b4ca8"), "stpp:1/8:2": (1323, 205, "74689980"),
    "stpp:1/4:0": (2645, 375, "2585aa6b"), "stpp:1/4:1": (2645, 340, "af1f448b"), "stpp:1/4:2": (2645, 335, "9341e846"),
}  # fmt: skip
CITYSCAPES = {
    "val": (500, "73099b25"),
    "cps:1/30": (100, "d356a23d"), "cps:1/16": (186, "dc2a06a8"), "cps:1/8": (372, "2755fe0b"),
    "cps:1/4": (744, "605f06bc"), "cps:1/2": (1488, "f071d8e3"),
    "u2pl:1/16": (186, "c9b2d8a6"), "u2pl:1/8": (372, "af350f9e"), "u2pl:1/4": (744, "d787c1a5"),
    "u2pl:1/2": (1488, "245bcea2"),
    "stpp:1/30:0": (100, "d356a23d"), "stpp:1/30:1": (100, "125e577c"), "stpp:1/30:2": (100, "aacc08d3"),
    "stpp:1/8:0": (372, "af350f9e"), "stpp:1/8:1": (372, "ede08667"), "stpp:1/8:2": (372, "a2de7e2b"),
    "stpp:1/4:0": (744, "87be9e9c"), "stpp:1/4:1": (744, "dcf4e50c"), "stpp:1/4:2": (744, "c82afbaf"),
}  # fmt: skip


def inside_official(ids):
    return len(set(ids) & set(find_list("voc:train").ids))


def make_info(**splits):
    """A set whose splits are lists of ids, each with a mask and boxes."""
    rows = {name: [{"id": id, "kinds": [U, B, D]} for id in ids] for name, ids in splits.items()}
    return DatasetInfo("fake", ("a", "b"), ((0, 0, 0),) * 2, 0, rows)


def pools_of(info, assign, split):
    return make_pools(info, split, parse_quota(dict.fromkeys(assign, 1)), assign, 0)


@pytest.fixture(scope="module")
def voc():
    return make_info(**{name: find_list(f"voc:{name}").ids for name in ("train", "train_aug", "val")})


def test_every_list_has_the_length_the_overlap_and_the_checksum_that_were_published():
    found = {name: (len(entry.ids), inside_official(entry.ids)) for name, entry in published_lists().items()}
    expected = {f"voc:{name}": (images, official) for name, (images, official, _) in VOC.items()}
    assert found == expected | {f"cityscapes:{name}": (images, 0) for name, (images, _) in CITYSCAPES.items()}
    for dataset, table in (("voc", VOC), ("cityscapes", CITYSCAPES)):
        for name, (*_, digest) in table.items():
            ids = find_list(f"{dataset}:{name}").ids
            assert list(ids) == sorted(set(ids))
            assert hashlib.sha256("".join(f"{id}\n" for id in ids).encode()).hexdigest().startswith(digest)


def test_ids_are_names_of_files_without_what_all_of_them_share():
    for entry in published_lists().values():
        pattern = {"voc": r"\d{4}_\d{6}", "cityscapes": r"[a-z]+_\d{6}_\d{6}"}[entry.dataset]
        assert all(re.fullmatch(pattern, id) for id in entry.ids)
        assert all(re.fullmatch(r"\S+/\S+ [0-9a-f]{40} \S+\.txt", source) for source in entry.sources)


def test_the_files_are_small():
    files = list(published.FOLDER.iterdir())
    assert {path.stem for path in files} == set(published.SETS)
    assert sum(path.stat().st_size for path in files) < 400_000


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="voc_lists is absent from SEMISEG_FIXTURES")
def test_lists_are_the_files_that_were_published():
    known = {source: entry for entry in published_lists().values() for source in entry.sources}
    for published_file in json.loads((FIXTURES / "provenance.json").read_text()):
        entry = known[f"{published_file['repo']} {published_file['commit']} {published_file['path']}"]
        lines = (FIXTURES / (published_file["file"] or published_file["same_set_as"])).read_text().split("\n")
        files = [PurePosixPath(line.split()[0]).stem for line in lines if line]
        assert sorted(name.removesuffix("_leftImg8bit") for name in files) == list(entry.ids)
        assert len(entry.ids) == published_file["n"]
        assert published_file["in_official_voc_train"] in (None, inside_official(entry.ids))


def test_every_list_fits_the_training_splits_that_it_names(voc):
    for entry in published_lists().values():
        if entry.dataset == "voc":
            fits = [split for split in ("train", "train_aug") if set(entry.ids) <= {r["id"] for r in voc.splits[split]}]
            assert set(entry.train_splits) <= set(fits)
            assert entry.train_splits or not fits


def test_a_changed_list_is_noticed(tmp_path, monkeypatch):
    text = (published.FOLDER / "voc.txt").read_text()
    (tmp_path / "voc.txt").write_text(text.replace("\n2007_000033 ", "\n2007_000034 "))
    entry = find_list("voc:val")
    published._table.cache_clear()
    published._checked_ids.cache_clear()
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"voc\.txt was changed: 'voc:val' is not the list"):
        _ = entry.ids
    published._table.cache_clear()


def test_a_published_list_is_found_in_a_set_that_is_joined_to_another_one(voc):
    rows = [{**row, "id": f"voc-{row['id']}", "set": "voc"} for row in voc.splits["train_aug"]]
    joined = dataclasses.replace(voc, splits={"coco:train+voc:train_aug": rows})
    pools = pools_of(joined, {"dense": "voc:u2pl:1/8", "unlabeled": 1.0}, "coco:train+voc:train_aug")
    assert tuple(rows[i]["id"] for i in pools[D]) == tuple(f"voc-{id}" for id in find_list("voc:u2pl:1/8").ids)


def test_a_published_list_gives_its_images_their_kind_and_leaves_the_others(voc):
    pools = pools_of(voc, {"dense": "voc:u2pl:1/8", "unlabeled": 1.0}, "train_aug")
    rows = voc.splits["train_aug"]
    assert tuple(rows[i]["id"] for i in pools[D]) == find_list("voc:u2pl:1/8").ids
    assert len(pools[U]) == 10582 - 1323
    assert not set(pools[D]) & set(pools[U])
    assert len(pools_of(voc, {"dense": "voc:classic:92", "unlabeled": 1.0}, "train")[U]) == 1464 - 92


def test_an_image_that_two_lists_name_gets_the_stronger_kind(voc):
    pools = pools_of(voc, {"box": "voc:cps:1/4", "dense": "voc:cps:1/16"}, "train_aug")
    assert (len(pools[D]), len(pools[B])) == (662, 2646 - 662)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("voc:cps:1/8", "train",
         "1130 of the 1323 images of 'voc:cps:1/8' are not in the training split 'train' (2008_000003, "),
        ("voc:cps:1/8", "train",
         "in another split of Pascal VOC 2012 with the masks of SBD: --config.data.train_split=train_aug"),
        ("voc:classic:92", "val", "92 of the 92 images of 'voc:classic:92' are not in the training split 'val'"),
        ("voc:classic:92", "val", "--config.data.train_split=train or train_aug"),
        ("voc:u2pl:1/8", "train", "leaves the other images of a larger training split unlabelled, of which 'train'"),
        ("voc:val", "train", "for validation, not for training"),
        ("voc:cps:1/9", "train", "no published list is called 'voc:cps:1/9'; did you mean voc:cps:1/8 or "),
        ("cityscapes:u2pl:1/8", "train", "is this set Cityscapes, with the ids that it came with?"),
        ("u2pl:1/8", "train", "fake has no split 'u2pl:1/8'; it has: train, train_aug, val"),
    ],
)  # fmt: skip
def test_a_list_that_does_not_fit_the_training_split_says_what_is_missing_and_what_to_do(voc, name, split, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pools_of(voc, {"dense": name, "unlabeled": 1.0}, split)


def test_a_set_that_lacks_images_of_a_list_is_not_complete():
    info = make_info(train_aug=find_list("voc:train_aug").ids[:-2000])
    with pytest.raises(ValueError, match=r"that split of Pascal VOC .* has them, so this copy of it is not complete"):
        pools_of(info, {"dense": "voc:cps:1/2", "unlabeled": 1.0}, "train_aug")


def test_images_of_a_list_without_the_labels_that_it_gives_them_are_counted():
    info = make_info(train=find_list("voc:train").ids)
    for row in info.splits["train"][::2]:
        row["kinds"].remove(D)
    with pytest.raises(ValueError, match="gives list 'voc:train' to dense but 732 of its 1464 images have no dense"):
        pools_of(info, {"dense": "voc:train"}, "train")


def test_lists_of_two_families_are_not_mixed():
    for names in (("voc:u2pl:1/8", "voc:train"), ("voc:train", "voc:cps:1/8"), ("voc:stpp:1/8:0", "voc:stpp:1/8:1")):
        Data(assign=dict(zip(("dense", "box"), names, strict=True)))
    with pytest.raises(ValueError, match=r"'voc:u2pl:1/8' and 'voc:cps:1/2' are of two families.*662.*93 of the 662"):
        Data(assign={"dense": "voc:u2pl:1/8", "box": "voc:cps:1/2"})
    with pytest.raises(ValueError, match="assign is wrong: no published list is called 'voc:zzz'"):
        Data(assign={"dense": "voc:zzz"})


def test_groups_of_strong_classes_are_halves_and_what_the_folds_leave():
    assert CLASS_GROUPS["voc:first10"][-1] == "cow"
    assert CLASS_GROUPS["voc:last10"][0] == "diningtable"
    assert CLASS_GROUPS["voc:first10"] + CLASS_GROUPS["voc:last10"] == VOC_CLASSES == tuple(sorted(VOC_CLASSES))
    folds = [set(VOC_CLASSES) - set(strong_classes(f"voc:fold{fold}")) for fold in range(4)]
    assert folds[0] == {"aeroplane", "bicycle", "bird", "boat", "bottle"}
    assert folds[3] == {"pottedplant", "sheep", "sofa", "train", "tvmonitor"}
    assert [len(fold) for fold in folds] == [5] * 4
    assert set().union(*folds) == set(VOC_CLASSES)
