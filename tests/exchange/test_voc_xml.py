"""Annotations of Pascal VOC and LabelImg: boxes, and what is refused."""

import pytest
from label_files import boxes_by_id, imported, make_images

from semiseg_jax.exchange import voc_xml
from semiseg_jax.exchange.drawings import LabelFileError

OBJECT = """
	<object>
		<name>{name}</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>{difficult}</difficult>{more}
		<bndbox>
			<xmin>{x0}</xmin>
			<ymin>{y0}</ymin>
			<xmax>{x1}</xmax>
			<ymax>{y1}</ymax>
		</bndbox>
	</object>"""
PART = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"


def thing(name, x0, y0, x1, y1, difficult=0, more=""):
    return OBJECT.format(name=name, x0=x0, y0=y0, x1=x1, y1=y1, difficult=difficult, more=more)


def write(folder, name, *objects, filename=None, width=14, height=10, start=""):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.xml").write_text(
        f"""{start}<annotation verified="yes">
	<folder>VOC2012</folder>
	<filename>{filename or f"{name}.jpg"}</filename>
	<path>C:\\Users\\me\\{name}.jpg</path>
	<source><database>Unknown</database></source>
	<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
	<segmented>1</segmented>{"".join(objects)}
</annotation>
"""
    )


@pytest.fixture
def photos(tmp_path):
    return make_images(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")


def test_corners_are_pixels_from_1_on_and_difficult_objects_are_ignored(photos, tmp_path):
    xmls = tmp_path / "Annotations"
    write(xmls, "a", thing("dog", 1, 2, 4, 6), thing("cat", 5, 5, 14, 10, difficult=1, more=PART))
    write(xmls, "b", thing("dog", "2.5", "3.5", "7.5", "8"), filename="b", width=0, height=0)  # no suffix, no size
    write(xmls, "c")
    (xmls / "._a.xml").write_bytes(b"\0\0")
    report, load = imported("voc", xmls, tmp_path, images=photos)
    assert report.classes == ["background", "cat", "dog"]
    assert boxes_by_id(load("boxes.json")) == {
        "a": [([0, 1, 4, 5], 2, 0), ([4, 4, 10, 6], 1, 1)],
        "b": [([1.5, 2.5, 6, 5.5], 2, 0)],
    }
    assert (load("masks/c.png") == 0).all()
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["c.png"]
    assert report.left_out == ["1 boxes of parts of objects"]
    assert report.notes == [
        "1 images without any object are background throughout",
        "1 objects are marked as difficult: nothing is said about their boxes",
    ]


def test_a_corner_of_0_shows_that_corners_are_edges(photos, tmp_path):
    write(tmp_path / "xml", "a", thing("dog", 0, 2, 4, 6), thing("dog", 3, 3, 3, 5))
    write(tmp_path / "xml", "b", thing("dog", 2, 3, 7, 8))
    report, load = imported("voc", tmp_path / "xml", tmp_path, images=photos)
    assert boxes_by_id(load("boxes.json")) == {"a": [([0, 2, 4, 4], 1, 0)], "b": [([2, 3, 5, 5], 1, 0)]}
    assert "counted from 0" in report.notes[0]
    assert report.left_out == ["1 boxes without any width or height"]


def test_turned_boxes_are_left_out_in_words(photos, tmp_path):
    turned = "<object><type>robndbox</type><name>ship</name><robndbox><cx>5</cx></robndbox></object>"
    write(tmp_path / "xml", "a", turned, thing("dog", 1, 1, 3, 3))
    report, _ = imported("voc", tmp_path / "xml", tmp_path, images=photos)
    assert report.left_out == ["1 turned boxes of objects, as VOC has boxes only"]


ENDLESS = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>'


@pytest.mark.parametrize(
    ("objects", "options", "message"),
    [
        ([thing("dog", 1, 1, 3, 3)], {"width": 28, "height": 20}, "an image of 28x20 pixels, but .* is 14x10"),
        ([thing("dog", 1, 1, 3, 3)], {"start": ENDLESS}, "a.xml: declares a DOCTYPE"),
        ([thing("dog", 1, 1, 3, 3)], {"width": "wide"}, "size/width is 'wide', not a number"),
        ([thing("dog", 1, 1, 3, 3)], {"width": 10**5, "height": 10**5}, "of 100000x100000 is refused, as of more than"),
        ([thing("dog", 5, 1, 3, 3)], {}, "a box of 'dog' ends before it begins"),
        ([thing("dog", 5, 1, "nan", 3)], {}, "bndbox/xmax is 'nan', not a number"),
        ([thing("dog", 5, 1, 40, 3)], {}, "a box of 'dog' lies outside"),
        ([thing("", 1, 1, 3, 3)], {}, "the name of an object is '', but must be a text"),
        (["<object><name>dog</name></object>"], {}, "a.xml: a dog has no bndbox"),
        (["<object>"], {}, "a.xml: not readable XML"),
    ],
)
def test_what_does_not_fit_is_refused(photos, tmp_path, objects, options, message):
    write(tmp_path / "xml", "a", *objects, **options)
    with pytest.raises(LabelFileError, match=message):
        imported("voc", tmp_path / "xml", tmp_path, images=photos)


def test_all_problems_are_reported_together(tmp_path):
    write(tmp_path / "xml", "a", "<object>")
    write(tmp_path / "xml", "b", start=ENDLESS.encode("utf-8").decode())
    (tmp_path / "xml" / "c.xml").write_text("<html></html>")
    with pytest.raises(LabelFileError, match=r"(?s)a\.xml.*b\.xml.*c\.xml: is no annotation of VOC"):
        voc_xml.read(tmp_path / "xml")
    wide = ENDLESS.replace('"1.0"', '"1.0" encoding="utf-16"') + "<annotation/>"
    (tmp_path / "wide.xml").write_bytes(wide.encode("utf-16"))
    with pytest.raises(LabelFileError, match="declares a DOCTYPE"):
        voc_xml.read(tmp_path / "wide.xml")


def test_what_is_said_of_objects_is_counted(photos, tmp_path):
    said = "<occluded>1</occluded><attributes><attribute><name>rot</name></attribute></attributes>"
    left = thing("dog", 1, 1, 3, 3, more=said).replace("Unspecified", "Left").replace("<truncated>0", "<truncated>1")
    write(tmp_path / "xml", "a", left, thing("dog", 2, 2, 4, 4, more="<occluded>no</occluded><truncated/>"))
    report, _ = imported("voc", tmp_path / "xml", tmp_path, images=photos)
    assert report.left_out == [
        f"1 fields <{tag}> of objects" for tag in ("attributes", "occluded", "pose", "truncated")
    ]
