"""The page and the demo in a real browser, headless: what a user sees, does and gets.

Needs playwright, of the extra `dev`, and a Chromium of the system's.
"""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from cgan_jax.pictures.grids import grid
from cgan_jax.reporting.page import write_page
from cgan_jax.sampling.generator import load_generator
from experiments.shared.choice import square
from tests.golden.make_run_folder import FOLDER
from tests.helpers import ROOT, command, finished_run

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-quic", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
# Runs a module, and says on stderr what it looks for in the network, other than itself.
WATCHED = """
import runpy, sys
def watch(event, arguments):
    place = {"socket.connect": 1, "socket.getaddrinfo": 0}.get(event)
    if place is not None and not str(arguments[place]).startswith(("('127.", "127.", "localhost")):
        print(event, arguments, file=sys.stderr)
sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"no browser on PATH: expected one of {', '.join(BROWSERS)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        expect.set_options(timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page as wide as a small phone. It fails a test if it complains, or asks anybody else."""
    complaints, asked = [], []
    with browser.new_context(viewport={"width": 320, "height": 740}) as context:
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(urlsplit(request.url)))
        yield page
    assert complaints == []
    assert asked
    local = {"file", "data", "blob"}
    assert not [url for url in asked if url.scheme not in local and url.hostname != "127.0.0.1"]


def overflow(page):
    """By how many pixels it is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_the_slider_goes_through_the_run(page, tmp_path):
    run = finished_run(tmp_path / "run")
    page.goto(write_page(run.path).as_uri())
    shown = page.locator("#grids img:visible")
    slider = page.get_by_label("After")
    expect(shown).to_have_attribute("data-when", "epoch 3 of 3")
    expect(slider).to_have_attribute("aria-valuetext", "epoch 3 of 3")
    slider.press("ArrowLeft")
    expect(shown).to_have_attribute("data-when", "epoch 2 of 3")
    expect(shown).to_have_count(1)
    assert shown.evaluate("image => image.naturalWidth") == 272
    slider.press("Home")
    expect(shown).to_have_attribute("data-when", "epoch 1 of 3")
    expect(slider).to_have_attribute("aria-valuetext", "epoch 1 of 3")
    page.get_by_role("button", name="Play").click()
    expect(shown).to_have_attribute("data-when", "epoch 3 of 3")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_long_and_odd_names_stay_on_the_page(page, tmp_path):
    names = ("x" * 300, "<script>document.title = 'changed'</script>", "many words " * 30)
    run = finished_run(tmp_path / ("y" * 200), names)
    page.goto(write_page(run.path).as_uri())
    expect(page.get_by_role("heading", name=names[1], exact=True)).to_be_visible()
    assert page.title().startswith("y" * 200)
    assert overflow(page) <= 0
    page.set_viewport_size({"width": 1200, "height": 900})
    assert overflow(page) <= 0


def test_many_classes_are_folded(page, tmp_path):
    names = [f"class {i} {'x' * (i % 30)}" for i in range(45)]
    run = finished_run(tmp_path / "run", names)
    page.goto(write_page(run.path).as_uri())
    expect(page.get_by_role("heading", name=names[19], exact=True)).to_be_visible()
    heading = page.get_by_role("heading", name=names[44], exact=True)
    expect(heading).to_have_count(0)  # hidden
    page.get_by_text(f"{names[40]} to {names[44]}").click()
    expect(heading).to_be_visible()
    picture = page.get_by_alt_text(f"Generated: {names[44]}")
    assert picture.bounding_box()["width"] > 100
    assert overflow(page) <= 0
    page.set_viewport_size({"width": 1200, "height": 900})
    assert overflow(page) <= 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The address of the committed run's demo, in a process of its own, whose end is checked."""
    temporary = tmp_path_factory.mktemp("temporary")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = command("demo", FOLDER, "--port", port)
    assert refused.returncode == 2
    assert f"'127.0.0.1', port {port}: Address already in use" in refused.stderr
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, "experiments.demo", str(FOLDER), "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line == f"To see {FOLDER}, open http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (130, "", "")
        assert not list(temporary.glob("cgan_jax_demo*"))
    finally:
        process.kill()


def test_the_demo_draws_what_is_chosen(page, demo):
    page.goto(demo)
    generator = load_generator(FOLDER)

    def expected(label, seed):
        return np.asarray(grid(*square(generator.generate([label] * 16, seed=seed), label)))

    image = page.get_by_role("tabpanel").locator("img:visible")
    np.testing.assert_array_equal(picture(page, image), expected("left", 0))
    before = image.get_attribute("src")
    page.get_by_label("Class").click()
    page.get_by_role("option", name="round trip").click()
    page.get_by_label("Seed").first.fill("7")
    page.get_by_role("button", name="Draw").click()
    expect(image).not_to_have_attribute("src", before)
    np.testing.assert_array_equal(picture(page, image), expected("round trip", 7))

    page.get_by_role("tab", name="From class to class").click()
    page.get_by_role("button", name="Go").click()
    frames = generator.morph(["left"] * 6, ["round trip"] * 6, frames=9)
    strip = grid(frames.swapaxes(0, 1), ["left", *[""] * 7, "round trip"])
    np.testing.assert_array_equal(picture(page, image), np.asarray(strip))
    assert overflow(page) <= 0


def test_the_demo_says_what_is_wrong(page, demo):
    page.goto(demo)
    expect(page.get_by_role("tabpanel").locator("img:visible")).to_have_count(1)
    page.get_by_label("Seed").first.fill("5000000000")
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_text("seed must be an integer in 0..4294967295")).to_be_visible()


def picture(page, image):
    """What an image of the page shows, uint8 `[H, W, 3]`."""
    expect(image).to_have_count(1)
    answer = page.request.get(image.get_attribute("src"))
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))
