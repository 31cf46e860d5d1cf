"""What the package says of its own methods in rows, and what their cards say, is the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import kvpress_video as kv
from kvpress_video.compressor import FIDELITIES
from kvpress_video.compressor.registry import method_class
from kvpress_video.utils.entry_points import METHODS, is_own

CARDS = Path(__file__).parents[2] / "docs" / "methods"
ROWS = {each.name: each for each in kv.list_methods()}
POINTS: dict[str, EntryPoint] = METHODS.found()
OURS = [name for name in ROWS if is_own(POINTS[name])]
README = (CARDS / "README.md").read_text()


def lacking(name: str) -> list[str]:
    """Missing fields of a row. Baselines and wrappers have no year."""
    row = ROWS[name]
    needed: dict[str, Any] = {part: getattr(row, part) for part in ("summary", "source", "family", "fidelity")}
    if re.search(r"\d{4}", row.source):
        needed["year"] = row.year
    return [part for part, value in needed.items() if not value]


def test_every_method_of_ours_says_where_it_comes_from() -> None:
    wanting = {name: parts for name in OURS if (parts := lacking(name))}
    assert not wanting, f"declare these on the classes: {wanting}"


def test_the_line_below_a_cards_title_agrees_with_the_class() -> None:
    lines = {}
    for name in OURS:
        row = ROWS[name]
        line = " · ".join(filter(None, (row.year and str(row.year), row.family, row.fidelity)))
        if not (CARDS / f"{name}.md").read_text().startswith(f"# {name}\n\n*{line}*\n\n"):
            lines[name] = f"*{line}*"
    assert not lines, f"below their titles these cards want: {lines}"


@pytest.mark.parametrize("name", OURS)
def test_a_card_names_the_source_of_its_class(name: str) -> None:
    card, source = (CARDS / f"{name}.md").read_text(), ROWS[name].source
    assert "**Source.**" in card
    for paper in re.findall(r"\d{4}\.\d{5}", source):
        assert paper in card
    if ROWS[name].fidelity in ("mechanism", "analogy"):
        assert "**Faithfulness.**" in card


@pytest.mark.parametrize("name", [name for name in OURS if "arXiv" in ROWS[name].source])
def test_a_card_tells_whether_its_source_is_trained(name: str) -> None:
    assert re.search(r"train", (CARDS / f"{name}.md").read_text(), re.IGNORECASE)


@pytest.mark.parametrize("name", OURS)
def test_a_year_is_not_before_its_paper(name: str) -> None:
    row = ROWS[name]
    assert row.fidelity in FIDELITIES
    assert row.year is None or all(
        2000 + int(paper[:2]) <= row.year for paper in re.findall(r"(\d{4})\.\d{5}", row.source)
    )


def test_the_families_of_ideas_are_explained() -> None:
    explained = set(re.findall(r"^- \*([a-z]+)\*:", README, re.MULTILINE))
    assert explained == {ROWS[name].family for name in OURS}
    assert set(re.findall(r"^- \*\*([a-z]+)\*\*:", README, re.MULTILINE)) == set(FIDELITIES)


def test_an_unknown_fidelity_is_an_error() -> None:
    @dataclass(frozen=True)
    class Faithful(method_class("van")):  # type: ignore[misc]
        fidelity = "exakt"

    with pytest.raises(kv.UnknownNameError, match=r"fidelity of Faithful 'exakt'\. Did you mean 'exact'"):
        kv.compressor.make_method(Faithful())
