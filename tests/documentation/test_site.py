"""The site builds without warnings, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys

import pytest

from tests.documentation.blocks import ROOT

# Whatever a browser fetches by itself: scripts, images, frames, styles, fonts.
LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\ssrc=["']([^"']+)"""
    r"""|<link\b(?=[^>]*rel=["'](?:stylesheet|preload|icon|shortcut icon)["'])"""
    r"""[^>]*\shref=["']([^"']+)""",
    re.I,
)
STYLED = re.compile(r"""(?:url\(|@import\s+)["']?([^"')\s]+)""")
ELSEWHERE = re.compile(r"(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx")
    out = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "."]
    done = subprocess.run([*command, out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_every_document_is_a_page(site):
    for path in [*ROOT.glob("docs/*/*.md"), *ROOT.glob("benchmarks/*.md"), ROOT / "CHANGELOG.md"]:
        page = path.relative_to(ROOT).with_suffix(".html")
        assert (site / page).exists(), page
    assert "docs/index.html" in (site / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    loaded = {}
    for path in site.rglob("*.html"):
        loaded[path] = ["".join(found) for found in LOADED.findall(path.read_text("utf-8"))]
    assert any(loaded.values())
    for path in site.rglob("*.css"):
        loaded[path] = STYLED.findall(path.read_text("utf-8"))
    outside = {
        str(path): [url for url in urls if ELSEWHERE.match(url)] for path, urls in loaded.items()
    }
    assert not {path: urls for path, urls in outside.items() if urls}


def test_addresses_elsewhere_are_recognised():
    page = """<script src="https://x/a.js"></script><link href='//x/y.css' rel='stylesheet'>"""
    urls = ["".join(found) for found in LOADED.findall(page)]
    assert urls == ["https://x/a.js", "//x/y.css"]
    assert all(ELSEWHERE.match(url) for url in urls)
    assert STYLED.findall("@import 'https://x'; a { b: url(//y) }") == ["https://x", "//y"]
