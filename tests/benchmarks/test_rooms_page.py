"""The tables of the page on the rooms."""

from __future__ import annotations

from kvpress_video.benchmarks.publishing.rooms import by_family, families, spread
from kvpress_video.benchmarks.publishing.sweep import table
from summary_rows import line, whole


def test_the_spread_is_over_methods_without_the_full_cache() -> None:
    lines = [whole(0.9), line("tar", mean=0.89), line("van", mean=0.5), line("random", mean=0.2)]
    assert spread(lines).splitlines()[-1] == "| 25% | still | 0.90 | 0.53 | 0.50 | 0.346 | 1 of 3 |"


def test_budgets_are_ordered_by_size_in_whatever_order_they_ran() -> None:
    lines = [whole(0.9), *(line(method, at) for at in ("12.5%", "50%", "25%") for method in ("tar", "van"))]
    assert table(lines).splitlines()[0] == "| method | still 50% | still 25% | still 12.5% |"
    assert [row.split(" |")[0] for row in spread(lines).splitlines()[2:]] == ["| 50%", "| 25%", "| 12.5%"]


def test_families_are_those_of_the_full_cache() -> None:
    head, _, row = families([whole(0.9), line("tar", mean=0.2)]).splitlines()
    assert head == "| camera | needle | order | persistent | overall |"
    assert row.startswith("| still | 0.80 [0.75, 0.85] | 0.90 ")


def test_a_family_has_the_mean_of_both_cameras_at_one_budget() -> None:
    lines = [whole(0.8), line("tar", mean=0.3), line("tar", mean=0.5, group="moving"), line("tar", "50%", mean=0.9)]
    head, _, full, tar = by_family(lines, "25%").splitlines()
    assert head == "| method | needle | order | persistent | overall |"
    assert full == "| full | 0.70 | 0.80 | 0.90 | 0.80 |"
    assert tar == "| tar | 0.30 | 0.40 | 0.50 | 0.40 |"
