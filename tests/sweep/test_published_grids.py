"""The grids of published tables: valid, and described by a dry run without the videos and models."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvpress_video.sweep.dry_run import estimate
from kvpress_video.sweep.dry_run.text import text
from kvpress_video.sweep.grid.yaml_file import read_grid

GRIDS = sorted((Path(__file__).parents[2] / "benchmarks" / "grids").glob("*.yaml"))


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_a_grid_is_valid(file: Path) -> None:
    assert read_grid(file).cells()


def test_a_dry_run_lists_cells_whose_videos_are_not_here() -> None:
    file = next(file for file in GRIDS if file.stem == "infinipot-v-budgets")
    grid = read_grid(file, models="bundled")
    shown = text(estimate.estimate(grid))
    assert "39 cells" in shown
    assert "Not counted: mlvu:path=~/data/MLVU,frames=768: " in shown
    assert "snapkv:window=32,kernel=7" in shown


def test_the_ablation_of_infinipot_v_holds_its_controls() -> None:
    file = next(file for file in GRIDS if file.stem == "infinipot-v-ablation")
    methods = {cell.method for cell in read_grid(file, models="bundled").cells()}
    assert {"reversed:base=tar", "reversed:base=van", "chunk:base=tar,rows=64,columns=64"} <= methods
