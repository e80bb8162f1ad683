"""CVAT's XML: what its files hold, to the pixel, and what is refused."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from broken_files import MANY, assert_drawn_or_refused, mutated
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semiseg_jax import import_labels
from semiseg_jax.exchange import cvat
from semiseg_jax.exchange.archive import unpack_images
from semiseg_jax.exchange.drawings import LabelFileError
from semiseg_jax.exchange.folder import paint

SIZE = (10, 16)
META = """
  <meta>
    <task>
      <id>4</id>
      <name>yard</name>
      <labels>
        <label>
          <name>dog</name>
          <color>#fa3253</color>
          <type>any</type>
          <attributes>
            <attribute><name>breed</name><mutable>False</mutable></attribute>
          </attributes>
        </label>
        <label><name>cat</name><color>#33DDFF</color><type>any</type><attributes></attributes></label>
        <label><name>ignore</name><color>#000000</color><type>any</type></label>
        <label><name>body</name><type>skeleton</type><svg>&lt;line x1="1"&gt;&lt;/line&gt;</svg></label>
        <label><name>1</name><type>points</type><parent>body</parent></label>
      </labels>
    </task>
    <dumped>2024-05-01 10:00:00.000000+00:00</dumped>
  </meta>"""
SHAPES = """
    <polygon label="dog" source="manual" occluded="1" points="2.00,2.00;10.00,2.00;10.00,8.00;2.00,8.00" z_order="1">
      <attribute name="breed">poodle</attribute>
    </polygon>
    <mask label="cat" source="manual" occluded="0" rle="1, 2, 3" left="9" top="1" width="3" height="2" z_order="2">
    </mask>
    <polygon label="cat" occluded="0" points="0.00,0.00;16.00,0.00;16.00,4.00;0.00,4.00" z_order="-1" group_id="3"/>
    <ellipse label="ignore" occluded="0" cx="6.00" cy="5.00" rx="2.50" ry="1.00" rotation="90.00" z_order="1"></ellipse>
    <box label="cat" occluded="0" xtl="4.00" ytl="2.00" xbr="8.00" ybr="4.00" rotation="90.00" z_order="0"></box>
    <box label="dog" occluded="0" xtl="4.00" ytl="3.00" xbr="8.00" ybr="7.00" rotation="45.00" z_order="0"></box>
    <box label="ignore" occluded="0" xtl="1.00" ytl="1.00" xbr="3.50" ybr="3.00" z_order="0"></box>
    <points label="dog" occluded="0" points="3.50,4.50;9.00,7.25" z_order="0"></points>
    <polyline label="cat" occluded="0" points="1.00,1.00;12.00,1.00;12.00,3.00" z_order="0"></polyline>
    <tag label="cat" source="manual"></tag>
    <skeleton label="body" z_order="0"><points label="1" outside="0" points="5.00,5.00"></points></skeleton>
    <cuboid label="dog" occluded="0" xtl1="1.00" ytl1="1.00"></cuboid>"""


def document(shapes="", *, attributes='width="16" height="10"', meta=META, more=""):
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>{meta}\n'
        f'  <image id="0" name="yard/a.png" {attributes}>{shapes}\n  </image>{more}\n</annotations>\n'
    )


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "annotations.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return cvat.read(path)

    return read


def test_every_shape_arrives(read):
    drawings = read(document(SHAPES, attributes='subset="Validation" width="16" height="10"'))
    assert drawings.classes == ["dog", "cat"]
    assert drawings.colors == {"dog": [250, 50, 83], "cat": [51, 221, 255]}
    (drawing,) = drawings.drawings
    assert (drawing.image, drawing.size, drawing.split) == ("yard/a.png", SIZE, "val")
    cat, dog, ignored = 2, 1, 255
    expected = np.full(SIZE, 255, np.uint8)  # a cuboid and a skeleton were left out, so the rest is unknown
    expected[:4] = cat
    expected[2:8, 2:10] = dog
    expected[3:7, 5:7] = ignored  # an upright ellipse whose half axes are 2.5 and 1
    expected[1, 10:12] = cat  # the mask lies in row 1, columns 9 to 11, and begins with one pixel outside
    np.testing.assert_array_equal(paint(drawing, SIZE, ["background", "dog", "cat"]), expected)
    turned, askew, crowd = drawing.boxes
    np.testing.assert_allclose((turned.y0, turned.x0, turned.y1, turned.x1), (1, 5, 5, 7))
    half = 4 / np.sqrt(2)
    np.testing.assert_allclose((askew.y0, askew.x0, askew.y1, askew.x1), (5 - half, 6 - half, 5 + half, 6 + half))
    assert crowd.ignore
    assert [(point.label, point.y, point.x) for point in drawing.points] == [("dog", 4.5, 3.5), ("dog", 7.25, 9)]
    np.testing.assert_array_equal(drawing.strokes[0].places, [[1, 1], [1, 12], [3, 12]])
    assert drawing.tags == ["cat"]
    assert drawings.left_out == [
        "1 attributes 'breed' of shapes",
        "1 marks 'group_id' of shapes",
        "1 marks 'occluded' of shapes",
        "1 shapes <cuboid>",
        "1 shapes <skeleton>",
        "1 turned boxes: the upright box around each is taken",
    ]


POLYGON = '<polygon label="{}" points="1,1;5,1;5,5;1,5"/>'


@pytest.mark.parametrize(
    ("shapes", "complete"),
    [
        (POLYGON.format("dog"), True),
        ("", False),
        (POLYGON.format("dog") + '<tag label="sunny"/>', True),
        (POLYGON.format("dog") + '<box label="dog" xtl="1" ytl="1" xbr="5" ybr="5"/>', True),
        (POLYGON.format("dog") + '<box label="cat" xtl="6" ytl="1" xbr="9" ybr="5"/>', False),
        (POLYGON.format("dog") + POLYGON.format("Background"), False),
        (POLYGON.format("ignore"), False),
        (POLYGON.format("dog") + '<star label="dog"/>', False),
    ],
)
def test_the_rest_is_background_where_everything_was_outlined(read, shapes, complete):
    (drawing,) = read(document(shapes)).drawings
    assert drawing.complete is complete


def test_of_shapes_in_the_same_layer_the_later_covers_the_earlier(read):
    (drawing,) = read(document(POLYGON.format("dog") + POLYGON.format("cat"))).drawings
    assert paint(drawing, SIZE, ["background", "dog", "cat"])[2, 2] == 2


def test_an_ellipse_turns_clockwise(read):
    (drawing,) = read(document('<ellipse label="dog" cx="8" cy="5" rx="5" ry="1" rotation="45"/>')).drawings
    mask = paint(drawing, SIZE, ["background", "dog"])
    assert mask[7, 10] == mask[2, 5] == 1  # from the upper left to the lower right
    assert mask[2, 10] == mask[7, 5] == 0


def test_tracks_of_videos_are_counted(read):
    track = '<track id="0" label="car"><box frame="0" outside="0" xtl="1" ytl="1" xbr="2" ybr="2"/></track>'
    drawings = read(f"<annotations>{track * 3}</annotations>")
    assert not drawings.drawings
    assert drawings.left_out == ["3 tracks of videos: export single images from CVAT instead"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html/>", "begins with <html>, but CVAT's files with <annotations>"),
        ("<annotations>", "not readable XML"),
        (document().encode("utf-16"), "not readable XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "declares a DOCTYPE or entities"),
        (document(attributes='width="16"'), "image 'yard/a.png': the height of its image is None, not a number"),
        (
            document(attributes='width="50000" height="50000"'),
            "of 50000x50000 is refused, as of more than 200,000,000 pixels",
        ),
        (document(attributes='width="16" height="10" subset="../x"'), "is of the subset '../x'; name it in letters"),
        (document('<polygon points="1,1;2,2;3,1"/>'), "a polygon: its label is None, but must be a text"),
        (document('<polygon label="dog" points="1,1;2,2"/>'), "a polygon has 2 corners, but an area needs three"),
        (document('<polygon label="dog" points="1,1;2;3,1"/>'), "points hold '2', not x,y"),
        (document('<points label="dog" points="1,nan"/>'), "a y is 'nan', not a number"),
        (document('<box label="dog" xtl="1e9" ytl="1" xbr="2" ybr="2"/>'), "xtl is '1e9', not a number between"),
        (document('<mask label="dog" rle="1,2" left="0" top="0" width="2" height="2"/>'), "sum to 3, but it is 2x2"),
        (document('<mask label="dog" rle="9" left="0" top="0" width="17" height="2"/>'), "width is '17'"),
        (document('<mask label="dog" rle="9,-5" left="0" top="0" width="2" height="2"/>'), "a run of rle is '9'"),
        (document('<ellipse label="dog" cx="1" cy="1" rx="0" ry="1"/>'), "rx is '0'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(read, text, message):
    with pytest.raises(LabelFileError, match=message) as caught:
        read(text)
    assert "annotations.xml" in str(caught.value)


def archive(path, names, text):
    picture = io.BytesIO()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(picture, "png")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("annotations.xml", text)
        for name in names:
            file.writestr(name, picture.getvalue())
    return path


def test_an_archive_with_its_images_is_imported(tmp_path):
    path = archive(tmp_path / "job.zip", ["images/yard/a.png", "images/b.png"], document(POLYGON.format("dog")))
    report = import_labels("cvat", path, tmp_path / "out")
    assert (report.images, report.unlabelled) == (2, 1)
    description = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert description["classes"] == ["background", "dog", "cat"]
    assert description["colors"][1:] == [[250, 50, 83], [51, 221, 255]]
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "yard_a.png"))
    expected = np.zeros(SIZE, np.uint8)
    expected[1:5, 1:5] = 1
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("name", ["../a.png", "images/../../a.png", "/a.png", "C:/a.png", "..\\a.png"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = archive(tmp_path / "in" / "job.zip", [name], document())
    before = sorted(tmp_path.rglob("*"))
    for images in ("", tmp_path):
        with pytest.raises(LabelFileError, match="which leads out of the folder"):
            import_labels("cvat", path, tmp_path / "out", images=images)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_made_to_fill_disks_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "job.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("annotations.xml", document())
        file.writestr("a.png", bytes(2**26 + 1))
    with pytest.raises(LabelFileError, match="too many for such a file"):
        import_labels("cvat", tmp_path / "job.zip", tmp_path / "out")


def test_images_of_an_archive_cannot_be_linked(tmp_path):
    path = archive(tmp_path / "job.zip", ["a.png"], document())
    with pytest.raises(ValueError, match="can be copied only"):
        import_labels("cvat", path, tmp_path / "out", link=True)


TAGS = "image box polygon polyline points mask ellipse tag track meta skeleton attribute"
NAMES = st.sampled_from(TAGS.split())
FIELDS = "label points rle left top width height cx cy rx ry rotation xtl ytl xbr ybr z_order"
KEYS = st.sampled_from(FIELDS.split())
VALUES = st.sampled_from(["", "0", "1", "2,1", "1,1;4,1;4,4", "-1", "1e400", "nan", "٣", "cat", "ignore", "9" * 400])
SHAPE = st.builds(
    lambda name, fields: f"<{name} " + " ".join(f'{key}="{value}"' for key, value in fields.items()) + "/>",
    NAMES,
    st.dictionaries(KEYS, VALUES, max_size=8),
)


@pytest.mark.heavy
@MANY
@given(text=mutated(document(SHAPES).encode()) | st.lists(SHAPE, max_size=5).map(lambda all: document("".join(all))))
def test_no_file_ends_in_anything_but_drawings_or_a_refusal(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("cvat") / "annotations.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_drawn_or_refused(cvat.read, path)


@pytest.mark.heavy
@MANY
@given(data=st.data())
def test_no_archive_ends_in_anything_but_drawings_or_a_refusal(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    path = archive(folder / "job.zip", ["images/a.png"], document(SHAPES))
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    assert_drawn_or_refused(cvat.read, path)
    (folder / "in" / "here").mkdir(parents=True)
    with contextlib.suppress(LabelFileError):
        unpack_images(path, folder / "in" / "here")
    assert set(folder.iterdir()) == {path, folder / "in"}
    assert list((folder / "in").iterdir()) == [folder / "in" / "here"]
