"""Public benchmarks: clips, their windows, and videos that are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.public.mlvu import MLVU
from kvpress_video.benchmarks.public.videos import find_video
from public_copies import (
    MLVU_COUNTS,
    Copy,
    touch,
    write_json,
    write_longvideobench,
    write_lvbench,
    write_mlvu,
    write_video_mme,
)
from public_streams import ALL, ovo_items, write_ovo_bench, write_rvs, write_streamingbench

from kvpress_video.errors import BenchmarkError, UnknownNameError
from kvpress_video.sweep.benchmark import Clip


def clips(copy: Copy, seed: int = 0, **options: Any) -> Sequence[Clip]:
    return copy.open(**options).clips(seed, copy.root)


@pytest.mark.parametrize("write", ALL.values(), ids=ALL)
def test_clips_are_the_same_each_time_and_their_videos_exist(write: Callable[[Path], Copy], tmp_path: Path) -> None:
    copy = write(tmp_path)
    made = clips(copy)
    assert made == clips(copy, seed=1)
    assert len({clip.name for clip in made}) == len(made)
    for clip in made:
        assert clip.path.is_file()
        assert clip.questions
        assert (clip.frames is None) != (clip.fps is None)
        assert "ABCDE".find(clip.questions[0].expected[:1]) >= 0 or copy.benchmark.title[:3] in ("OVO", "RVS")


def test_questions_about_one_video_share_a_clip(tmp_path: Path) -> None:
    made = clips(write_video_mme(tmp_path))
    assert [len(clip.questions) for clip in made] == [3, 3, 3, 3]
    assert [clip.group for clip in made] == ["short", "medium", "long", "short"]
    assert made[1].path == tmp_path / "data/yt1.mp4"
    assert made[0].questions[0].task == "Counting Problem"
    assert made[0].questions[0].category == "Knowledge"
    assert {clip.frames for clip in made} == {64}


def test_mlvu_reads_each_task_from_its_file(tmp_path: Path) -> None:
    made = clips(write_mlvu(tmp_path))
    counts = dict.fromkeys((name[2:] for name in MLVU_COUNTS), 0)
    for clip in made:
        for question in clip.questions:
            counts[question.task] += 1
    assert counts == {name[2:]: count for name, count in MLVU_COUNTS.items()}
    assert made[0].path == tmp_path / "video/1_plotQA/plotQA_0.mp4"


def test_mlvu_never_mixes_its_two_sets(tmp_path: Path) -> None:
    copy = write_mlvu(tmp_path)
    with pytest.raises(BenchmarkError, match="test_mcq_gt"):
        clips(copy, split="test")
    item = {"video": "t.mp4", "question": "Why?", "candidates": ["so", "thus"], "answer": "thus"}
    write_json(
        tmp_path / "test-ground-truth/test_mcq_gt.json",
        [item | {"question_id": "AR_0", "question_type": "anomaly_reco"}],
    )
    touch(tmp_path, ["test_video/t.mp4"])
    (clip,) = clips(copy, split="test")
    assert [(question.id, question.expected) for question in clip.questions] == [("AR_0", "B")]
    assert len(clips(copy)) == 10


def test_longvideobench_takes_at_most_a_frame_a_second(tmp_path: Path) -> None:
    made = clips(write_longvideobench(tmp_path))
    assert [clip.frames for clip in made] == [8, 45, 64]
    assert [clip.group for clip in made] == ["15", "60", "600"]


def test_streamingbench_shows_nothing_after_the_question(tmp_path: Path) -> None:
    copy = write_streamingbench(tmp_path)
    made = clips(copy)
    windows = [(clip.path.stem, clip.start, clip.end, len(clip.questions)) for clip in made]
    assert windows == [
        ("sample_1_real", None, 30.0, 2),
        ("sample_1_real", None, 190.0, 1),
        ("sample_2_real", None, 3605.0, 1),
    ]
    assert [clip.video for clip in made[:2]] == ["./videos/sample_1_real.mp4"] * 2
    assert {(clip.fps, clip.frames) for clip in made} == {(1.0, None)}
    assert [(clip.start, clip.end) for clip in clips(copy, context=60)] == [(0, 30), (130, 190), (3545, 3605)]
    assert [clip.end for clip in clips(copy, part="sqa")] == [36.0, 182.0]
    with pytest.raises(BenchmarkError, match="once a second until the model says yes"):
        copy.open(part="proactive")
    with pytest.raises(BenchmarkError, match="part of StreamingBench is one of real, omni, sqa, got 'reel'"):
        copy.open(part="reel")
    with pytest.raises(BenchmarkError, match="context of StreamingBench must be a number above zero"):
        copy.open(context=-1)


def test_ovo_bench_asks_at_each_of_its_times(tmp_path: Path) -> None:
    made = clips(write_ovo_bench(tmp_path))
    seen = {(clip.video, clip.end): [question.id for question in clip.questions] for clip in made}
    assert seen["Ego4D/clips/0.mp4", 215] == ["0", "2"]
    assert seen["Ego4D/clips/1.mp4", 244] == ["1"]
    assert [seen["perception_test/v.mp4", time] for time in (17, 19, 32)] == [["6_0"], ["6_1"], ["6_2"]]
    assert [seen["MovieNet/m.mp4", time] for time in (297, 310)] == [["8_0"], ["8_1"]]
    assert {clip.end: clip.frames for clip in made if clip.end in (2, 244)} == {2: 16, 244: 64}
    by_category = {question.task: question.category for clip in made for question in clip.questions}
    assert by_category == {
        "EPM": "backward", "HLD": "backward", "OCR": "realtime", "ACR": "realtime",
        "REC": "forward", "SSR": "forward", "CRR": "forward",
    }  # fmt: skip


def test_ovo_bench_from_videos_that_are_cut_already(tmp_path: Path) -> None:
    write_json(tmp_path / "ovo_bench_new.json", ovo_items())
    names = [*map(str, range(6)), "6_0", "6_1", "6_2", "7_0", "7_1", "8_0", "8_1"]
    touch(tmp_path, [f"chunked_videos/{name}.mp4" for name in names])
    copy = Copy(tmp_path, write_ovo_bench(tmp_path / "other").benchmark)
    made = clips(copy, chunked=True)
    assert [clip.path.stem for clip in made] == names
    assert {clip.end for clip in made} == {None}
    assert made[0].video == made[2].video == "Ego4D/clips/0.mp4"


def test_rvs_asks_at_the_end_of_each_stretch(tmp_path: Path) -> None:
    made = clips(write_rvs(tmp_path))
    assert [(clip.end, len(clip.questions), clip.video) for clip in made] == [(300, 2, "9198"), (570, 1, "9198")]
    assert {clip.fps for clip in made} == {0.5}
    assert made[0].path == tmp_path / "ego/videos/9198.mp4"


@pytest.mark.parametrize("write", ALL.values(), ids=ALL)
def test_frames_and_fps_take_the_place_of_the_published_rate(write: Callable[[Path], Copy], tmp_path: Path) -> None:
    copy = write(tmp_path)
    assert {(clip.fps, clip.frames) for clip in clips(copy, fps=2)} == {(2, None)}
    assert {(clip.fps, clip.frames) for clip in clips(copy, frames=4)} == {(None, 4)}


def test_a_limit_draws_clips_by_seed(tmp_path: Path) -> None:
    copy = write_mlvu(tmp_path)
    whole = clips(copy)
    draws = [clips(copy, seed, limit=3) for seed in range(20)]
    for draw in draws:
        places = [whole.index(clip) for clip in draw]
        assert places == sorted(set(places))
        assert len(places) == 3
    assert draws[0] == clips(copy, 0, limit=3)
    assert {clip.name for draw in draws for clip in draw} == {clip.name for clip in whole}
    assert clips(copy, limit=1000) == whole


def test_tasks_can_be_chosen(tmp_path: Path) -> None:
    copy = write_mlvu(tmp_path)
    (tmp_path / "json/5_order.json").unlink()
    made = clips(copy, tasks="count+ego")
    assert {question.task for clip in made for question in clip.questions} == {"count", "ego"}
    with pytest.raises(UnknownNameError, match="Did you mean 'count'"):
        copy.open(tasks="counts")
    with pytest.raises(UnknownNameError, match=r"task of Video-MME 'OCR Problem'.*Did you mean 'OCR Problems'"):
        clips(write_video_mme(tmp_path / "mme"), tasks="OCR Problem")


def test_missing_videos_are_listed(tmp_path: Path) -> None:
    copy = write_video_mme(tmp_path)
    (tmp_path / "data/yt1.mp4").unlink()
    (tmp_path / "data/yt3.mp4").unlink()
    with pytest.raises(BenchmarkError, match="2 of 4 videos of Video-MME are missing: yt1, yt3") as caught:
        clips(copy)
    assert f"{tmp_path / 'videos'}, " in str(caught.value)
    assert "missing=skip" in str(caught.value)
    with pytest.warns(UserWarning, match="2 of 4 videos of Video-MME are missing: yt1, yt3"):
        assert [clip.video for clip in clips(copy, missing="skip")] == ["yt0", "yt2"]
    (tmp_path / "data/yt0.mp4").unlink()
    (tmp_path / "data/yt2.mp4").unlink()
    with pytest.raises(BenchmarkError, match="4 of 4 videos"):
        clips(copy, missing="skip")


def test_only_the_first_ten_missing_videos_are_named(tmp_path: Path) -> None:
    rows = [
        {"video_path": f"v{n:02d}.mp4", "question": "What?", "options": ["so", "no"], "answer": "A"} for n in range(25)
    ]
    copy = write_lvbench(tmp_path / "shape")
    copy = Copy(tmp_path, copy.benchmark)
    write_json(tmp_path / "lvbench.json", rows)
    touch(tmp_path, ["v24.mp4"])
    with pytest.raises(BenchmarkError, match=r"24 of 25 videos .* v08\.mp4, v09\.mp4 and 14 more\. Looked"):
        clips(copy)


@pytest.mark.parametrize("place", ["", "videos", "video", "data"])
@pytest.mark.parametrize("name", ["a.mp4", "./videos/a.mp4", "/data/elsewhere/a.mp4", "a", "nested/a.mp4"])
def test_videos_are_found_where_people_have_them(place: str, name: str, tmp_path: Path) -> None:
    touch(tmp_path / place, ["a.mp4"])
    assert find_video(tmp_path, name) == tmp_path / place / "a.mp4"


def test_videos_are_found_by_folder_first_and_with_other_endings(tmp_path: Path) -> None:
    touch(tmp_path, ["videos/x/a.mp4", "videos/y/a.mp4", "videos/a.mp4", "videos/b.mkv", "videos/c.v1.webm"])
    assert find_video(tmp_path, "x/a.mp4") == tmp_path / "videos/x/a.mp4"
    assert find_video(tmp_path, "y/a") == tmp_path / "videos/y/a.mp4"
    assert find_video(tmp_path, "b.mp4") == tmp_path / "videos/b.mkv"
    assert find_video(tmp_path, "c.v1") == tmp_path / "videos/c.v1.webm"
    assert find_video(tmp_path / "videos/x", "../y/a.mp4") == tmp_path / "videos/x/a.mp4"
    assert find_video(tmp_path, "d") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "MLVU needs path="),
        ({"path": "x", "missing": "ignore"}, "missing of MLVU is one of error, skip, got 'ignore'"),
        ({"path": "x", "frames": 8, "fps": 1.0}, "either frames or fps"),
        ({"path": "x", "limit": 0}, "limit of MLVU must be a number above zero, got 0"),
        ({"path": "x", "frames": "all"}, "frames of MLVU must be a number above zero, got 'all'"),
        ({"path": "x", "split": "train"}, "split of MLVU is one of dev, test"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        MLVU(**options)
