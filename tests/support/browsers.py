"""A browser for tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
SCHEMES = ("light", "dark")
VIEWS = [
    pytest.param(
        (size, scheme), marks=[pytest.mark.slow] * ((size, scheme) != ("phone", "dark")), id=f"{size}-{scheme}"
    )
    for size in SIZES
    for scheme in SCHEMES
]
"""Sizes and colour schemes that pages are looked at in; a quick run takes the narrowest and darkest."""
_ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
_ARGUMENTS += ["--disable-component-update", "--disable-sync"]


@contextmanager
def chromium(*more: str) -> Iterator[Any]:
    """Start Chromium; skip the test where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the PATH")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=[*_ARGUMENTS, *more])
        try:
            yield opened
        finally:
            opened.close()
