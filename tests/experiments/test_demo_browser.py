"""The demo's page in a real browser: a picture is painted over with the mouse and restored, offline."""

import base64
import io
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.shared.problems import held_out_face
from jaxdiff.images.files import to_uint8
from tests.conftest import TINY

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or find_spec("gradio") is None, reason="needs Chromium and gradio"),
]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def url(tiny_prior):
    """Serves the demo with a tiny prior."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "experiments.demo", "--prior", tiny_prior, "--steps", "10", "--port", port]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found, "the demo did not start"
            yield found[0]
        finally:
            server.terminate()


@pytest.fixture
def page(url):
    """Opens the page; at the end, no script may have failed and nothing may have been asked of another host."""
    errors, requests = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url.removeprefix("blob:")))
        page.goto(url)
        page.locator("#editor canvas").first.wait_for()
        yield page
        browser.close()
    assert errors == []
    assert [found for found in requests if not found.startswith((url, "data:"))] == []


def say_and_wait(page, button, words):
    page.get_by_role("button", name=button, exact=True).click()
    page.locator("#status p", has_text=words).wait_for(timeout=120_000)
    return page.locator("#status p").inner_text()


def note_what_is_said(page):
    """Lets the page keep every status from now on in `window.said`."""
    page.evaluate(
        """() => {
            const status = document.querySelector("#status");
            window.said = [];
            new MutationObserver(() => window.said.push(status.innerText))
                .observe(status, {childList: true, characterData: true, subtree: true});
        }"""
    )


def pixels(page, caption):
    """The pixels of the pictures on the page whose caption begins with some words."""
    figures = page.locator("#pictures figure", has_text=re.compile(f"^{caption}"))
    sources = [figure.locator("img").get_attribute("src") for figure in figures.all()]
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(s.split(",")[1])))) for s in sources])


def paint(page, height):
    """Draws a line across the middle of the picture, at a height between -1 and 1."""
    box = page.locator("#editor canvas").first.bounding_box()
    middle, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 * (1 + 0.8 * height)
    page.mouse.move(middle - 80, y)
    page.mouse.down()
    page.mouse.move(middle + 80, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)


def test_a_face_is_painted_over_and_restored_twice(page):
    assert "hides no pixel" in say_and_wait(page, "Restore", "paint over")
    page.locator("#examples button").nth(2).click()
    page.locator("#source p", has_text="Face 2").wait_for()
    page.wait_for_timeout(1000)
    face = to_uint8(held_out_face(2, TINY.image_size))
    for height, first in ((-0.3, "compiling, the first time"), (0.4, "starting ...")):
        paint(page, height)
        note_what_is_said(page)
        say_and_wait(page, "Restore", "4 samples by DPS in 10 steps")
        assert any(first in status for status in page.evaluate("window.said"))
        hidden = (pixels(page, "what is known")[0] != face).any(-1)
        assert 0.02 < hidden.mean() < 0.5
        samples = pixels(page, "sample")
        np.testing.assert_array_equal(samples[:, ~hidden], np.stack([face[~hidden]] * 4))
        assert samples[:, hidden].std(0).mean() > 1
        assert page.locator("#pictures img").count() == 7


def test_a_text_file_is_refused_and_a_run_is_stopped(page, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "text.png")
    page.locator("#source p", has_text="text.png is not an image").wait_for()
    page.wait_for_timeout(500)
    paint(page, 0)
    page.get_by_role("radio", name="ScoreALD").check()
    say_and_wait(page, "Restore", "ScoreALD")
    assert say_and_wait(page, "Stop", "Stopped") == "Stopped."
    page.wait_for_timeout(500)
    assert page.locator("#status p").inner_text() == "Stopped."
    assert page.locator("footer").inner_text().endswith("not evidence of who is in a picture.")


@pytest.mark.parametrize("end", ["Stop", "another picture"])
def test_a_run_that_ends_before_its_paint_has_left_the_browser_shows_nothing(page, end):
    page.locator("#examples button").nth(1).click()
    page.locator("#source p", has_text="Face 1").wait_for()
    page.wait_for_timeout(1000)
    paint(page, 0)
    held, holding = [], True
    page.route("**/upload*", lambda route: held.append(route) if holding else route.continue_())
    with page.expect_request("**/upload*"):
        page.get_by_role("button", name="Restore", exact=True).click()
    assert page.locator("#status p").inner_text() == "waiting ..."
    if end == "Stop":
        status = say_and_wait(page, end, "Stopped")
    else:
        page.locator("#examples button").nth(3).click()
        page.locator("#source p", has_text="Face 3").wait_for()
        status = page.locator("#status p").inner_text()
    holding = False
    with page.expect_response("**/queue/join*"):
        for route in held:
            route.continue_()
    page.wait_for_timeout(3000)
    assert page.locator("#status p").inner_text() == status
    assert page.locator("#pictures img").count() == 0
