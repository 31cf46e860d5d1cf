"""Measurements of layers: their formulas, and what they say of the bundled model."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kvpress_video.benchmarks.probes import calibration
from kvpress_video.benchmarks.probes.homogeneity import centred, homogeneity, rises
from kvpress_video.benchmarks.probes.margin import Asked, ask_clips, height, interval, least_margin, rows
from kvpress_video.benchmarks.probes.pairs import Pair, pairs
from kvpress_video.benchmarks.probes.swap import Profile, exchanged, shares, swapped
from kvpress_video.benchmarks.probes.variation import store, thresholds
from kvpress_video.benchmarks.probes.visual_states import SEED, visual_states
from kvpress_video.benchmarks.world import FAMILIES, make_clip
from torch.nn.functional import cosine_similarity

import kvpress_video as kv
from kvpress_video.errors import BenchmarkError


def test_homogeneity_is_the_mean_cosine_of_pairs() -> None:
    states = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) + 1
    pairs = [cosine_similarity(states[one], states[other], dim=0) for one, other in combinations(range(7), 2)]
    assert homogeneity(states) == pytest.approx(float(torch.stack(pairs).mean()), abs=1e-6)


def test_a_common_offset_makes_states_alike_and_centred_ones_not() -> None:
    states = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert homogeneity(states + 10) > 0.9 > homogeneity(states)
    assert homogeneity(centred(states + 10)) == pytest.approx(homogeneity(centred(states)), abs=1e-5)


def test_a_rise_has_an_interval() -> None:
    change, half = rises(np.array([[0.0, 0.5, 1.0], [0.0, 0.7, 2.0]]))
    assert change == 1.5
    assert half == pytest.approx(1.96 * 0.5)


def test_states_are_those_of_visual_tokens(tmp_path: Path) -> None:
    model, processor = kv.load_bundled(device="cpu")
    states = visual_states(model, processor, kv.read_video(make_clip(tmp_path / "clip.mp4", 4).path))
    assert [each.shape for each in states.hidden] == [(4 * 16, 192)] * 5
    assert [each.shape for each in states.values] == [(3, 4 * 16, 32)] * 4


def test_thresholds_are_quartiles_over_layers_and_stay_with_the_model(tmp_path: Path) -> None:
    found = thresholds(np.array([[0.1, 0.3, 0.2, 0.4, 0.5], [0.1, 0.3, 0.4, 0.4, 0.5]]))
    assert found == pytest.approx((0.3, 0.3, 0.4))
    with pytest.raises(BenchmarkError, match="save the model there first"):
        store(tmp_path, found)
    model, _ = kv.load_bundled(device="cpu")
    model.config.save_pretrained(tmp_path)
    store(tmp_path, found)
    assert json.loads((tmp_path / "config.json").read_text())["kvpress_video"] == {"van_thresholds": [0.3, 0.3, 0.4]}
    assert type(model.config).from_pretrained(tmp_path).kvpress_video == {"van_thresholds": [0.3, 0.3, 0.4]}


def test_the_bundled_models_are_calibrated(tmp_path: Path) -> None:
    """Pooling by the paper's rule, which needs thresholds, runs on them and is not the released rule."""
    model, processor = kv.load_bundled(device="cpu")
    video = kv.read_video(make_clip(tmp_path / "clip.mp4", 8).path)
    kept = []
    for pooling in ("variation", "True"):
        with kv.compress(model, f"van:pooling={pooling}", "25%") as run:
            model.generate(**kv.prepare(processor, video, "How many shapes flashed?"), max_new_tokens=1)
        kept.append(run.kept)
    assert not all(torch.equal(one, other) for one, other in zip(*kept, strict=True))


@pytest.fixture(scope="module")
def of_a_scene() -> list[Pair]:
    return list(pairs(SEED, 8))


def test_pairs_differ_in_what_the_question_asks_about_alone(of_a_scene: list[Pair]) -> None:
    assert [pair.family for pair in of_a_scene] == list(FAMILIES)
    for pair in of_a_scene:
        one, other = (video.frames.astype(int) for video in pair.videos)
        changed = np.abs(one - other).max(axis=-1) > 0
        assert pair.answers[0] != pair.answers[1]
        assert 0 < changed.mean() < 0.1
        assert one.shape == (16, 112, 112, 3)


def test_a_change_of_a_flash_is_in_its_frame_alone(of_a_scene: list[Pair]) -> None:
    needle = of_a_scene[0]
    one, other = (video.frames for video in needle.videos)
    assert np.flatnonzero((one != other).any(axis=(1, 2, 3))).tolist() in [[2 * t, 2 * t + 1] for t in range(8)]


def test_swapping_all_layers_swaps_the_answer_and_leaves_the_cache_as_it_was(of_a_scene: list[Pair]) -> None:
    model, processor = kv.load_bundled(device="cpu")
    flips = swapped(model, processor, of_a_scene[3])
    assert flips is not None
    assert len(flips) == 2 * 4
    assert flips[4]
    sessions = [kv.VideoSession(model, processor, "full") for _ in range(2)]
    for session, video in zip(sessions, of_a_scene[3].videos, strict=True):
        session.push(video.frames, video.times)
        session.flush()
    layer, other = (session.stream.layers[1] for session in sessions)
    before = layer.keys.clone()
    with exchanged(layer, other):
        assert not torch.equal(layer.keys, before)
        text = before.shape[2] - 8 * 16
        assert int((layer.keys != before).any(dim=-1).sum(dim=-1).max()) <= before.shape[2] - text
    assert torch.equal(layer.keys, before)


def test_shares_follow_the_flips_of_single_layers() -> None:
    found = {"a": Profile(10, [10, 0], [10, 0]), "b": Profile(20, [10, 0], [20, 0])}
    assert shares(found) == pytest.approx([0.75 * 2 / 0.8, 0.05 * 2 / 0.8])
    assert found["b"].interval(10)[0] == 0.5


def asked(margins: list[float], never: list[int], always: list[int], least: float) -> Asked:
    """Two questions a clip; bringing frames back takes three times as long."""
    margin = np.array(margins)
    doubted = margin < least
    right = np.stack([never, np.where(doubted, always, never), always], axis=1).astype(float)
    seconds = np.stack([np.ones(len(margin)), np.where(doubted, 3.0, 1.0), np.full(len(margin), 3.0)], axis=1)
    return Asked(np.arange(len(margin)) // 2, margin, right, seconds, doubted)


def test_the_margin_that_separates_what_frames_help() -> None:
    margins, never = [0.1, 0.2, 0.3, 5.0, 6.0, 7.0, 8.0, 9.0], [0, 0, 0, 1, 1, 1, 1, 1]
    least = least_margin(asked(margins, never, [1] * 8, 0))
    assert 0.3 < least <= 5.0
    found = asked(margins, never, [1] * 8, least)
    assert height(found) == pytest.approx(1 - (5 / 8 + 3 / 8 * 3 / 8))
    low, high = interval(found, height)
    assert 0 <= low < height(found) < high
    assert [row[3] for row in rows(found)] == ["0%", "38%", "100%"]


def test_a_margin_that_tells_nothing_lies_on_the_line() -> None:
    found = asked([1.0, 5.0] * 8, [0, 0, 1, 1] * 4, [1, 1, 1, 1] * 4, 3.0)
    assert height(found) == pytest.approx(0)
    low, high = interval(found, height)
    assert low <= 0 <= high


def test_questions_in_doubt_are_answered_with_frames(bundled: tuple[Any, Any], tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", 8, seed=SEED)
    both = ask_clips(*bundled, "standby", 24, [clip], None)
    least = float(np.median(both.margin))
    found = ask_clips(*bundled, "standby", 24, [clip], least)
    assert 0 < found.doubted.sum() < len(clip.questions)
    expected = np.where(found.doubted, both.right[:, 2], both.right[:, 0])
    assert found.right[:, 1].tolist() == expected.tolist()
    assert (found.seconds > 0).all()


def test_stored_values_leave_others_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    calibration.store(tmp_path, "focus_margin", 1.5)
    store(tmp_path, (0.1, 0.2, 0.3))
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["model_type"] == "x"
    assert kept["kvpress_video"]["focus_margin"] == 1.5
    assert len(kept["kvpress_video"]) == 2
