"""The documentation builds as a site without a broken link, and the site asks nothing of other hosts."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("material", reason="building the site needs mkdocs: pip install 'kvpress-video[docs]'")
pytest.importorskip("mkdocstrings", reason="building the site needs mkdocstrings: pip install 'kvpress-video[docs]'")

ROOT = Path(__file__).resolve().parent.parent
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>|<link\b[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_fetch_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        assert FETCHED.findall(page.read_text()) == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", style.read_text()) == [], style


def test_images_and_scripts_are_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        for source in re.findall(r"<(?:img|script|source)\b[^>]*\bsrc=[\"']?([^\"'\s>]+)", page.read_text()):
            if not source.startswith(("data:", "/")):
                assert (page.parent / source.partition("?")[0]).is_file(), (page, source)


def test_the_methods_of_the_navigation_are_all_there(site: Path) -> None:
    start = (site / "methods/index.html").read_text()
    for card in (ROOT / "docs/methods").glob("*.md"):
        assert card.name == "README.md" or f'href="{card.stem}/"' in start


def test_every_attribute_has_a_line_of_its_own(site: Path) -> None:
    """Of `low, high: bounds`, the site would show an attribute `low,` of type `high`."""
    for page in site.glob("api/*/index.html"):
        text = html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))
        assert re.findall(r"\w+,\s*\(\s*\w+(?:, \w+)*\s*\)\s*–", text) == [], page


@pytest.mark.parametrize("tag", ['<script src="//a.b/c.js">', "<link rel=x href=https://a.b/c.css>"])
def test_requests_to_other_hosts_are_seen(tag: str) -> None:
    assert FETCHED.search(tag)
