"""The accuracies in the methods' cards are those of the published sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
from kvpress_video.benchmarks.publishing.cards import DIFFERENCES, MARK, base_of, differences, read, rows_of, table
from summary_rows import line

from kvpress_video.sweep.results.export import encode
from kvpress_video.sweep.stats.inference import Difference
from kvpress_video.sweep.stats.summary import records

REPOSITORY = Path(__file__).parents[2]
PAIRED = REPOSITORY / "benchmarks" / "results" / "cards"
CARDS = {path.stem: path.read_text() for path in (REPOSITORY / "docs" / "methods").glob("*.md")}
PUBLISHED = sorted(name for name, card in CARDS.items() if f"<!-- {MARK} -->" in card)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_holds_the_rows_of_the_published_summary(name: str) -> None:
    found = read(REPOSITORY / "benchmarks" / "results" / "every-method" / "summary.csv")
    shown = CARDS[name].partition(f"<!-- {MARK} -->\n")[2].partition(f"<!-- /{MARK} -->")[0]
    assert shown == table(rows_of(name, found), found)


def test_wrappers_are_shown_with_their_base() -> None:
    assert base_of("critical") == "snapkv"
    assert base_of("ada:base=infinipot-v") == "infinipot-v"
    assert base_of("keydiff") is None


@pytest.mark.parametrize("name", [found.parent.name for found in PAIRED.glob("*/summary.csv")])
def test_a_card_holds_the_differences_of_its_own_sweep(name: str) -> None:
    shown = CARDS[name].partition(f"<!-- {DIFFERENCES} -->\n")[2].partition(f"<!-- /{DIFFERENCES} -->")[0]
    assert shown == differences(PAIRED / name / "summary.csv", name)


def test_differences_are_bold_only_after_correction(tmp_path: Path) -> None:
    """Two of three p are below .05, but of three comparisons only one of them stays so."""
    gaps = [Difference(-0.5, -0.7, -0.3, 48, 24, 0.001), Difference(0.2, 0.1, 0.3, 48, 24, 0.03)]
    gaps.append(Difference(0.0, -0.1, 0.1, 48, 24, 0.9))
    budgets = ("50%", "25%", "12.5%")
    lines = [line("tar", at, against="random", difference=gap) for at, gap in zip(budgets, gaps, strict=True)]
    summary = tmp_path / "summary.csv"
    summary.write_bytes(encode(records([*lines, line("van", against="random")]), "csv"))
    assert differences(summary, "tar").splitlines() == [
        "| `tar` − `random`, camera | 50% | 25% | 12.5% |",
        "| --- | ---: | ---: | ---: |",
        "| still | **-.50** [-.70, -.30] | +.20 [+.10, +.30] | +.00 [-.10, +.10] |",
    ]
