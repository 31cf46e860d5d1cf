"""What is held of the text around the frames of a stream, and where it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sessions import LABELS, UNMOVED, frames_for, tiny

import kvpress_video as kv
from kvpress_video.compressor.entries import Grid, Kind, Tags
from kvpress_video.streaming.frame_tokens import FrameTokens, LabelIds

FAMILY = "qwen3_vl"
pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="families of transformers 5")


@pytest.mark.parametrize("labels", ["spread", "drop"])
@pytest.mark.parametrize("family", LABELS)
def test_a_long_stream_holds_frames_and_labels_to_its_budget(family: str, labels: Any) -> None:
    session = tiny("infinipot-v", 120, family, labels=labels, position_limit=600)
    sizes = set()
    for part in range(8):
        session.push(frames_for(family, 24), np.arange(24) + 24.0 * part)
        stats = session.stats
        assert stats.position <= (10**8 if family in UNMOVED else 600)
        held = {sum(pair) for pair in zip(stats.entries, stats.label_entries, strict=True)}
        assert held == {120} if labels == "spread" or stats.visual_tokens > 120 else max(held) <= 120
        if stats.visual_tokens > 120:
            sizes.add((stats.bytes, stats.reserved_bytes, stats.text_entries))
    assert len(sizes) == 1
    assert len(session.stream.timeline.runs) == 1
    tags = session.stream.layers[0].tags[0, 0]
    assert bool((tags[:, Tags.KIND] == Kind.LABEL).any()) == (labels == "spread")
    assert session.ask("What?", max_new_tokens=3)


@pytest.mark.parametrize("family", LABELS)
def test_labels_that_are_kept_are_text_and_can_be_saved(family: str, tmp_path: Any) -> None:
    session = tiny("infinipot-v", 40, family, labels="keep")
    session.push(frames_for(family, 40), np.arange(40.0))
    assert session.stats.label_tokens == 0
    assert session.stats.text_entries > 20 * 10
    session.save(tmp_path / "a.kvv")
    loaded = kv.VideoSession.load(tmp_path / "a.kvv", session.model, session.processor)
    assert loaded.ask("What?", max_new_tokens=4) == session.ask("What?", max_new_tokens=4)


def test_rows_and_columns_stay_with_the_time_of_their_frame_when_positions_run_out() -> None:
    session = tiny("recent", 100, FAMILY, position_limit=300)
    for part in range(12):
        session.push(frames_for(FAMILY, 8), np.arange(8) + 8.0 * part)
    layer = session.stream.layers[0]
    tags, places = layer.tags[0, 0], layer.places[0, 0, :, 4:7]
    visual = tags[:, Tags.KIND] == Kind.VIDEO
    offsets = places[visual] - places[visual][:, :1]
    assert torch.allclose(offsets[:, 1], tags[visual, Tags.ROW].float(), atol=1e-3)
    assert torch.allclose(offsets[:, 2], tags[visual, Tags.COLUMN].float(), atol=1e-3)
    assert (places[:, 0].diff() >= -1e-3).all()
    assert session.stream.timeline.runs[0].end < 300


def test_tokens_of_frames_without_labels_are_one_piece() -> None:
    tokens = FrameTokens(Grid(3, 2, 2), [LabelIds((), ())] * 3)
    assert tokens.visual.tolist() == [True] * 12
    assert tokens._label_counts(0) == {}
    assert tokens.counted(5, spatial=False)[0][:, 0].tolist() == list(range(5, 17))
