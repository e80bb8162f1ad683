"""The commands of docs/labels.md, run as they stand, on a few images."""

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

from semiseg_jax import cli

pytestmark = pytest.mark.heavy

TEXT = (Path(__file__).parents[2] / "docs" / "labels.md").read_text()
WAYS = {
    title: [shlex.split(line)[1:] for line in block.splitlines()]
    for title, block in re.findall(r"## ([^\n]+)\n.*?```bash\n(.*?)```", TEXT, re.DOTALL)
}
SIZE = (40, 48)
SMALL = [
    "--config.steps=2", "--config.augment.crop=(32, 32)", '--config.model={"name": "unet", "widths": (8, 8)}',
    "--config.eval.every=2", "--config.log.tensorboard=False", "--config.data.data_dir=built",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photos, of which the first four show a bright square."""
    (tmp_path / "photos").mkdir()
    for number in range(6):
        image = np.full((*SIZE, 3), 40, np.uint8)
        image[10 + number : 30, 12:30] = 200
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.jpg"), image)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def corners(number):
    return [(12, 10 + number), (30, 10 + number), (30, 30), (12, 30)]


def write_labelme(folder):
    for number in range(4):
        shape = {"label": "square", "points": corners(number), "shape_type": "polygon", "group_id": None, "flags": {}}
        content = {
            "version": "5.4.1", "flags": {}, "shapes": [shape], "imagePath": f"{number}.jpg", "imageData": None,
            "imageHeight": SIZE[0], "imageWidth": SIZE[1],
        }  # fmt: skip
        (folder / f"{number}.json").write_text(json.dumps(content))


def write_coco(path):
    images = [{"id": n, "file_name": f"{n}.jpg", "height": SIZE[0], "width": SIZE[1]} for n in range(4)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "area": 18 * (20 - n),
         "bbox": [12, 10 + n, 18, 20 - n], "segmentation": [[value for corner in corners(n) for value in corner]]}
        for n in range(4)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "square"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_label_studio(path):
    tasks = []
    for n in range(4):
        points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in corners(n)]
        result = {
            "id": f"r{n}", "type": "polygonlabels", "from_name": "label", "to_name": "image",
            "original_width": SIZE[1], "original_height": SIZE[0],
            "value": {"points": points, "closed": True, "polygonlabels": ["square"]},
        }  # fmt: skip
        annotation = {"id": n, "was_cancelled": False, "result": [result]}
        tasks.append({"id": n, "data": {"image": f"/data/upload/1/0123abcd-{n}.jpg"}, "annotations": [annotation]})
    path.write_text(json.dumps(tasks))


def run(command):
    assert cli.main(command + (SMALL if command[0] == "train" else [])) == 0, command


def test_the_ways_in_lead_to_a_trained_model(here):
    write_labelme(here / "photos")
    write_coco(here / "instances.json")
    write_label_studio(here / "export.json")
    ways = [title for title in WAYS if title != "Back to the tool"]
    assert len(ways) == 3
    masks = {}
    for number, title in enumerate(ways):
        for command in WAYS[title]:
            run(
                [
                    word.replace("dataset", f"dataset{number}").replace("runs/first", f"runs/{number}")
                    for word in command
                ]
            )
        assert (here / "runs" / str(number) / "predictions" / "predictions.json").is_file()
        masks[title] = cv2.imread(str(here / f"dataset{number}" / "masks" / "1.png"), cv2.IMREAD_UNCHANGED)
    expected = np.zeros(SIZE, np.uint8)
    expected[11:30, 12:30] = 1
    for title, mask in masks.items():
        np.testing.assert_array_equal(mask, expected, err_msg=title)


def test_the_way_back_leads_to_the_next_model(here):
    write_labelme(here / "photos")
    for command in WAYS["Fifty photos of a phone"][:2]:
        run(command)
    for path in (here / "photos").glob("*.json"):
        path.unlink()
    for command in WAYS["Back to the tool"]:
        run(command)
    assert (here / "to_correct" / "order.csv").is_file()
    assert len(list((here / "corrected" / "masks").iterdir())) == 6
