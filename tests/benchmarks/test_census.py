"""The census of model types: its table in the documentation, and the whole of it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from kvpress_video.benchmarks.census.other_kinds import OTHER_KINDS
from kvpress_video.benchmarks.census.page import census
from kvpress_video.benchmarks.census.rows import CORE, Row, row_of
from kvpress_video.benchmarks.census.run import read
from kvpress_video.benchmarks.census.tiny import registered_types
from kvpress_video.benchmarks.publishing.sweep import fill

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/census"
VERSIONS = {file.stem: read(file) for file in RESULTS.glob("*.json")}
ROWS = VERSIONS.get(transformers.__version__, [])
same_version = pytest.mark.skipif(not ROWS, reason="there is no census of this transformers")


def test_the_page_shows_the_census() -> None:
    page = (ROOT / "docs/models.md").read_text()
    assert fill(page, "census", census(VERSIONS)) == page


@pytest.mark.parametrize("version", VERSIONS)
def test_four_of_five_decoders_are_served(version: str) -> None:
    rows = [row for row in VERSIONS[version] if row.model_type not in OTHER_KINDS]
    assert sum(bool(row.adapter) for row in rows) >= 0.8 * len(rows)
    assert all(bool(row.adapter) != bool(row.reason) for row in rows)


def test_what_differs_in_an_older_version_is_shown_alone() -> None:
    newer = [Row("one", "general"), Row("two", reason="it has no cache")]
    older = [Row("one", "general"), Row("two", "general", ("queries",))]
    page = census({"4.57.6": older, "5.23.0": newer})
    after = page.partition("Types that differ:")[2]
    assert page.startswith("Of 2 registered types of transformers 5.23.0")
    assert "`two` | general | no methods that use queries" in after
    assert "`one`" not in after


@same_version
def test_every_registered_type_has_a_row() -> None:
    assert [row.model_type for row in ROWS] == registered_types()


@same_version
@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_a_type_is_as_the_census_says(row: Row) -> None:
    found = row_of(row.model_type)
    assert (found.adapter, found.refused, found.grid) == (row.adapter, row.refused, row.grid)
    assert bool(found.reason) == bool(row.reason)
    assert set(found.methods) <= set(CORE)
    assert bool(found.methods) == (found.adapter == "general")
