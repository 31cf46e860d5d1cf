"""The benchmark of video reading, on a file of a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kvpress_video.benchmarks.perf import program
from kvpress_video.benchmarks.perf.cases import reading as reading_module
from kvpress_video.benchmarks.perf.cases.reading import OURS, PYAV, READERS, SAMPLED, idle_growth, write_video
from kvpress_video.benchmarks.perf.results.goals import TARGETS
from kvpress_video.benchmarks.perf.results.measurement import Figure
from kvpress_video.benchmarks.perf.setup.scales import bed

pytest.importorskip("av", reason="PyAV writes the file")

TINY = bed("tiny", "cpu")
COUNT = 75


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("reading") / "video.mp4", COUNT)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    growth = {name: number << 20 for number, name in enumerate(READERS)}
    monkeypatch.setattr(reading_module, "idle_growth", lambda name, path, count: growth[name])
    return list(program("reading")(TINY))


def installed(name: str) -> Any:
    if name == "decord":
        pytest.importorskip("decord")
    return READERS[name]


@pytest.mark.parametrize("name", READERS)
def test_readers_read_the_same_frames(video: Path, name: str) -> None:
    sampled = installed(name).sample(video, COUNT)
    assert sampled.shape == (SAMPLED, 576, 768, 3)
    streamed = list(READERS[name].stream(video, COUNT))
    assert sum(map(len, streamed)) == COUNT
    assert max(map(len, streamed)) <= reading_module.GROUP
    reference = np.concatenate(list(READERS[PYAV].stream(video, COUNT)))
    apart = np.abs(np.concatenate(streamed).astype(int) - reference)
    assert np.median(apart) <= 3  # conversions to RGB differ


def test_the_picture_moves(video: Path) -> None:
    first, *_, last = READERS[PYAV].sample(video, COUNT)
    assert (first != last).mean() > 0.5


def test_times_are_compared_with_decord(figures: list[Figure]) -> None:
    pytest.importorskip("decord")
    for what in ("sample 64 frames", "stream every frame"):
        times = {one.case.partition(",")[0]: one for one in figures if one.what == f"time to {what}"}
        assert set(times) == set(READERS)
        for name, one in times.items():
            assert one.measured == one.raw["seconds"][0] > 0  # one round at this scale
            assert one.raw["frames"] == COUNT
            ratio = [other for other in figures if other.what == f"time to {what} ÷ decord's" and name in other.case]
            assert len(ratio) == (name != "decord")
            for other in ratio:
                assert other.measured == pytest.approx(one.measured / times["decord"].measured)
                assert (other.goal is not None) == (name == OURS)


def test_without_decord_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(READERS, OURS, READERS[PYAV])  # which may be read by decord
    monkeypatch.setattr(reading_module, "idle_growth", lambda name, path, count: 0)
    found = list(program("reading")(TINY))
    assert {one.case.partition(",")[0] for one in found} == {OURS, PYAV}
    assert not [one for one in found if "÷" in one.what]


def test_memory_is_watched_while_nothing_is_read(figures: list[Figure]) -> None:
    growth = {one.case.partition(",")[0]: one for one in figures if one.what.startswith("memory growth")}
    assert [one.measured for one in growth.values()] == list(range(len(growth)))
    assert [name for name, one in growth.items() if one.goal is not None] == [OURS]


def test_a_reader_that_decodes_on_demand_does_not_grow(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(idle_growth(PYAV, video, COUNT)) < 8 << 20


def test_goals_of_reading_are_on_the_page(figures: list[Figure]) -> None:
    for figure in figures:
        assert sum(figure in asked.of([figure]) for asked in TARGETS) == (figure.goal is not None)
