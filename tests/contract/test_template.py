"""The package that an outsider copies: installed elsewhere, its tests pass and its method has a name and a card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kvpress_video as kv
from kvpress_video.compressor.base import NEEDS

TEMPLATE = Path(__file__).parents[2] / "docs" / "template"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a copy of the template is installed in; its tests lie next to it."""
    folder = tmp_path_factory.mktemp("outsider")
    shutil.copytree(TEMPLATE, folder / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(folder / "site"), str(folder / "copy")], check=True, capture_output=True)
    shutil.copytree(folder / "copy" / "tests", folder / "tests")
    return folder


def run(folder: Path, *command: str) -> str:
    path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_its_own_tests_pass(installed: Path) -> None:
    assert "4 passed" in run(installed, "pytest", "-q", "-p", "no:cacheprovider", "tests")


def test_its_method_has_a_name_and_a_card(installed: Path) -> None:
    card = run(installed, "kvpress_video.cli", "methods", "outstanding")
    assert card == (TEMPLATE / "kvp_outstanding" / "cards" / "outstanding.md").read_text()
    (row,) = [
        line for line in run(installed, "kvpress_video.cli", "methods", "--wide").splitlines() if "outstanding" in line
    ]
    assert row.split()[:5] == ["outstanding", "2026", "redundancy", "ours", "cache"]
    assert "outstanding" not in {each.name for each in kv.list_methods()}


def test_its_page_names_every_need() -> None:
    page = (TEMPLATE / "README.md").read_text()
    assert all(f'`"{need}"`' in page for need in NEEDS)
    assert all(f"`{setting}`" in page for settings in NEEDS.values() for setting in settings)
