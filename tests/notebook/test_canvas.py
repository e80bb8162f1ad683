"""The canvas: what it sends and keeps, and that what mouse and keys draw in a browser arrives in the folder."""

import base64
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import semiseg_jax
from semiseg_jax.data.folder_files import read_source
from semiseg_jax.data.types import Supervision
from semiseg_jax.notebook import canvas as canvas_module

CLASSES = ["background", "cat", "dog"]
SIDES = {"a": (120, 160), "b": (900, 1500)}  # the second is larger than what a browser gets


class HalfAndHalf:
    """A model that finds background at the left and cats at the right."""

    def labels(self, images):
        for image in images:
            found = np.zeros(image.shape[:2], np.uint8)
            found[:, found.shape[1] // 2 :] = 1
            yield found


@pytest.fixture
def canvas(tmp_path):
    pytest.importorskip("anywidget")
    (tmp_path / "photos").mkdir()
    for name, (height, width) in SIDES.items():
        ramp = np.linspace(60, 200, width).astype(np.uint8)
        Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3))).save(tmp_path / f"photos/{name}.png")
    return semiseg_jax.LabelCanvas(tmp_path / "labels", tmp_path / "photos", CLASSES)


def decoded(picture):
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)


def test_the_canvas_shows_images_and_keeps_what_the_browser_draws(canvas):
    widget = canvas.widget
    assert (widget.names, widget.classes) == (canvas.ids, CLASSES) == (["a", "b"], CLASSES)
    assert "application/vnd.jupyter.widget-view+json" in str(canvas._repr_mimebundle_())
    assert decoded(widget.shown["image"]).shape == (120, 160, 3)
    point = {"kind": "point", "class": 2, "places": [[100.5, 20.25]]}
    widget.set_state({"index": 1, "drawn": {"name": "a", "shapes": [point]}})  # the next image, before it has arrived
    assert canvas.folder.shapes("a") == [point]
    assert (widget.shown["name"], widget.shown["size"]) == ("b", [900, 1500])
    assert decoded(widget.shown["image"]).shape == (768, 1280, 3)
    assert widget.shown["shapes"] == []
    assert (canvas.kinds, canvas.labelled) == (["points"], ["a"])
    canvas.draw("b", [point])
    assert (widget.shown["version"], widget.shown["shapes"]) == (1, [point])


def test_predictions_are_sent_alone_and_background_is_clear(canvas):
    shown = canvas.widget.shown
    assert canvas.widget.prediction == {}
    canvas.predict_with(HalfAndHalf())
    assert canvas.widget.shown is shown  # which would undo strokes that are still on their way
    picture = decoded(canvas.widget.prediction["picture"])
    assert picture.shape == (120, 160, 4)
    assert not picture[:, :80, 3].any()
    assert (picture[:, 80:, 3] == 255).all()
    np.testing.assert_array_equal(picture[0, 159, 2::-1], canvas.folder.colors[1])
    canvas.widget.index = 1
    assert canvas.widget.prediction["name"] == "b"


def test_without_anywidget_the_error_says_what_to_install(tmp_path, make_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pip install 'semiseg-jax\[notebook\]'"):
        semiseg_jax.LabelCanvas(make_folder())


PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><link rel="stylesheet" href="canvas.css">
<body style="margin:8px"><div id="here"></div><script type="module">
import canvas from "./canvas.js";
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
const revived = (value) =>
  value && typeof value === "object" && "base64" in value ? bytes(value.base64)
  : value && typeof value === "object" && !Array.isArray(value)
  ? Object.fromEntries(Object.entries(value).map(([name, item]) => [name, revived(item)])) : value;
const listeners = [];
window.sent = [];
window.state = {};
window.receive = (values) => {
  for (const [name, value] of Object.entries(values)) state[name] = revived(value);
  for (const name of Object.keys(values))
    for (const [event, listener] of listeners) if (event === `change:${name}`) listener();
};
let changed = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; changed[name] = value; },
  save_changes: () => { sent.push(JSON.parse(JSON.stringify(changed))); changed = {}; },
  on: (event, listener) => listeners.push([event, listener]),
  off: () => {},
};
window.start = (values) => { receive(values); canvas.render({ model, el: document.getElementById("here") }); };
window.ready = true;
</script>"""


def as_json(value):
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return {name: as_json(item) for name, item in value.items()} if isinstance(value, dict) else value


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a page with the canvas's own script and style, and a model in place of the notebook's."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("canvas.js", "canvas.css"):
        shutil.copy(Path(canvas_module.__file__).parent / name, folder)
    (folder / "index.html").write_text(PAGE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def driver():
    selenium = pytest.importorskip("selenium.webdriver")
    if not shutil.which("chromedriver"):
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options)
    yield driver
    driver.quit()


class Page:
    """The canvas in a browser, joined to the one in Python as a notebook joins them."""

    def __init__(self, driver, canvas, address, width):
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver, self.canvas = driver, canvas
        self.wait = WebDriverWait(driver, 20, poll_frequency=0.05)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(address)
        self.wait.until(lambda driver: driver.execute_script("return window.ready"))
        self.run("start(arguments[0])", self.state("names", "classes", "colors", "index", "shown", "prediction"))
        self.until_shown("a")

    def run(self, script, *values):
        return self.driver.execute_script(script, *values)

    def state(self, *names):
        return {name: as_json(getattr(self.canvas.widget, name)) for name in names}

    def until_shown(self, name):
        self.wait.until(lambda driver: f", {name}: " in self.status and "loading" not in self.status)
        self.wait.until(lambda driver: self.picture.size["height"] > 0)

    @property
    def status(self):
        return self.driver.find_element("css selector", ".status").text

    @property
    def picture(self):
        return self.driver.find_element("css selector", "canvas")

    def exchange(self):
        """What the browser sent goes to Python, and what Python shows to the browser."""
        for values in self.run("return sent.splice(0)"):
            self.canvas.widget.set_state(values)
        self.run("receive(arguments[0])", self.state("shown", "prediction"))

    def choose(self, title):
        self.driver.find_element("css selector", f'label[title^="{title}"]').click()

    def drag(self, *places):
        """A mouse drag through places y, x, which are shares of the picture's height and width."""
        from selenium.webdriver.common.action_chains import ActionChains

        size = self.picture.size
        moves = [(round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])) for y, x in places]
        chain = ActionChains(self.driver, duration=20).move_to_element_with_offset(self.picture, *moves[0])
        chain.click_and_hold()
        for move in moves[1:]:
            chain.move_to_element_with_offset(self.picture, *move)
        chain.release().perform()

    def press(self, *keys):
        for key in keys:
            self.picture.send_keys(key)


@pytest.fixture
def open_page(driver, canvas, address):
    pages = []

    def open_page(width=1000):
        pages.append(Page(driver, canvas, address, width))
        return pages[-1]

    yield open_page
    log = driver.get_log("browser") if pages else []
    assert [entry for entry in log if entry["source"] != "rendering"] == []  # which advises tests that read pixels


@pytest.mark.heavy
@pytest.mark.parametrize("width", [390, 1400])
def test_a_stroke_a_click_and_a_box_of_a_mouse_arrive_in_the_folder(open_page, canvas, open_set, width):
    page = open_page(width)
    page.drag((0.25, 0.25), (0.25, 0.5), (0.5, 0.75))
    page.choose("Click")
    page.choose("dog")
    page.drag((0.75, 0.5))
    page.choose("Box")
    page.choose("cat")
    page.drag((0.9, 0.9), (0.6, 0.1))
    assert page.status == "Image 1 of 2, a: 1 stroke, 1 click, 1 box"
    page.exchange()
    stroke, point, box = canvas.folder.shapes("a")
    height, wide = SIDES["a"]
    close = functools.partial(np.testing.assert_allclose, atol=2)
    assert (stroke["class"], point["class"], box["class"]) == (1, 2, 1)
    close(stroke["places"][0], (0.25 * height, 0.25 * wide))
    close(stroke["places"][-1], (0.5 * height, 0.75 * wide))
    assert len(stroke["places"]) >= 3
    close(point["places"], [(0.75 * height, 0.5 * wide)])
    root = canvas.folder.root
    scribbles = cv2.imread(str(root / "scribbles" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert scribbles.shape == (height, wide)
    assert set(np.unique(scribbles[28:33, 50:70])) == {1, 255}
    ((found, klass),) = read_source(root).boxes.rows["a"]
    assert klass == 1
    close(found, (0.6 * height, 0.1 * wide, 0.9 * height, 0.9 * wide))
    row = open_set(root).info.splits["train"][0]
    assert set(row["kinds"]) >= {Supervision.SCRIBBLE, Supervision.POINTS, Supervision.BOX}
    wanted, window = page.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wanted <= window


@pytest.mark.heavy
def test_keys_choose_draw_back_and_go_on(open_page, canvas):
    from selenium.webdriver.common.keys import Keys

    page = open_page()
    page.drag((0.5, 0.5))
    page.press("c", "3")
    page.drag((0.2, 0.2))
    page.press("e")
    page.drag((0.5, 0.5))
    assert page.status.endswith("0 strokes, 1 click, 0 boxes")
    page.press("z")
    assert page.status.endswith("1 stroke, 1 click, 0 boxes")
    page.press(Keys.ARROW_RIGHT)
    assert page.status == "Image 2 of 2, b: loading"
    page.drag((0.5, 0.5))  # onto an image that is not there yet
    page.exchange()
    page.until_shown("b")
    assert [shape["kind"] for shape in canvas.folder.shapes("a")] == ["stroke", "point"]
    assert canvas.folder.shapes("b") == []
    page.press("s", "1", "]")
    page.drag((0.1, 0.1), (0.1, 0.5))
    page.exchange()
    (stroke,) = canvas.folder.shapes("b")
    assert (stroke["class"], stroke["width"]) == (0, 4)
    np.testing.assert_allclose(stroke["places"][-1], (90, 750), atol=4)  # in pixels of the file, not of the picture
    page.press(Keys.ARROW_LEFT)
    page.exchange()
    page.until_shown("a")
    assert page.status.endswith("1 stroke, 1 click, 0 boxes")


@pytest.mark.heavy
def test_what_was_drawn_is_there_where_a_page_opens_again(open_page, canvas):
    page = open_page()
    page.drag((0.5, 0.5), (0.5, 0.8))
    page.exchange()
    page.run("start(arguments[0])", page.state("shown", "drawn"))  # a second view of the same canvas
    page.wait.until(lambda driver: len(driver.find_elements("css selector", ".status")) == 2)
    second = page.driver.find_elements("css selector", ".status")[1]
    page.wait.until(lambda driver: "stroke" in second.text)
    assert second.text.endswith("1 stroke, 0 clicks, 0 boxes")


@pytest.mark.heavy
def test_a_key_while_the_next_image_arrives_leaves_that_image_alone(open_page, canvas):
    page = open_page()
    page.drag((0.5, 0.5), (0.5, 0.8))
    page.exchange()
    canvas.widget.index = 1
    shown = page.state("index", "shown")
    page.run(
        "receive(arguments[0]); document.querySelector('canvas').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'z', bubbles: true}))",
        shown,
    )
    page.exchange()
    page.until_shown("b")
    assert canvas.folder.shapes("b") == []
    assert [shape["kind"] for shape in canvas.folder.shapes("a")] == ["stroke"]


@pytest.mark.heavy
def test_the_prediction_lies_over_the_image_as_strongly_as_wanted(open_page, canvas):
    page = open_page()
    at = "const c = document.querySelector('canvas'); return [...c.getContext('2d').getImageData("
    at += "Math.round(c.width * arguments[0]), 20, 1, 1).data].slice(0, 3)"
    left, right = page.run(at, 0.25), page.run(at, 0.75)
    assert right[0] == right[1]
    page.drag((0.9, 0.1))
    canvas.predict_with(HalfAndHalf())  # before the stroke has arrived
    page.run("receive(arguments[0])", page.state("prediction"))
    mixed = np.mean([right, canvas.folder.colors[1]], axis=0)
    page.wait.until(lambda driver: np.allclose(page.run(at, 0.75), mixed, atol=2))
    assert page.run(at, 0.25) == left
    assert page.status.endswith("1 stroke, 0 clicks, 0 boxes")
    page.press("p")
    assert page.run(at, 0.75) == right
    page.exchange()
    assert len(canvas.folder.shapes("a")) == 1
    canvas.draw("a", [])
    page.exchange()
    page.wait.until(lambda driver: page.status.endswith("0 strokes, 0 clicks, 0 boxes"))
