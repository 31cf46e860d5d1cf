"""The census of model types: its table in the documentation, and the whole of it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from kvpress_video.benchmarks.census.run import Row, counts, row_of, table
from kvpress_video.benchmarks.census.tiny import registered_types
from kvpress_video.benchmarks.publishing.sweep import fill

ROOT = Path(__file__).parents[2]
RESULTS = json.loads((ROOT / "benchmarks/results/census.json").read_text())
ROWS = [Row(**row | {"refused": tuple(row["refused"])}) for row in RESULTS["types"]]
same_version = pytest.mark.skipif(
    transformers.__version__ != RESULTS["versions"]["transformers"], reason="the census is of another transformers"
)


@same_version
def test_the_page_shows_the_census() -> None:
    page = (ROOT / "docs/models.md").read_text()
    assert fill(page, "census", counts(ROWS) + "\n" + table(ROWS)) == page


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
