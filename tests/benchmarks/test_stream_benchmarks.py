"""The benchmarks of streams: what they show and ask, what they count, and what they publish of it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.publishing.provenance import provenance, write_result
from kvpress_video.benchmarks.streams import accuracy as stream_accuracy
from kvpress_video.benchmarks.streams import endless
from kvpress_video.benchmarks.streams.publish import (
    Answered,
    accuracies,
    by_camera,
    differences,
    draw,
    fill,
    memory,
    origin,
    origins,
    work,
)
from kvpress_video.benchmarks.train.evaluate import answer, read_video
from kvpress_video.benchmarks.world import HELD_OUT_SEED, Clip, make_clip, make_clips
from kvpress_video.benchmarks.world.clips import draw_scene

from kvpress_video.sweep.cells import Cell

STEPS, EARLY = 12, 3


@pytest.fixture(scope="module")
def early_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """One of each camera; shapes flash in the first three seconds."""
    pytest.importorskip("av", reason="PyAV writes the clips")
    return make_clips(2, STEPS, flashing=EARLY, folder=tmp_path_factory.mktemp("early"))


def test_flashes_keep_to_the_first_frames_and_glares_do_not() -> None:
    latest_glare = 0
    for seed in range(40):
        scenes, *_ = draw_scene(seed, 16, ("still", "moving")[seed % 2], 4)
        flashes = [frame for frame in scenes.flash_frame[0].tolist() if frame < 16]
        assert len(flashes) == int(scenes.flash_count[0]) == len(set(flashes))
        assert 2 <= len(flashes) <= 4
        assert max(flashes) < 4
        latest_glare = max([latest_glare, *(frame for frame in scenes.glare_frame[0].tolist() if frame < 16)])
    assert latest_glare == 15


def test_other_clips_are_what_they_were() -> None:
    scenes, questions, _ = draw_scene(HELD_OUT_SEED, 16, "moving")
    assert scenes.flash_frame[0].tolist() == [4, 8, 11, 12, 16]
    answers = ["purple", "bottom far left", "triangle", "heart", "four", "red", "cyan", "lower far left"]
    assert [question.answer for question in questions] == answers
    assert draw_scene(HELD_OUT_SEED, 16, "moving", 16)[1] == questions


def test_early_and_other_clips_share_a_folder(early_clips: list[Clip]) -> None:
    folder = early_clips[0].path.parent
    others = make_clips(2, STEPS, folder=folder)
    assert not {clip.path for clip in others} & {clip.path for clip in early_clips}
    assert make_clips(2, STEPS, flashing=EARLY, folder=folder) == early_clips


@pytest.mark.parametrize("flashing", [0, 9])
def test_flashes_need_frames_of_the_clip(flashing: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"flashing is {flashing}"):
        make_clip(tmp_path / "clip.mp4", 8, flashing=flashing)


def test_the_uncompressed_session_answers_as_the_stock_model(early_clips: list[Clip], bundled: tuple[Any, Any]) -> None:
    for clip in early_clips:
        row = stream_accuracy.watch(clip, Cell("full", "100%"))
        asked = [question for question in clip.questions if question.family != "persistent"]
        video = read_video(clip.path)
        assert row["answers"] == [answer(*bundled, video, question.text) for question in asked]
        assert row["right"] == [said == question.answer for said, question in zip(row["answers"], asked, strict=True)]
        assert row["entries"] == STEPS * 16


def test_a_row_holds_its_allowance(early_clips: list[Clip]) -> None:
    row = stream_accuracy.watch(early_clips[0], Cell("recent", "32"))
    assert row["entries"] == 32
    assert len(row["right"]) == len(row["answers"]) == 6
    assert row["bytes"] < row["peak_bytes"]
    refused = stream_accuracy.watch(early_clips[0], Cell("detachable:window=0.5,scorer=novelty", "16"))
    assert "cannot hold a frame" in refused["error"]
    assert "answers" not in refused


def test_the_way_goes_to_and_fro_without_a_cut() -> None:
    way = list(islice(endless.path(9, 4), 60))
    assert way[:9] == list(range(9))
    assert all(abs(step - before) == 1 for before, step in pairwise(way))
    assert set(way[9:]) == set(range(4, 9))
    with pytest.raises(ValueError, match="cannot go on"):
        endless.path(9, 8)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["recent", "full"])
def test_a_stream_is_measured(method: str, early_clips: list[Clip]) -> None:
    budget = None if method == "full" else "32"
    short, long = (
        endless.watch(endless.Plan(method, budget, frames, early_clips[0], EARLY, 40, 4)) for frames in (24, 96)
    )
    assert [point["frames"] for point in long["trace"]] == [24, 48, 72, 96]
    assert [point["asked"]["early"] for point in long["trace"]] == [5, 10, 15, 20]
    assert long["asked"] == {"early": 20, "in view": 8}
    assert all(0 <= long["right"][topic] <= asked for topic, asked in long["asked"].items())
    assert long["highest_position"] <= 40 < long["frames"] // 2
    assert long["visual_tokens"] == 48 * 16
    grew = (long["entries"] - short["entries"], long["bytes"] - short["bytes"])
    assert grew == (0, 0) if method == "recent" else grew[0] == 36 * 16 and grew[1] > 0
    assert 2**20 < long["rss_start"] < 2**40


def echo(plan: endless.Plan) -> dict[str, Any]:
    """A row that was not measured."""
    row = {"method": plan.method, "budget": plan.budget, "frames": plan.frames, "position_limit": plan.position_limit}
    return row | {"camera": plan.clip.camera}


def test_rows_of_other_streams_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV writes the clips")
    monkeypatch.setattr(endless, "STEPS", 2)
    monkeypatch.setattr(endless, "EARLY", 1)
    monkeypatch.setattr(endless, "alone", echo)
    out = tmp_path / "results" / "endless.json"
    for arguments in (["--frames", "20", "10", "--budget", "64"], ["--frames", "10", "--method", "full"]) * 2:
        monkeypatch.setattr(sys, "argv", ["endless", *arguments, "--out", str(out)])
        endless.main()
    rows = json.loads(out.read_text())["rows"]
    assert [(row["method"], row["frames"]) for row in rows] == [("full", 10), ("infinipot-v", 10), ("infinipot-v", 20)]
    assert rows[0]["versions"]["torch"] == version("torch")


def test_a_result_is_json_with_a_record_per_line(tmp_path: Path) -> None:
    rows = [{"method": "recent", "answers": ["red", "…"]}, {"method": "full", "answers": []}]
    file = tmp_path / "new" / "result.json"
    write_result(file, {"what": "a “test”", **provenance()}, rows=rows, clips=[])
    found = json.loads(file.read_text())
    assert found["what"] == "a “test”"
    assert found["rows"] == rows
    assert found["clips"] == []
    assert sum('"method"' in line for line in file.read_text().splitlines()) == 2
    assert {"command", "versions", "revision", "machine"} <= found.keys()


def result(right: dict[tuple[str, str], list[list[bool]]]) -> dict[str, Any]:
    """Two clips with three questions: right or wrong by cell, clip and question."""
    questions = [["needle", "?", "a"], ["count", "?", "b"], ["place", "?", "c"]]
    clips = [{"clip": camera, "camera": camera, "questions": questions} for camera in ("still", "moving")]
    rows = [
        {"method": method, "budget": budget, "clip": clip["clip"], "right": given}
        for (method, budget), answers in right.items()
        for clip, given in zip(clips, answers, strict=True)
    ]
    rows.append({"method": "van", "budget": "16", "clip": "still", "error": "too small"})
    columns = {"needle": "memory", "order": "memory", "count": "memory", "place": "present"}
    return {"columns": columns, "clips": clips, "rows": rows}


RIGHT = {
    ("full", "100%"): [[True, True, True], [True, True, True]],
    ("infinipot-v", "16"): [[True, False, False], [True, True, False]],
    ("recent", "16"): [[False, False, True], [True, False, True]],
}


def test_tables_say_what_the_rows_say() -> None:
    answered = Answered.read(result(RIGHT))
    shown = {line.split(" | ")[0].strip("| "): line for line in accuracies(answered, "memory").splitlines()[2:]}
    assert shown["full"].startswith("| full | 1.00 [")
    assert "| **.75** [" in shown["infinipot-v"]
    assert "| .25 [" in shown["recent"]
    assert by_camera(answered, "memory").splitlines()[3:] == [
        "| infinipot-v | .50 / 1.00 |",
        "| recent | .00 / .50 |",
    ]
    assert "| recent | **1.00** [" in accuracies(answered, "present")
    (line,) = differences(answered, "memory").splitlines()[2:]
    assert line.startswith("| recent | -.50 [")
    assert answered.errors == {Cell("van", "16"): "too small"}


def test_results_of_several_runs_are_one_table_in_the_given_order() -> None:
    first = {cell: right for cell, right in RIGHT.items() if cell[0] != "recent"}
    later = {("reversed:base=tar", "16"): RIGHT["recent", "16"], ("recent", "16"): RIGHT["recent", "16"]}
    answered = Answered.read(result(first), result(later), order=["full", "recent", "infinipot-v"])
    assert answered.methods == ["full", "recent", "infinipot-v", "reversed:base=tar"]
    assert answered.difference("recent", "16", "memory") == Answered.read(result(RIGHT)).difference(
        "recent", "16", "memory"
    )


def test_a_page_is_filled_where_it_says() -> None:
    page = "before\n<!-- one -->\nold\n<!-- /one -->\nafter <!-- two -->\n<!-- /two -->"
    filled = fill(page, "one", "new\n")
    assert filled == page.replace("old\n", "new\n")
    assert fill(filled, "one", "new\n") == filled
    with pytest.raises(ValueError, match="three"):
        fill(page, "three", "")


def test_streams_side_by_side() -> None:
    row = {
        "method": "recent", "camera": "still", "frames": 7200, "position_limit": 256, "entries": 256, "bytes": 2048,
        "reserved_bytes": 4096, "peak_bytes": 3072, "rss": 2**29, "frames_per_second": 333.3, "ask_ms": 12.6,
        "highest_position": 99, "right": {"early": 3, "in view": 4}, "asked": {"early": 5, "in view": 6},
    }  # fmt: skip
    assert memory([row]).splitlines()[-1] == (
        "| recent | still | 7,200 | 1.0 h | 256 | 2 KiB | 3 KiB | 4 KiB | 512 MiB |"
    )
    assert work([row]).splitlines()[-1] == "| recent | still | 7,200 | 333 | 13 | 99 of 256 | 3 of 5 | 4 of 6 |"
    other = work([row | {"position_limit": 1024}]).splitlines()[-1]
    assert other.startswith("| recent, 1,024 positions | still |")
    made = [{"machine": "m", "versions": {"torch": "2"}, "revision": name} for name in ("a-dirty", "a-dirty", None)]
    assert origin(made) == "m; torch 2; revision a-dirty.\n\nm; torch 2; revision unknown.\n"
    runs = [{**made[0], "settings": {"tar": {}, "reversed:base=tar": {}}}, {**made[2], "settings": {"van": {}}}]
    assert origins(runs) == "tar, reversed: m; torch 2; revision a-dirty.\n\nvan: m; torch 2; revision unknown.\n"


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws")
    draw(Answered.read(result(RIGHT)), tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text().count("<svg") == 1
