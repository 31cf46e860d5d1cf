"""The tables of the page on the rooms."""

from __future__ import annotations

from kvpress_video.benchmarks.publishing.rooms import families, joined, spread
from summary_rows import line, whole


def test_the_spread_is_over_methods_without_the_full_cache() -> None:
    lines = [whole(0.9), line("tar", mean=0.89), line("van", mean=0.5), line("random", mean=0.2)]
    assert spread(lines).splitlines()[-1] == "| 25% | still | 0.90 | 0.53 | 0.50 | 0.346 | 1 of 3 |"


def test_the_first_of_several_sweeps_counts() -> None:
    first, second = [whole(0.9), line("tar", mean=0.8)], [whole(0.7), line("tar", "12.5%", mean=0.6)]
    assert joined([first, second]) == [*first, second[1]]


def test_families_are_those_of_the_full_cache() -> None:
    head, _, row = families([whole(0.9), line("tar", mean=0.2)]).splitlines()
    assert head == "| camera | needle | order | persistent | overall |"
    assert row.startswith("| still | 0.80 [0.75, 0.85] | 0.90 ")
