"""The site of docs/: every page has its place, every link leads somewhere, and a browser asks nobody else."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import dualtoken

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def pages(nav) -> list[str]:
    """The files of a navigation, whatever their depth."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]


def test_every_page_has_its_place():
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = pages(PROJECT["nav"])
    assert sorted(listed) == sorted(there)


def test_the_reference_has_all_that_is_public():
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    named = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith("::: ")}
    assert set(dualtoken.__all__) - {"__version__"} <= named


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built in a copy with no address but this machine's to be had."""
    pytest.importorskip("zensical")
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copy(ROOT / "zensical.toml", root)
    (root / "src").symlink_to(ROOT / "src", target_is_directory=True)
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=root, capture_output=True, text=True, env=os.environ | nowhere, check=False,
    )  # fmt: skip
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    assert "griffe" not in said, said  # docstrings that could not be read
    return root / "site"


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:)?//|<link[^>]*\shref=\"?(https?:)?//")
    for page in site.rglob("*.html"):
        found = loads.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.name}: {found and found[0]}"


@pytest.mark.slow
def test_a_browser_asks_nobody_else(site):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    asked: list[str] = []
    wrong: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 390, "height": 844})  # a phone
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        for page in pages(PROJECT["nav"]):
            got = tab.goto(f"{home}/{page.removesuffix('.md')}.html")
            if got is None or not got.ok:
                wrong.append(f"{page} is not there")
            wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if wide > 0:
                wrong.append(f"{page} is {wide} pixels wider than the phone")
        browser.close()
    server.shutdown()
    server.server_close()
    assert not wrong
    assert not [url for url in asked if not url.startswith((home, "data:", "blob:"))]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
