"""The census of model types: its table in the documentation, and the whole of it again."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from kvpress_video.benchmarks.census.other_kinds import OTHER_KINDS
from kvpress_video.benchmarks.census.page import census, counts
from kvpress_video.benchmarks.census.rows import CORE, Row, row_of
from kvpress_video.benchmarks.census.run import read
from kvpress_video.benchmarks.census.tiny import registered_types
from kvpress_video.benchmarks.publishing.sweep import fill

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/census"
VERSIONS = {file.stem: read(file) for file in RESULTS.glob("*.json")}
ROWS = VERSIONS.get(transformers.__version__, [])
STOCK_FAILS = {"5.24.0": ("llama4",)}  # its forward reads an attribute that the output of its text model lacks
same_version = pytest.mark.skipif(not ROWS, reason="there is no census of this transformers")


def test_the_page_shows_the_census() -> None:
    page = (ROOT / "docs/models.md").read_text()
    assert fill(page, "census", census(VERSIONS)) == page


def served(version: str) -> tuple[int, int]:
    """Supported types among those with visual tokens in the cache of a decoder, and their number."""
    rows = [row for row in VERSIONS[version] if row.model_type not in OTHER_KINDS]
    return sum(bool(row.adapter) for row in rows), len(rows)


def test_four_of_five_decoders_that_run_are_served() -> None:
    newest = max(VERSIONS, key=lambda version: [*map(int, version.split("."))])
    some, of_all = served(newest)
    assert some >= 0.8 * (of_all - len(STOCK_FAILS.get(newest, ())))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_served_has_a_reason(version: str) -> None:
    assert all(bool(row.adapter) != bool(row.reason) for row in VERSIONS[version])
    some, of_all = served(version)
    assert f"| {some} of {of_all} ({some / of_all:.0%}) |" in counts(version, VERSIONS[version])


def test_a_type_has_a_column_per_version() -> None:
    newer = [Row("one", "general"), Row("two", reason="it has no cache"), Row("three", "QwenVL")]
    older = [Row("one", "general"), Row("two", "general", ("queries",)), Row("blip", reason="it has no cache")]
    lines = census({"4.57.6": older, "5.23.0": newer}).splitlines()
    assert "| 5.23.0 | 3 | 1 | 1 | 1 | 0 | 2 of 3 (67%) |" in lines
    assert "| 4.57.6 | 3 | 0 | 2 | 1 | 0 | 2 of 2 (100%) |" in lines
    assert lines[-6:] == [
        "| model types | 5.23.0 | 4.57.6 |",
        "|---|---|---|",
        "| `three` | dedicated | \N{EN DASH} |",
        "| `one` | general | same |",
        "| `two` | none: it has no cache | general: no methods that use queries |",
        "| `blip` | \N{EN DASH} | none: it has no cache |",
    ]


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
