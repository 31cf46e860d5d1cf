"""How large frames must be: as large as the processor can make use of, and no larger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers
from video_files import write_video

import kvpress_video as kv
from kvpress_video.video.decoding import shown_size
from kvpress_video.video.resolution import frame_pixels
from kvpress_video.video.source import find_source
from kvpress_video.video.timeline import Timeline, read_timeline

SIZES = [(720, 1280), (1080, 1920), (2160, 3840), (1440, 2560), (1920, 1080), (1200, 1600), (2304, 4096), (1080, 2048)]

NAMES = ("Qwen2VL", "Qwen3VL", "VideoLlama3", "LlavaOnevision", "InternVL", "SmolVLM")
REAL = [name for name in NAMES if hasattr(transformers, f"{name}VideoProcessor")]


def of(**settings: Any) -> Any:
    """A processor whose video processor has these settings."""
    return SimpleNamespace(video_processor=SimpleNamespace(**settings))


@pytest.mark.parametrize(
    ("processor", "pixels"),
    [
        (of(size={"shortest_edge": 784, "longest_edge": 12544}, patch_size=14, merge_size=2), 2 * 12544),
        (of(size={"longest_edge": 1456}), 2 * 1456**2),
        (of(size={"height": 384, "width": 384}), 8 * 384**2),
        (of(size={"shortest_edge": 224}), 8 * 224**2),
        (of(size={"max_height": 512, "max_width": 256}), 2 * 512 * 256),
        (of(size={"longest_edge": 1}, patch_size=14, merge_size=2), None),
        (of(size=None), None),
        (of(), None),
        (SimpleNamespace(video_processor=None, image_processor=SimpleNamespace(size={"height": 8, "width": 8})), 512),
        (SimpleNamespace(), None),
    ],
)
def test_the_settings_of_a_processor(processor: Any, pixels: int | None) -> None:
    assert frame_pixels(processor) == pixels


@pytest.mark.parametrize("name", REAL)
def test_real_processors_say(name: str) -> None:
    processor = SimpleNamespace(video_processor=getattr(transformers, f"{name}VideoProcessor")())
    found = frame_pixels(processor)
    assert found is not None
    assert 500_000 < found < 5_000_000


def sized(height: int, width: int, tmp_path: Path) -> Timeline:
    timeline = read_timeline(find_source(write_video(tmp_path / "any.mp4", frames=1)))
    return replace(timeline, height=height, width=width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_processor_makes_the_same_grid_of_scaled_frames(
    bundled: tuple[Any, Any], tmp_path: Path, height: int, width: int
) -> None:
    _, processor = bundled
    pixels = frame_pixels(processor)
    assert pixels == 2 * 112 * 112
    shape = shown_size(sized(height, width, tmp_path), pixels)
    assert 0.8 * pixels < shape[0] * shape[1] <= pixels
    grids = [
        processor.video_processor(
            videos=[np.zeros((2, *size, 3), np.uint8)], do_sample_frames=False, return_tensors="pt"
        )["video_grid_thw"].tolist()
        for size in ((height, width), shape)
    ]
    assert grids[0] == grids[1]


def test_small_frames_are_left_alone_and_extreme_ones_stay_in_bounds(tmp_path: Path) -> None:
    assert shown_size(sized(64, 96, tmp_path), 64 * 96) == (64, 96)
    for height, width in ((1, 10_000), (10_000, 1), (3, 7)):
        shape = shown_size(sized(height, width, tmp_path), 10)
        assert 1 <= shape[0] * shape[1] <= 10


def test_a_session_holds_no_larger_frames_than_its_processor_needs(bundled: tuple[Any, Any], tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", frames=8, size=(640, 960))
    session = kv.VideoSession(*bundled, "tar", budget=64)
    session.push_video(path, fps=None)
    assert session._queue.state.size == (128, 192)
    session.push_video(path, fps=None)
    assert session.stats.frames == 16
    full = kv.VideoSession(*bundled, "tar", budget=64)
    full.push(np.zeros((640, 960, 3), np.uint8))
    full.push_video(path, fps=None)
    assert full._queue.state.size == (640, 960)
