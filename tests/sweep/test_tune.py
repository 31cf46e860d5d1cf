"""Tuning: what it tries, what it chooses, and that an interrupted one ends with the same winner."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from running_sweeps import answered
from sweep_rows import TASKS, done

from kvpress_video.compressor.registry import method_names
from kvpress_video.errors import SweepError
from kvpress_video.prefill.options import Stage
from kvpress_video.sweep.benchmark import Clip, Question
from kvpress_video.sweep.cells import Task
from kvpress_video.sweep.grid.spec import make_grid
from kvpress_video.sweep.results.records import Failure, Outcome
from kvpress_video.sweep.tune import answers, tuner
from kvpress_video.sweep.tune.answers import Target
from kvpress_video.sweep.tune.halving import halve, rungs
from kvpress_video.sweep.tune.proposals import Proposals
from kvpress_video.sweep.tune.space import canonical, choices_of, usable
from kvpress_video.sweep.tune.text import line_to_paste, notes
from kvpress_video.sweep.tune.tuner import Tuned, split, tune

METHODS = ("recent", "random", "tar", "infinipot-v", "router-similarity")
TARGET = Target("bundled", "world", "25%", METHODS)
CLIPS = [
    Clip(f"0-{number:03}.mp4", Path("x"), tuple(Question(str(n), task, "red", task) for n, task in enumerate(TASKS)),
         f"0-{number:03}.mp4")
    for number in range(24)
]  # fmt: skip


class Oracle:
    """A worker that answers without a model: TaR with a larger share of VaN is best, and one method fails."""

    answers = 0

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after

    def run(self, task: Task) -> Iterator[Outcome]:
        for cell in task.cells:
            if Oracle.answers == self.stop_after:
                raise KeyboardInterrupt
            Oracle.answers += 1
            if cell.method == "router-similarity":
                yield Failure(cell, task.clip.name, "it has no experts")
                continue
            yield done(cell, int(task.clip.name[2:5]), self.score(cell.method))

    @staticmethod
    def score(method: str) -> object:
        quality = {"full": 1.0, "recent": 0.4, "random": 0.3, "tar": 0.5}.get(method.partition(":")[0], 0.6)
        quality += 0.2 * ("tar_ratio=0.25" in method)
        return lambda clip, number: float(random.Random(f"{method} {clip} {number}").random() < quality)


@pytest.fixture(autouse=True)
def imaginary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "clips_of", lambda name, seed, folder: CLIPS)
    monkeypatch.setattr(answers, "states_of", lambda clips, models: {})


def tuned(folder: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None, resume: bool = False) -> Tuned:
    Oracle.answers = 0
    monkeypatch.setattr(tuner, "make_worker", lambda setup, device: Oracle(stop_after))
    return tune(TARGET, folder, rounds=3, candidates=6, resume=resume, workers=1)


def test_an_interrupted_tuning_ends_with_the_same_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment, several times; no answer is given twice."""
    undisturbed = tuned(tmp_path / "undisturbed", monkeypatch)
    wanted, given = Oracle.answers, 0
    for number, stop_after in enumerate((7, 40, 11)):
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path / "killed", monkeypatch, stop_after, resume=number > 0)
        given += Oracle.answers
    assert tuned(tmp_path / "killed", monkeypatch, resume=True) == undisturbed
    failed = len(CLIPS)  # may be tried again
    assert wanted <= given + Oracle.answers <= wanted + failed


def test_the_winner_is_measured_on_clips_that_it_was_not_chosen_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuned(tmp_path, monkeypatch)
    assert "tar_ratio=0.25" in found.winner.method
    assert (found.tuning_clips, found.held_out_clips) == (16, 8)
    assert found.winner.held_out.questions == 8 * len(TASKS)
    assert found.full.mean == 1
    assert found.failed == {"router-similarity": "it has no experts"}
    assert "Not ranked: router-similarity: it has no experts" in notes(found)
    assert line_to_paste(found) == f'kv.compress(model, "{found.winner.method}", "25%")'


@pytest.mark.parametrize("stage", get_args(Stage))
def test_by_default_every_method_is_tried_that_works_at_the_stage(stage: str) -> None:
    methods = usable(method_names(), stage)
    assert make_grid(methods=methods, budgets=["25%"], stage=stage).methods == tuple(methods)
    assert {"random", "uniform"} < set(methods)
    assert ("router-similarity" in methods) == (stage == "input")
    assert "full" not in methods


def test_another_tuning_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned(tmp_path, monkeypatch)
    with pytest.raises(SweepError, match=r"tune\.held_out is 0\.33\d* there and 0\.5 here"):
        tune(TARGET, tmp_path, held_out=0.5, resume=True, workers=1)


def test_videos_are_held_out_whole() -> None:
    clips = [Clip(f"{number}", Path("x"), (), f"video {number // 3}") for number in range(30)]
    tuning, held_out = split(clips, 0.3, seed=1)
    assert {clip.video for clip in tuning}.isdisjoint(clip.video for clip in held_out)
    assert (len(tuning), len(held_out)) == (21, 9)
    with pytest.raises(SweepError, match="1 of 3 videos would be held out"):
        split(clips[:9], 0.3, seed=1)


def test_each_round_meets_all_groups_alike() -> None:
    clips = [Clip(f"{number}", Path("x"), (), f"{number}", "moving" if number < 6 else "still") for number in range(12)]
    for seed in range(20):
        tuning, held_out = split(clips, 1 / 3, seed)
        assert {clip.group for clip in tuning[:2]} == {clip.group for clip in tuning[2:4]} == {"moving", "still"}
        assert [clip.group for clip in held_out].count("still") == 2
    assert split(clips, 1 / 3, 0) != split(clips, 1 / 3, 1)


def test_a_small_group_is_on_both_sides() -> None:
    clips = [Clip(f"{number}", Path("x"), (), f"{number}", "night" if number < 4 else "day") for number in range(24)]
    for seed in range(20):
        found = [[clip.group for clip in part].count("night") for part in split(clips, 0.5, seed)]
        assert found == [2, 2]


def test_a_third_of_the_candidates_goes_on_to_three_times_the_clips() -> None:
    assert rungs(27) == [4, 9, 27]
    assert rungs(2) == [2]
    ran = []

    def score(names: list[str], clips: int) -> dict[str, float | None]:
        ran.append((len(names), clips))
        return {name: None if name == "a" else float(ord(name)) for name in names}

    ranking = halve(list("abcdefghi"), rungs(27), score)
    assert ran == [(9, 4), (3, 9), (2, 27)]
    assert list(ranking) == list("ihgfedcba")
    assert ranking["a"] is None


def test_candidates_that_tie_with_the_last_to_advance_advance_too() -> None:
    ran = []

    def score(names: list[str], clips: int) -> dict[str, float | None]:
        ran.append("".join(names))
        return {name: {"a": 0.2, "b": 0.9}.get(name, 0.6) if clips < 27 else float(ord(name)) for name in names}

    assert list(halve(list("abcdef"), [9, 27], score)) == list("fedcba")
    assert ran == ["abcdef", "bcdef"]


def test_settings_are_tried_around_their_defaults_and_at_presets() -> None:
    assert choices_of("tar") == {"recent_ratio": (0.25, 0.125, 0.5)}
    assert choices_of("snapkv") == {"window": (32, 16, 64), "kernel": (5, 3, 11)}
    assert choices_of("infinipot-v")["entries"] == ("tracked", "official")
    assert "tar_ratio" not in choices_of("infinipot-v:tar_ratio=0.3")
    assert canonical("infinipot-v:tar_ratio=0.3", {"recent_ratio": 0.125, "pooling": True}) == (
        "infinipot-v:tar_ratio=0.3,pooling=True"
    )
    assert canonical("infinipot-v", {"recent_ratio": 0.25, "entries": "official"}) == "infinipot-v:released"
    assert canonical("infinipot-v:pooling=variation", {"tar_ratio": 0.5}) == "infinipot-v:pooling=variation"
    assert canonical("infinipot-v:released", {"entries": "tracked"}) == "infinipot-v:recent_ratio=0.25"


def test_proposals_repeat_for_a_seed_and_never_within_one() -> None:
    def run() -> list[str]:
        proposals, found = Proposals(["infinipot-v", "snapkv"], seed=3), []
        for count in (proposals.untuned, 9, 9):
            asked = proposals.ask(count)
            for each in asked:
                proposals.tell(each, 0.9 if "window=16" in each.method else 0.1)
            found += [each.method for each in asked]
        return found

    first = run()
    assert first == run()
    assert len(set(first)) == len(first)
    assert first[:4] == [
        "infinipot-v",
        "infinipot-v:paper",
        "infinipot-v:released",
        "snapkv",
    ]


@pytest.mark.slow
def test_kill_9_and_resume(tmp_path: Path) -> None:
    def command(folder: Path) -> list[str]:
        asked = ["tune", "10%", "--benchmark", "world:count=6,frames=8", "--methods", "tar,van,random,recent"]
        return [sys.executable, "-m", "kvpress_video.cli", *asked, "--candidates", "4", "--out", str(folder),
                "--resume", "--device", "cpu", "--workers", "1"]  # fmt: skip

    for _ in range(2):
        wanted = answered(tmp_path / "killed") + 5
        running = subprocess.Popen(command(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while running.poll() is None and answered(tmp_path / "killed") < wanted:
            time.sleep(0.05)
        assert running.poll() is None, "it was done too early"
        running.send_signal(signal.SIGKILL)
        running.wait()
    ends = [
        subprocess.run(command(tmp_path / name), check=True, capture_output=True, text=True).stdout
        for name in ("killed", "undisturbed")
    ]
    assert ends[0] == ends[1]
    assert ends[0].splitlines()[-1].startswith("kv.compress(model, ")
