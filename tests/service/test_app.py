"""The page in a real browser: what a person does with it, and that it calls nobody."""

import csv
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from running import Running
from served_models import picture, write_export

pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium"),
]
# Chromium's own camera shows a green disc on green.
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
COPY = """async (colour) => {
  const canvas = document.createElement("canvas"), brush = canvas.getContext("2d");
  brush.fillStyle = colour;
  brush.fillRect(0, 0, canvas.width, canvas.height);
  const file = await new Promise((done) => canvas.toBlob(done, "image/png"));
  await navigator.clipboard.write([new ClipboardItem({"image/png": file})]);
}"""


@pytest.fixture
def address(tmp_path) -> Iterator[str]:
    running = Running("app", write_export(tmp_path), write_export(tmp_path, "other"))
    yield running.address
    running.close()


@pytest.fixture
def tab(address) -> Iterator:
    """A tab that writes down every request and every error, and is refused all but the page."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.set_default_timeout(30_000)
        tab.context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
        tab.asked, tab.wrong = [], []
        tab.on("request", lambda request: tab.asked.append(request.url))
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on("console", lambda said: tab.wrong.append(said.text) if said.type == "error" else None)
        tab.goto(address)
        tab.get_by_role("button", name="Predict", exact=True).wait_for()
        yield tab
        browser.close()


def give(tab, tmp_path: Path, *colours: str) -> None:
    """Choose files; one goes into the picture, several into the list."""
    for colour in colours:
        (tmp_path / f"{colour}.png").write_bytes(picture(colour, (300, 200)))
    files = [tmp_path / f"{colour}.png" for colour in colours]
    tab.locator("input[type=file]").nth(0 if len(files) == 1 else 1).set_input_files(files)
    tab.get_by_text("ms an image").first.wait_for()


def test_from_a_picture_to_a_correction(tab, address, tmp_path):
    give(tab, tmp_path, "green")
    caption = tab.get_by_text("green.png · green")
    caption.nth(1).wait_for()  # of both models
    with tab.expect_download() as taken:
        tab.get_by_role("link", name="B").first.click()
    rows = list(csv.DictReader(Path(taken.value.path()).read_text().splitlines()))
    assert (rows[0]["path"], rows[0]["label"]) == ("green.png", "green")
    right = tab.get_by_label("Correct class")
    sync_api.expect(right).to_have_value("green")
    right.click()
    tab.get_by_role("option", name="blue").click()
    tab.get_by_role("button", name="Keep this correction").click()
    tab.get_by_text("1 corrected in").wait_for()
    table = (tmp_path / "corrections" / "labels.csv").read_text().splitlines()
    assert table[0] == "path,label"
    assert table[1].endswith(",blue")
    assert not [url for url in tab.asked if not url.startswith((address, "blob:", "data:"))]
    assert not tab.wrong


def test_several_pictures_and_a_broken_one(tab, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"broken")
    (tmp_path / "red.png").write_bytes(picture("red"))
    tab.locator("input[type=file]").nth(1).set_input_files([tmp_path / "broken.png", tmp_path / "red.png"])
    tab.get_by_text("red.png · red · 100.0%").first.wait_for()
    tab.get_by_role("button", name="Why? (heat map)").click()
    tab.get_by_text("no gradients").first.wait_for()  # it is an export


def test_with_the_keyboard_alone(tab, tmp_path):
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    _tab_to(tab, "Click to Upload")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "blue.png")
    tab.get_by_text("blue.png · blue · 100.0%").first.wait_for()
    _tab_to(tab, "Keep this correction")
    tab.keyboard.press("Enter")
    tab.get_by_text("1 corrected in").wait_for()


def test_a_picture_is_pasted_by_keys_and_by_the_button(tab):
    tab.evaluate(COPY, "blue")
    tab.keyboard.press("Control+V")
    tab.get_by_text("image.png · blue · 100.0%").first.wait_for()
    tab.evaluate(COPY, "red")
    tab.get_by_label("Paste from clipboard").click()
    tab.get_by_text("clipboard.png · red · 100.0%").first.wait_for()
    assert not tab.wrong


def test_a_photo_of_the_camera_is_answered(tab):
    tab.get_by_label("Capture from camera").click()
    tab.get_by_text("Click to Access Webcam").click()
    tab.wait_for_function("document.querySelector('#one-picture video')?.videoWidth")  # a photo of no frame is none
    tab.get_by_label("capture photo").click()
    tab.get_by_text("image.png · green").first.wait_for()
    assert not tab.wrong


def test_a_single_models_answer_is_seen_without_scrolling_in_the_gallery(tab, tmp_path):
    with closing(Running("app", tmp_path / "colours.colours")) as alone:
        tab.goto(alone.address)
        give(tab, tmp_path, "red")
        gallery, caption = (tab.locator(name).first.bounding_box() for name in (".gallery-container", ".caption-label"))
    assert caption["y"] + caption["height"] <= gallery["y"] + gallery["height"]


def test_on_a_phone_nothing_is_wider_than_the_screen(tab, tmp_path):
    tab.set_viewport_size({"width": 390, "height": 844})
    give(tab, tmp_path, "red")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.get_by_role("button", name="Predict", exact=True).bounding_box()["width"] > 300


def _tab_to(tab, text: str) -> None:
    for _ in range(80):
        tab.keyboard.press("Tab")
        if text in tab.evaluate("document.activeElement.closest('button')?.innerText || ''"):
            return
    raise AssertionError(f"the keyboard does not reach {text!r}")
