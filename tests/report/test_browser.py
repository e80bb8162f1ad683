"""The page of a report in a browser: it fits, asks for nothing, and plots and sliders hear mouse and keys."""

import json
import shutil

import pytest
from report_runs import make_run

from semiseg_jax.report.page import page

selenium = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page([make_run("one", 0), make_run("two", 0, hits=60, model="unet")]), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[390, 1400])
def browser(request, file):
    options = selenium.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options)
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(file.as_uri())
    yield driver
    driver.quit()


def test_the_page_fits_and_asks_for_nothing(browser, file):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {address for address in asked if not address.startswith("data:")} == {file.as_uri()}
    assert browser.get_log("browser") == []
    wide, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window


def test_a_plot_says_its_values_to_mouse_and_keys(browser):
    figure = browser.find_element(By.CSS_SELECTOR, "figure.plot")
    said = figure.find_element(By.CSS_SELECTOR, ".said")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    ActionChains(browser).move_to_element(figure.find_element(By.TAG_NAME, "svg")).perform()
    assert ", step " in said.text
    figure.send_keys(Keys.ARROW_LEFT * 20)
    assert said.text == "one, step 10: 0.2"
    figure.send_keys(Keys.ARROW_RIGHT)
    assert said.text == "one, step 20: 0.4"


def test_a_slider_goes_from_the_image_to_the_truth_by_mouse_and_keys(browser):
    panel = browser.find_element(By.CSS_SELECTOR, "figure.panel")
    slider, view = panel.find_element(By.TAG_NAME, "input"), panel.find_element(By.CSS_SELECTOR, ".view")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)

    def opacities():
        return [float(image.value_of_css_property("opacity")) for image in panel.find_elements(By.TAG_NAME, "img")]

    assert view.text == "prediction"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert view.text == "truth"
    assert opacities() == [1, 1, 1]
    slider.send_keys(Keys.ARROW_LEFT * 2)
    assert view.text == "image"
    assert opacities() == [1, 0, 0]
    width = slider.size["width"]
    ActionChains(browser).move_to_element_with_offset(slider, round(width * 0.25), 0).click().perform()
    assert opacities()[1] == 1
    assert 0.2 < opacities()[2] < 0.8
