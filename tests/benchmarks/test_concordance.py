"""Verdicts on published orderings, from imaginary rows."""

from __future__ import annotations

import pytest
from kvpress_video.benchmarks.concordance.orderings import ORDERINGS, SOURCES, Ordering
from kvpress_video.benchmarks.concordance.verdicts import judge, spelled, table, totals
from sweep_rows import rows

from kvpress_video.compressor.registry import make_method
from kvpress_video.sweep.cells import Cell


def test_every_ordering_names_installed_methods_and_its_source() -> None:
    assert len(ORDERINGS) >= 20
    assert len(set(map(str, ORDERINGS))) == len(ORDERINGS)
    assert abs(2 * sum(each.held_back for each in ORDERINGS) - len(ORDERINGS)) <= 1
    for each in ORDERINGS:
        assert make_method(each.better) != make_method(each.worse) or each.fraction != 1
        assert each.source in SOURCES


@pytest.mark.parametrize(("present", "fraction"), [(False, 1.0), (True, 1.0), (False, 0.25)])
def test_a_verdict_needs_an_interval_clear_of_zero(present: bool, fraction: float) -> None:
    """TaR answers all, VaN no question about the present of two clips in three and half of the others at random."""

    def van(clip: int, number: int) -> float:
        return float(clip % 3 == 0 or number != 1) if present else float((clip + number) % 3 > 0)

    budget = f"{50 * fraction:g}%"
    swept = rows(Cell("tar", budget), lambda clip, number: 1.0, 12) + rows(Cell("van", "50%"), van, 12)
    asked = [
        Ordering("tar", "van", "HERMES", "", present=present, fraction=fraction),
        Ordering("van", "tar", "HERMES", "", held_back=True, present=present, fraction=1 / fraction),
        Ordering("tar", "random", "HERMES", "", present=present),
    ]
    found = judge(swept, asked[:1] + asked[2:], [0.5], "place")
    assert [each.word for each in found] == ["agrees", "cannot tell"]
    gap = found[0].difference
    assert gap is not None
    assert gap.questions == (12 if present else 48)
    [other] = judge(swept, asked[1:2], [0.5 * fraction], "place")
    assert other.word == "disagrees"
    assert "| agrees |" in table(found)
    assert totals([*found, other]) == [
        "open: 1 agrees, 0 disagrees, 1 cannot tell",
        "held back: 0 agrees, 1 disagrees, 0 cannot tell",
    ]


def test_methods_are_spelled_as_cells_are() -> None:
    assert spelled("tar:recent_ratio=.25") == "tar:recent_ratio=0.25"
    assert spelled("infinipot-v:released") == "infinipot-v:released"
