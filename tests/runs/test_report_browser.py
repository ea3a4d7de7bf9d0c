"""The report in a real browser, without network: its sliders move, and nothing is asked of the outside."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxdiff.runs import page, report

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def plain(value):
    return np.full((32, 32, 3), value, np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    samples = np.stack([plain(-1), plain(0)])
    rows = [{"seed": k, "psnr": 20.0, "residual_ratio": 1.0} for k in range(2)]
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    section = report.samples_section(
        "Denoising, DPS", samples=samples, measurement=plain(1), truth=plain(1), rows=rows, frames=frames
    )
    blocks = [page.command("python -m " + "long" * 50), section, page.slider(plain(1), plain(-1), "white", "black")]
    page.write_page(path, "Report", blocks)
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, path):
    """Opens the report offline; at the end, nothing may have failed or been asked for."""
    contexts, complaints, requests = [], [], []

    def open_page(**options):
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith("data:")} == {path.as_uri()}


def screenshot(target):
    return np.asarray(Image.open(io.BytesIO(target.screenshot())).convert("L"), float)


def columns(page, which):
    """The grey values across one slider, above its handle."""
    return np.median(screenshot(page.locator(".stack").nth(which))[10:60], axis=0)


def white(page, which=-1):
    """The part of a slider that shows the white image, which is on the left."""
    return float(np.mean(columns(page, which) > 200))


def test_the_mouse_moves_one_slider(open_page):
    page = open_page()
    assert page.locator(".stack").count() == 3
    assert white(page) == pytest.approx(0.5, abs=0.02)
    box = page.locator(".stack").last.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"])
    page.mouse.down()
    for at in (0.2, 0.8):
        page.mouse.move(box["x"] + at * box["width"], box["y"] + 0.8 * box["height"], steps=3)
        assert white(page) == pytest.approx(at, abs=0.02)
    page.mouse.up()
    assert [white(page, k) for k in (0, 1)] == pytest.approx([0.5, 0.5], abs=0.02)


def test_the_keyboard_moves_a_slider(open_page):
    page = open_page()
    page.locator(".stack input").last.focus()
    for key, at in [("ArrowRight", 0.51), ("Home", 0.0), ("End", 1.0), ("ArrowLeft", 0.99)]:
        page.keyboard.press(key)
        assert white(page) == pytest.approx(at, abs=0.015)
    assert page.get_by_role("slider").count() == 3


def test_another_sample_is_put_into_the_sliders_of_its_section(open_page):
    page = open_page()
    assert columns(page, 0)[-20] < 10
    page.get_by_role("combobox").select_option("sample, seed 1")
    assert [columns(page, k)[-20] for k in range(3)] == pytest.approx([128, 128, 0], abs=2)
    assert page.locator(".slider").first.inner_text().split("\n")[-1] == "sample, seed 1"


@pytest.mark.parametrize(("scheme", "brightness"), [("light", 255), ("dark", 24)])
def test_the_page_follows_the_colour_scheme(open_page, scheme, brightness):
    heading = screenshot(open_page(color_scheme=scheme).locator("h1"))
    assert heading[0, -1] == pytest.approx(brightness, abs=4)
    assert np.abs(heading - brightness).max() > 180


def test_a_finger_moves_a_slider_on_a_phone(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    stack = page.locator(".stack").last
    stack.scroll_into_view_if_needed()
    box = stack.bounding_box()
    page.touchscreen.tap(box["x"] + 0.3 * box["width"], box["y"] + 0.8 * box["height"])
    assert white(page) == pytest.approx(0.3, abs=0.02)
