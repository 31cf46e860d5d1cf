"""`kvpress-video sweep --power`: from a store, and from a pilot."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from sweep_rows import done

from kvpress_video.cli import main
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.store import Store

FULL, TAR = Cell("full", "100%"), Cell("tar", "25%")


def test_a_store_tells_how_many_videos_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path, {"cells": [asdict(FULL), asdict(TAR)]}) as store:
        for clip in range(20):
            store.add(done(FULL, clip, lambda clip, number: 1.0))
            store.add(done(TAR, clip, lambda clip, number: float(clip % 4 > 0)))
    assert main(["sweep", "--out", str(tmp_path), "--power", ".1"]) == 0
    first = capsys.readouterr().out
    assert "true difference of .10 from full" in first
    assert "estimated from 20 videos" in first
    assert main(["sweep", "--out", str(tmp_path), "--power", ".1", "--dry-run", "--methods", "tar", "--budgets", "9%",
                 "--benchmarks", "world:count=2,frames=8"]) == 0  # fmt: skip
    assert first.splitlines()[-1] in capsys.readouterr().out


def test_one_video_is_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path, {"cells": [asdict(FULL), asdict(TAR)]}) as store:
        store.add(done(FULL, 0, lambda *_: 1.0))
        store.add(done(TAR, 0, lambda clip, number: float(number > 0)))
    assert main(["sweep", "--out", str(tmp_path), "--power", ".1"]) == 2
    said = capsys.readouterr()
    assert "cannot be estimated from one video" in said.err
    assert said.out == ""


@pytest.mark.slow
def test_a_pilot_answers_a_few_clips_of_each_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["sweep", "--out", str(tmp_path), "--power", ".2", "--pilot", "2", "--workers", "1", "--device", "cpu"]
    grid = ["--benchmarks", "world:count=12,frames=8", "--methods", "full,random", "--budgets", "10%"]
    assert main([*asked, *grid]) == 0
    assert "world:count=12,frames=8, moving: " in capsys.readouterr().out
    with Store(tmp_path) as store:
        assert len({row.clip for row in store.rows() if row.measured.group == "still"}) == 2
        assert len({row.clip for row in store.rows()}) == 4
