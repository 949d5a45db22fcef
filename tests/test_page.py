"""Pages of HTML: self-contained, harmless, and readable in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from graphs import build

import onnx_grow as og
from onnx_grow.cli import main

NET = """(float[N,4] x) => (float[N,3] y) <float[4,6] v, float[6,3] w> {
    h = MatMul(x, v)
    r = Relu(h)
    y = MatMul(r, w)
}"""
EVIL = "<script>alert(1)</script>\x1b"

COMMANDS = {
    "inspect": ["inspect", "a.onnx"],
    "widen": ["widen", "a.onnx"],
    "widen --dry-run": ["widen", "a.onnx", "--dry-run"],
    "deepen": ["deepen", "a.onnx"],
    "grow": ["grow", "a.onnx", "recipe.yaml"],
    "diff": ["diff", "a.onnx", "wide.onnx"],
    "verify": ["verify", "a.onnx", "wide.onnx"],
    "verify, different": ["verify", "a.onnx", "other.onnx"],
    "verify --manifest": ["verify", "--manifest", "pairs.yaml"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with models whose nodes have long and hostile names."""
    monkeypatch.chdir(tmp_path)
    proto = build(NET).to_proto()
    for k, node in enumerate(proto.graph.node):
        node.name = (EVIL, "a/long/name/" * 12, "")[k]
    model = og.load(proto)
    og.save(model, "a.onnx")
    og.save(og.widen(model), "wide.onnx")
    og.save(build(NET.replace("Relu", "Tanh")), "other.onnx")
    Path("recipe.yaml").write_text("[widen, deepen]")
    Path("pairs.yaml").write_text(
        "[{original: a.onnx, grown: wide.onnx}, {original: a.onnx, grown: no.onnx}, {original: a.onnx, grown: other.onnx}]"
    )
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_page_needs_nothing_else_and_runs_nothing(folder: Path, words: list[str]) -> None:
    result = run(*words, "--html", "page.html", "--json")
    assert result.exit_code in (0, 1), result.output
    text = Path("page.html").read_text()
    assert text.lstrip().startswith("<!doctype html>")
    assert "<script" not in text
    assert not re.search(r"\b(src|href)=|url\(|@import|http", text)
    assert "\x1b" not in text


def test_a_page_shows_what_the_command_found(folder: Path) -> None:
    assert run("inspect", "a.onnx", "--html", "page.html").exit_code == 0
    text = Path("page.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b" in text
    assert "it is a dimension of the model&#39;s output" in text
    run("widen", "a.onnx", "--html", "page.html")
    assert all(figure in Path("page.html").read_text() for figure in (">6<", ">12<", "equal", "42 → 84"))
    run("verify", "a.onnx", "other.onnx", "--html", "page.html")
    assert "NOT EQUAL" in Path("page.html").read_text()


@pytest.mark.parametrize("path", ["a.onnx", "page", "nowhere/page.html"])
def test_a_page_replaces_no_model(folder: Path, path: str) -> None:
    result = run("inspect", "a.onnx", "--html", path)
    assert result.exit_code == 2
    onnx.load("a.onnx")


def displayed(folder: Path, *, dark: bool = False) -> tuple[int, int, str]:
    """What Chromium makes of page.html on a phone: the widths of the page and of the window, and the colour of text."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    size = "document.documentElement.scrollWidth + ' ' + innerWidth + ' '"
    measured = f"<script>document.title = {size} + getComputedStyle(document.body).color</script>"
    page = folder / "measured.html"
    page.write_text((folder / "page.html").read_text().replace("</body>", f"{measured}</body>"))
    words = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
        "--window-size=500,900",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    title = re.search(r"<title>(\d+) (\d+) (rgb.*?)</title>", done.stdout)
    if title is None:
        pytest.skip(f"Chromium does not run here: {done.stderr.strip().splitlines()[-1:]}")
    return int(title[1]), int(title[2]), title[3]


@pytest.mark.parametrize("words", [COMMANDS["inspect"], COMMANDS["widen"], COMMANDS["verify, different"]])
def test_a_browser_shows_it_on_a_phone_without_scrolling_sideways(folder: Path, words: list[str]) -> None:
    run(*words, "--html", "page.html")
    page, window, _ = displayed(folder)
    assert page <= window


def test_a_browser_shows_it_light_or_dark(folder: Path) -> None:
    run("inspect", "a.onnx", "--html", "page.html")
    assert displayed(folder)[2] != displayed(folder, dark=True)[2]
