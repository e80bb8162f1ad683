"""Folders of masks under other names, of indices and of colours."""

import numpy as np
import pytest
from label_files import SIZE, canvas, imported, make_images
from PIL import Image

from semiseg_jax.cli import main
from semiseg_jax.exchange.color_table import read_table
from semiseg_jax.exchange.drawings import LabelFileError

TREE, ROAD, VOID = (128, 128, 0), (128, 64, 128), (0, 0, 0)
CAMVID = "128 128 0\tTree\n128 64 128\t\tRoad\n\n0 0 0\tVoid\n192 192 0\tTree\n"


def save(path, array, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    if palette:
        image = Image.fromarray(np.asarray(array, np.uint8), "L").convert("P")
        image.putdata(np.asarray(array).ravel().tolist())
        image.putpalette([value for color in palette for value in color])
    image.save(path)


def colored(*squares, fill=VOID):
    picture = np.full((*SIZE, 3), fill, np.uint8)
    for color, (y0, x0, y1, x1) in squares:
        picture[y0:y1, x0:x1] = color
    return picture


MASK = canvas(0, c_1=(1, 1, 4, 4), c_2=(5, 5, 9, 9), c_255=(0, 12, 10, 14))


@pytest.mark.parametrize("name", ["{}", "{}_mask", "{}_L", "mask_{}", "gt-{}-labelIds", "{}.jpg"])
def test_how_masks_are_named_is_found_out(tmp_path, name):
    photos = make_images(tmp_path / "photos", *(f"{number}.jpg" for number in (1, 2, 12, 122)))
    for number in (1, 2, 12, 122):
        save(tmp_path / "gt" / f"{name.format(number)}.png", np.where(MASK == 1, number % 3, MASK))
    report, load = imported("masks", tmp_path / "gt", tmp_path, images=photos)
    for number in (1, 2, 12, 122):
        np.testing.assert_array_equal(load(f"masks/{number}.png"), np.where(MASK == 1, number % 3, MASK))
    assert report.classes == ["background", "class 1", "class 2"]
    assert (f"note: masks are named {name.format('*')} after their images" in str(report)) == (name != "{}")


def test_masks_may_lie_beside_or_below_their_images(tmp_path):
    beside = make_images(tmp_path / "beside", "a.jpg", "b.png", "c.png")
    save(beside / "a_gt.png", MASK)
    save(beside / "b_gt.png", MASK)
    with pytest.raises(LabelFileError, match=r"1 files belong to no image .*: c.png; move them away"):
        imported("masks", beside, tmp_path)
    report, _ = imported("masks", beside, tmp_path, names="*_gt")
    assert (report.images, report.unlabelled) == (3, 1)
    below = make_images(tmp_path / "below", "train/a.jpg", "val/a.jpg")
    save(below / "gt" / "train" / "a.png", MASK)
    save(below / "gt" / "val" / "a.png", np.where(MASK == 1, 0, MASK))
    report, load = imported("masks", below / "gt", tmp_path / "second", images=below)
    assert report.images == 2
    np.testing.assert_array_equal(load("masks/val_a.png"), np.where(MASK == 1, 0, MASK))


def test_of_several_kinds_of_masks_a_pattern_tells_those_that_are_meant(tmp_path):
    photos = make_images(tmp_path / "photos", "a.jpg", "b.jpg")
    for id in ("a", "b"):
        save(tmp_path / "gt" / f"{id}_labels.png", MASK)
        save(tmp_path / "gt" / f"{id}_color.png", colored())
    with pytest.raises(LabelFileError, match=r"2 files belong to no image if masks are named .*--names="):
        imported("masks", tmp_path / "gt", tmp_path, images=photos)
    report, _ = imported("masks", tmp_path / "gt", tmp_path, images=photos, names="*_labels")
    assert report.left_out == [f"2 files of {tmp_path}/gt that are not named *_labels"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label_colors.txt", CAMVID),
        ("class_dict.csv", "name,r,g,b\nTree,128,128,0\nRoad, 128, 64, 128\nVoid,0,0,0\nTree,192,192,0\n"),
        ("numbered.csv", "id,name,r,g,b\n0,Tree,128,128,0\n7,Road,128,64,128\n255,void,0,0,0\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nTree:128,128,0::\nRoad:128,64,128::\nvoid:0,0,0::\n"),
        ("colors.json", '{"Tree": [128, 128, 0], "Road": [128, 64, 128], "ignore": [0, 0, 0]}'),
        ("list.json", '[{"name": "Tree", "color": "#808000"}, {"name": "Road", "color": [128, 64, 128]}, '
                      '{"name": "unlabeled", "color": "#000000", "id": 7}]'),
    ],
)  # fmt: skip
def test_colours_stand_for_the_classes_of_their_table(tmp_path, name, text):
    photos = make_images(tmp_path / "photos", "a.jpg", "b.jpg")
    save(tmp_path / "gt" / "a_L.png", colored((TREE, (1, 1, 4, 4)), (ROAD, (5, 5, 9, 9))))
    save(tmp_path / "gt" / "b_L.png", canvas(2, c_1=(1, 1, 4, 4)), palette=[VOID, TREE, ROAD])  # by colour, not index
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    report, load = imported("masks", tmp_path / "gt", tmp_path, images=photos, colors=tmp_path / name)
    assert report.classes == ["Tree", "Road"]
    np.testing.assert_array_equal(load("masks/a.png"), canvas(255, c_0=(1, 1, 4, 4), c_1=(5, 5, 9, 9)))
    np.testing.assert_array_equal(load("masks/b.png"), canvas(1, c_0=(1, 1, 4, 4)))


def test_colours_that_are_not_in_the_table_are_refused_with_counts_and_the_nearest(tmp_path):
    photos = make_images(tmp_path / "photos", "a.jpg")
    save(tmp_path / "gt" / "a.png", colored(((127, 128, 1), (0, 0, 3, 4)), ((9, 9, 9), (5, 5, 6, 6))))
    (tmp_path / "label_colors.txt").write_text(CAMVID)
    with pytest.raises(LabelFileError) as error:
        imported("masks", tmp_path / "gt", tmp_path, images=photos, colors=tmp_path / "label_colors.txt")
    assert "12 pixels are (127, 128, 1), nearest to (128, 128, 0) Tree" in str(error.value)
    assert "1 pixels are (9, 9, 9), nearest to (0, 0, 0) Void" in str(error.value)


def test_0_and_255_of_two_classes_are_0_and_1(tmp_path):
    photos = make_images(tmp_path / "photos", "a.jpg", "b.jpg")
    save(tmp_path / "gt" / "a.png", canvas(0, c_255=(1, 1, 4, 4)))
    save(tmp_path / "gt" / "b.png", np.repeat(canvas(0, c_255=(2, 2, 3, 3))[..., None], 3, 2))  # grey, but as colours
    report, load = imported("masks", tmp_path / "gt", tmp_path, images=photos, classes=["no", "yes"])
    np.testing.assert_array_equal(load("masks/a.png"), canvas(0, c_1=(1, 1, 4, 4)))
    np.testing.assert_array_equal(load("masks/b.png"), canvas(0, c_1=(2, 2, 3, 3)))
    assert report.classes == ["no", "yes"]
    assert report.notes == ["masks hold 0 and 255: 255 is read as 1, yes"]


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        ([canvas(0, c_255=(1, 1, 2, 2)), canvas(0, c_1=(1, 1, 2, 2))], {}, "0.png holds 0 and 255, .*1.png 0 and 1"),
        ([canvas(0, c_128=(1, 1, 2, 2))], {}, "holds 0, 128, but values must be 0, 1, 2 and so on without gaps"),
        ([canvas(0, c_3=(1, 1, 2, 2))], {"classes": ["a", "b", "c"]}, "holds 0, 3, but the classes are 0 to 2"),
        ([colored((TREE, (1, 1, 2, 2)))], {}, r"is in colours, such as \(0, 0, 0\), \(128, 128, 0\); --colors=FILE"),
        ([np.zeros((*SIZE, 4))], {}, "is transparent in 140 pixels"),
        ([np.zeros((5, 7))], {}, "drawn on an image of 7x5 pixels, but .* is 14x10"),
        ([MASK], {"names": "mask"}, "must have one [*]"),
        ([MASK], {"names": "*_gt"}, "no mask belongs to an image if masks are named [*]_gt"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, masks, options, message):
    photos = make_images(tmp_path / "photos", *(f"{number}.jpg" for number in range(len(masks))))
    for number, mask in enumerate(masks):
        save(tmp_path / "gt" / f"{number}.png", mask)
    with pytest.raises(LabelFileError, match=message):
        imported("masks", tmp_path / "gt", tmp_path, images=photos, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (canvas(0, c_1=(1, 1, 4, 4)), "the index 1 is the colour .* but "),
        (canvas(0, c_2=(1, 1, 4, 4)), r"the colour \(128, 128, 0\) is the index 1 in .* but 2 in "),
    ],
)
def test_palettes_of_another_order_in_each_file_are_refused(tmp_path, mask, said):
    photos = make_images(tmp_path / "photos", "a.jpg", "b.jpg")
    save(tmp_path / "gt" / "a.png", canvas(0, c_1=(1, 1, 4, 4)), palette=[VOID, TREE, ROAD])
    save(tmp_path / "gt" / "b.png", mask, palette=[VOID, ROAD, TREE])
    with pytest.raises(LabelFileError, match=said + r".*b\.png: their palettes are in another order; --colors"):
        imported("masks", tmp_path / "gt", tmp_path, images=photos)


def test_masks_that_cannot_be_are_refused_by_name(tmp_path):
    photos = make_images(tmp_path / "photos", "a.jpg")
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / "a_mask.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(LabelFileError, match=r"a_mask\.png: is not a readable picture"):
        imported("masks", tmp_path / "gt", tmp_path, images=photos)
    with pytest.raises(LabelFileError, match=r"holds no mask.*JPEG changes the values"):
        imported("masks", photos, tmp_path)
    save(tmp_path / "other" / "z.png", MASK)
    with pytest.raises(LabelFileError, match=r"masks are z\.png and the like, images a"):
        imported("masks", tmp_path / "other", tmp_path, images=photos)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3 a\n1 2 3 b\n", r"the colour \(1, 2, 3\) stands there twice"),
        ("1 2 300 a\n", r"line 1: the colour of 'a' is \(1, 2, 300\)"),
        ("name,r,g,b\na,1,2\n", "line 2: is 'a,1,2', but must be a name and R, G, B"),
        ("1 2 3 a\n", "names 1 classes"),
        ("\n", "has no line"),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path, text, message):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(LabelFileError, match=rf"t\.txt: {message}"):
        read_table(tmp_path / "t.txt")


def test_the_command_takes_a_table_and_a_pattern(tmp_path, capsys):
    make_images(tmp_path / "photos", "a.jpg")
    save(tmp_path / "gt" / "a_L.png", colored((TREE, (1, 1, 4, 4)), (ROAD, (5, 5, 9, 9))))
    (tmp_path / "colors.txt").write_text(CAMVID)
    command = ["import-labels", "masks", f"{tmp_path}/gt", f"{tmp_path}/out", f"--images={tmp_path}/photos"]
    assert main([*command, f"--colors={tmp_path}/colors.txt", "--names=*_L"]) == 0
    assert "note: masks are named *_L after their images" in capsys.readouterr().out
    assert main(["import-labels", "csv", f"{tmp_path}/colors.txt", f"{tmp_path}/no", "--names=*"]) == 1
    assert "colors and names are about the format masks" in capsys.readouterr().err
