"""The accuracies in the methods' cards are those of the published sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from kvpress_video.benchmarks.publishing.cards import MARK, base_of, read, rows_of, table

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["keydiff", "ada", "vfl", "hermes"])
def test_a_card_holds_the_rows_of_the_published_summary(name: str) -> None:
    found = read(REPOSITORY / "benchmarks" / "results" / "every-method" / "summary.csv")
    card = (REPOSITORY / "docs" / "methods" / f"{name}.md").read_text()
    shown = card.partition(f"<!-- {MARK} -->\n")[2].partition(f"<!-- /{MARK} -->")[0]
    assert shown == table(rows_of(name, found), found)


def test_wrappers_are_shown_with_their_base() -> None:
    assert base_of("critical") == "snapkv"
    assert base_of("ada:base=infinipot-v") == "infinipot-v"
    assert base_of("keydiff") is None
