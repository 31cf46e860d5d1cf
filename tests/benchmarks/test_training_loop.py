"""The training loop: it learns, stops in time, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_video.benchmarks.rooms.questions import PLAN
from kvpress_video.benchmarks.train.batches import make_batch
from kvpress_video.benchmarks.train.checkpoint import MOMENTS, restore, save
from kvpress_video.benchmarks.train.course import WARM_UP, Course
from kvpress_video.benchmarks.train.reuse import reuse
from kvpress_video.benchmarks.train.small import save_small
from kvpress_video.benchmarks.train.step import Step
from kvpress_video.benchmarks.train.train import main, new_step
from kvpress_video.benchmarks.train.worlds import WORLDS
from safetensors.torch import load_file

from kvpress_video.errors import UnknownNameError

pytest.importorskip("skimage", reason="the rooms have the textures of its photographs")
CPU = torch.device("cpu")
SECONDS = tuple(map(float, range(8)))
DURATION = (PLAN.index("duration"),)
BUNDLED = Path(__file__).parents[2] / "kvpress_video/data/bundled"


def fresh() -> Step:
    torch.manual_seed(0)
    step = new_step("qwen2_5_vl", WORLDS["rooms"], CPU)
    step.set_rate(2e-3)
    return step


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Step, list[float]]:
    """A checkpoint of a few steps, the step it was made from, and the losses on the way."""
    folder, step = tmp_path_factory.mktemp("run"), fresh()
    losses = []
    for _ in range(8):
        step(4, SECONDS, only=DURATION)
        losses.append(step.report()["answer"])
    course = Course(WORLDS["rooms"], 32)
    course.steps, course.stage = 8, 1
    save(folder, step, course)
    (folder / "log.jsonl").write_text('{"step": 8}\n{"step": 9}\n')
    return folder, step, losses


def test_the_loss_falls(trained: tuple[Path, Step, list[float]]) -> None:
    _, _, losses = trained
    assert losses[-1] < losses[0] / 2


def test_frames_of_rooms_are_a_second_apart(trained: tuple[Path, Step, list[float]]) -> None:
    _, step, _ = trained
    batch = make_batch(step.book, 20, SECONDS, torch.Generator().manual_seed(0))
    times = batch.positions[0][:, batch.opening.shown]
    assert torch.equal(times[:, -1] - times[:, 0], torch.full((20,), 7))


def test_a_checkpoint_continues_as_if_nothing_had_happened(trained: tuple[Path, Step, list[float]]) -> None:
    folder, step, _ = trained
    again, course = fresh(), Course(WORLDS["rooms"], 32)
    restore(folder, again, course)
    assert (course.steps, course.stage, course.began) == (8, 1, 0)
    after = []
    for one in (step, again):
        one.generator.manual_seed(5)
        one(2, SECONDS, only=DURATION)
        after.append([one.report()["answer"], one.model.lm_head.weight.clone()])
    assert after[0][0] == pytest.approx(after[1][0], abs=1e-3)
    torch.testing.assert_close(after[0][1], after[1][1], atol=2e-4, rtol=0)


def test_without_moments_the_rate_warms_up_again(trained: tuple[Path, Step, list[float]], tmp_path: Path) -> None:
    folder, *_ = trained
    save_small(folder, tmp_path)
    assert not (tmp_path / MOMENTS).exists()
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    again, course = fresh(), Course(WORLDS["rooms"], 32)
    restore(tmp_path, again, course)
    assert course.began == course.steps == 8
    assert course.rate(1e9) == pytest.approx(1 / WARM_UP)
    assert not again.optimizer.state
    assert again.model.lm_head.weight.dtype == torch.float32


def test_a_model_with_other_words_cannot_be_resumed_but_reused(trained: tuple[Path, Step, list[float]]) -> None:
    step = fresh()
    with pytest.raises(ValueError, match=r"another vocabulary.*--warm-start"):
        restore(BUNDLED, step, Course(WORLDS["rooms"], 32))
    assert reuse(step.model, step.book.tokenizer, BUNDLED) == []
    known = load_file(BUNDLED / "model.safetensors")
    old = json.loads((BUNDLED / "tokenizer.json").read_text())["model"]["vocab"]
    row = step.book.tokenizer.get_vocab()["purple"]
    assert torch.equal(step.model.lm_head.weight[row], known["lm_head.weight"][old["purple"]])
    name = "model.visual.blocks.0.mlp.gate_proj.weight"
    stored = next(value for key, value in known.items() if key.endswith(name.removeprefix("model.")))
    assert torch.equal(step.model.state_dict()[name], stored)


def test_two_runs_make_one_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*more: str) -> list[dict[str, Any]]:
        limits = ["--minutes", "0.0001", "--frames-per-step", "16", "--questions", "2", "--device", "cpu"]
        main(["--world", "rooms", "--out", str(tmp_path), *limits, *more])
        return [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    first = run()
    assert [line["step"] for line in first] == [1]
    both = run("--resume", str(tmp_path))
    assert both[0] == first[0]
    assert [line["step"] for line in both] == [1, 2]
    assert both[1]["frames"] == 32
    assert both[1]["seconds"] > both[0]["seconds"]


def test_only_the_chosen_families_are_asked(tmp_path: Path) -> None:
    limits = ["--minutes", "0.0001", "--frames-per-step", "16", "--device", "cpu"]
    main(["--world", "rooms", "--out", str(tmp_path), "--families", "count+duration", *limits])
    log = json.loads((tmp_path / "log.jsonl").read_text())
    assert log["accuracy"]["8"]["still"].keys() == {"count", "duration"}
    with pytest.raises(UnknownNameError, match=r"'cuont'.*'count'"):
        main(["--world", "rooms", "--out", str(tmp_path), "--families", "cuont", *limits])


def test_a_family_that_is_no_longer_chosen_is_no_longer_the_weakest(
    trained: tuple[Path, Step, list[float]], tmp_path: Path
) -> None:
    _, step, _ = trained
    course = Course(WORLDS["rooms"], 32)
    course.weakest = DURATION
    save(tmp_path, step, course)
    limits = ["--minutes", "0.0001", "--frames-per-step", "16", "--device", "cpu", "--focus", "1"]
    chosen = ["--resume", str(tmp_path), "--families", "count"]
    main(["--world", "rooms", "--out", str(tmp_path / "after"), *chosen, *limits])
    log = json.loads((tmp_path / "after/log.jsonl").read_text())
    assert log["accuracy"]["8"]["still"].keys() == {"count"}
