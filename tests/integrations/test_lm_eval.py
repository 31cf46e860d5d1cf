"""lm-evaluation-harness: the model `kvpress-video` and the bundled tasks, through its API and its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kvpress_video.benchmarks.world import Clip, make_clips
from PIL import Image

import kvpress_video as kv
from kvpress_video.errors import (
    BenchmarkError,
    BudgetError,
    KVPressVideoError,
    QuestionError,
    UnknownNameError,
    VideoError,
)
from kvpress_video.integrations.generation import _log_ignored
from kvpress_video.video.prompt import prompt_text

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from kvpress_video.benchmarks.world.lm_eval import load  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model, model_registry  # noqa: E402

from kvpress_video.integrations.lm_eval import register, task_manager  # noqa: E402
from kvpress_video.integrations.lm_eval.model import KVPressVideoLM  # noqa: E402

WORLD, COUNT, FRAMES = "kvpress_video_world", 4, 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    pytest.importorskip("av", reason="PyAV writes the clips")
    return make_clips(COUNT, FRAMES, folder=tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def full() -> KVPressVideoLM:
    return KVPressVideoLM(device="cpu")


def evaluate(world: list[Clip], model: Any = "kvpress-video", tasks: tuple[str, ...] = (WORLD,), **how: Any) -> Any:
    manager = task_manager(
        include_defaults=False, clips=COUNT, clip_frames=FRAMES, clip_folder=str(world[0].path.parent)
    )
    return lm_eval.simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **how)


@pytest.fixture(scope="module")
def of_full(world: list[Clip]) -> Any:
    return evaluate(world, model_args="device=cpu")


@pytest.fixture(scope="module")
def of_tar(world: list[Clip]) -> Any:
    return evaluate(world, model_args="method=tar,budget=25%,recent_ratio=.25,entries=official,device=cpu")


@pytest.fixture(params=["full", "tar"])
def evaluated(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, request.getfixturevalue(f"of_{request.param}")


@pytest.fixture(autouse=True, scope="module")
def _no_survey_of_the_machine() -> Iterator[None]:
    """lm-eval lists drivers and packages after each evaluation, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


def accuracies(results: Any) -> dict[str, float]:
    return {name: found["exact_match,none"] for name, found in results["results"].items()}


def answers(results: Any) -> dict[tuple[str, str], str]:
    samples = [sample for of_task in results["samples"].values() for sample in of_task]
    return {(sample["doc"]["clip"], sample["doc"]["question"]): sample["filtered_resps"][0] for sample in samples}


def asked(clip: Clip, question: str, visual: Any = None, **generation: Any) -> Instance:
    shown = {"visual": str(clip.path) if visual is None else visual}
    return Instance("generate_until", {}, (question, {"until": [], **generation}, shown), 0, ("a task", 0, 1))


def one_by_one(model: KVPressVideoLM, requests: list[Instance]) -> list[str]:
    return [model.generate_until([request])[0] for request in requests]


@pytest.mark.sampled
def test_answers_are_those_of_a_plain_loop(
    evaluated: tuple[str, Any], world: list[Clip], bundled: tuple[Any, Any]
) -> None:
    (cell, results), (model, processor) = evaluated, bundled
    method: tuple[Any, ...] = ("full", "100%") if cell == "full" else ("tar:recent_ratio=.25,entries=official", "25%")
    expected, right = {}, {}
    for clip in world:
        inputs = kv.prepare(processor, kv.read_video(clip.path), [question.text for question in clip.questions])
        with kv.compress(model, *method):
            output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        replies = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for question, reply in zip(clip.questions, replies, strict=True):
            expected[clip.path.name, question.text] = reply.strip()
            right.setdefault(f"{WORLD}_{clip.camera}_{question.family}", []).append(reply.strip() == question.answer)
    assert answers(results) == expected
    found = accuracies(results)
    assert {name: found[name] for name in right} == {name: np.mean(of_task) for name, of_task in right.items()}
    assert found[WORLD] == pytest.approx(np.mean(list(chain(*right.values()))))
    assert found[WORLD] > 0.9 if cell == "full" else found[WORLD] < 0.9


def test_accuracy_is_that_of_a_sweep(evaluated: tuple[str, Any], tmp_path: Path) -> None:
    from kvpress_video.sweep.benchmark import BENCHMARKS
    from kvpress_video.sweep.cells import Cell, Setup, Task
    from kvpress_video.sweep.results.records import Done
    from kvpress_video.sweep.run.worker import Worker

    benchmark = f"world:count={COUNT},frames={FRAMES}"
    method, budget = {"full": ("full", "100%"), "tar": ("tar:recent_ratio=0.25,entries=official", "25%")}[evaluated[0]]
    cell, worker = Cell(method, budget, benchmark=benchmark), Worker(Setup(device="cpu"))
    scores = []
    for clip in BENCHMARKS.make(benchmark).clips(0, tmp_path):
        (done,) = worker.run(Task("bundled", benchmark, 0, clip, (cell,)))
        assert isinstance(done, Done)
        scores += [answer.score for answer in done.answers]
    assert accuracies(evaluated[1])[WORLD] == np.mean(scores)


def test_results_say_what_the_cache_held(evaluated: tuple[str, Any]) -> None:
    cell, results = evaluated
    held = results["config"]["kvpress_video"]
    assert (held["ratio"], held["entries"]) == {"full": (1.0, 256), "tar": (0.25, 64)}[cell]
    assert held["settings"] == {"full": {}, "tar": {"recent_ratio": 0.25, "entries": "official"}}[cell]


@pytest.mark.slow
def test_command_line_gives_the_same(of_tar: Any, world: list[Clip], tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    needle = Path(kv.__file__).parent / "integrations/lm_eval/tasks/world_still_needle.yaml"
    (more / "short.yaml").write_text(f"include: {needle}\ntask: short\ngeneration_kwargs: {{until: [e]}}\n")
    command = [sys.executable, "-m", "kvpress_video.cli", "lm-eval", "--tasks", f"{WORLD},short", "--log_samples"]
    command += ["--model_args", "method=tar", "budget=25%,recent_ratio=.25,entries=official"]
    command += ["--include_path", str(more)]
    command += ["--metadata", f"clips={COUNT}", f"clip_frames={FRAMES}", f"clip_folder={world[0].path.parent}"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command += ["--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(written.read_text())
    scores = accuracies(found)
    assert scores.pop("short") < scores[f"{WORLD}_still_needle"]
    assert scores == accuracies(of_tar)
    assert found["config"]["batch_size"] == 8


def test_questions_about_a_video_share_its_prefill(world: list[Clip], full: KVPressVideoLM) -> None:
    requests = [asked(clip, clip.questions[number].text) for number in range(3) for clip in world]
    before = len(full._answerer.reports)
    full.generate_until(requests)
    assert len(full._answerer.reports) - before == COUNT


def test_order_is_restored(world: list[Clip], full: KVPressVideoLM) -> None:
    first, second = world[:2]
    requests = [
        asked(first, first.questions[0].text),
        asked(second, second.questions[5].text),
        asked(first, first.questions[4].text, max_gen_toks=1),
        asked(second, second.questions[2].text),
        asked(first, first.questions[7].text),
    ]
    together = full.generate_until(requests)
    assert together == one_by_one(full, requests)
    assert len(set(together)) > 2


def test_until_and_length_end_an_answer(world: list[Clip], full: KVPressVideoLM) -> None:
    question = next(question for question in world[0].questions if question.family == "place")
    (whole,) = full.generate_until([asked(world[0], question.text, max_gen_toks=16)])
    assert whole == question.answer
    middle = whole[len(whole) // 2]
    requests = [
        asked(world[0], question.text, until=middle),
        asked(world[0], question.text, until=["no such words", middle]),
        asked(world[0], question.text, until=["no such words"]),
    ]
    assert full.generate_until(requests) == [whole.split(middle)[0].strip()] * 2 + [whole]


def test_generation_ends_where_the_answer_does(
    world: list[Clip], full: KVPressVideoLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, lengths = full._answerer.model, []
    generate = model.generate

    def counting(**inputs: Any) -> Any:
        output = generate(**inputs)
        lengths.append(output.shape[1] - inputs["input_ids"].shape[1])
        return output

    monkeypatch.setattr(model, "generate", counting)
    question = world[0].questions[0].text
    (answer,) = full.generate_until([asked(world[0], question)])
    full.generate_until([asked(world[0], question, until=[answer[0]])])
    full.generate_until([asked(world[0], question, max_gen_toks=1)])
    assert lengths[0] > 1
    assert lengths[1:] == [1, 1]


def test_frames_in_memory_are_a_video(world: list[Clip], full: KVPressVideoLM) -> None:
    video = kv.read_video(world[1].path)
    pictures = [Image.fromarray(frame) for frame in video.frames]
    questions = [question.text for question in world[1].questions]
    of_file = full.generate_until([asked(world[1], question) for question in questions])
    before = len(full._answerer.reports)
    shown = [pictures, video.frames] * 4
    of_memory = full.generate_until([asked(world[1], *both) for both in zip(questions, shown, strict=True)])
    assert of_memory == of_file
    assert len(full._answerer.reports) - before == 1


def test_frames_and_batch_size_are_options(world: list[Clip]) -> None:
    model = KVPressVideoLM.create_from_arg_obj({"device": "cpu", "frames": 16}, {"batch_size": "3", "device": "cuda:0"})
    model.generate_until([asked(world[0], question.text) for question in world[0].questions])
    reports = model._answerer.reports
    assert len(reports) == 3
    assert {report.visual_tokens for report in reports} == {8 * 16}


def test_bytes_are_asked_for_per_question(world: list[Clip]) -> None:
    model = KVPressVideoLM(device="cpu", method="recent", budget="300KiB")
    model.generate_until([asked(world[0], question.text) for question in world[0].questions])
    (report,) = model._answerer.reports
    assert 250 * 2**10 < report.bytes <= 300 * 2**10


def test_chat_template_changes_nothing_for_one_turn(of_full: Any, world: list[Clip], full: KVPressVideoLM) -> None:
    tasks = (f"{WORLD}_still_needle", f"{WORLD}_moving_place")
    templated = evaluate(world, full, tasks, apply_chat_template=True, limit=2)
    assert len(answers(templated)) == 4
    assert answers(templated).items() <= answers(of_full).items()


def test_conversations_end_with_the_video(full: KVPressVideoLM) -> None:
    processor = full._answerer.processor
    assert full.apply_chat_template([{"role": "user", "content": "Where?"}]) == prompt_text(processor, "Where?")
    turns = [("system", "Be brief."), ("user", "Who?"), ("assistant", "She."), ("user", "Where?")]
    written = full.apply_chat_template([{"role": role, "content": content} for role, content in turns])
    assert written == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nShe.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>Where?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("role", ["system", "user"])
def test_special_tokens_are_no_text(full: KVPressVideoLM, role: str) -> None:
    turns = [{"role": role, "content": "See <|video_pad|>."}, {"role": "user", "content": "Where?"}]
    with pytest.raises(QuestionError, match=rf"The text of the {role} 'See .* contains '<\|video_pad\|>'"):
        full.apply_chat_template(turns)
    with pytest.raises(QuestionError, match=r"contains '<\|video_pad\|>'"):
        full._answerer.prompt("See <|video_pad|>.")


def test_answers_are_kept_for_their_own_cell(
    world: list[Clip], full: KVPressVideoLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: Any = {"tasks": (f"{WORLD}_still_order",), "use_cache": str(tmp_path / "answers")}
    first = evaluate(world, full, **how)
    with monkeypatch.context() as patch:
        patch.setattr(full._answerer, "_answer", None)
        assert answers(evaluate(world, full, **how)) == answers(first)
    with pytest.raises(KVPressVideoError, match="another path"):
        evaluate(world, KVPressVideoLM(device="cpu", method="recent", budget=16), **how)


def test_answers_before_an_interruption_are_kept(
    world: list[Clip], full: KVPressVideoLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: Any = {"tasks": (f"{WORLD}_still_order", f"{WORLD}_moving_order"), "use_cache": str(tmp_path / "answers")}
    answer, answered = full._answerer._answer, []

    def interrupted(*given: Any) -> Any:
        if len(answered) == 2:
            raise KeyboardInterrupt
        answered.append(given)
        return answer(*given)

    with monkeypatch.context() as patch:
        patch.setattr(full._answerer, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate(world, full, **how)
    before = len(full._answerer.reports)
    evaluate(world, full, **how)
    assert len(full._answerer.reports) - before == COUNT - 2


@pytest.mark.parametrize("templated", [False, True])
def test_cached_requests_give_the_same(
    world: list[Clip], full: KVPressVideoLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templated: bool
) -> None:
    monkeypatch.setattr("lm_eval.caching.cache.PATH", str(tmp_path))
    how: Any = {"tasks": (f"{WORLD}_moving_needle",), "cache_requests": True, "apply_chat_template": templated}
    made = evaluate(world, full, **how)
    assert any(tmp_path.iterdir())
    assert answers(evaluate(world, full, **how)) == answers(made)


def test_the_other_models_stay_known() -> None:
    register()
    assert get_model("kvpress-video") is KVPressVideoLM
    assert {"hf", "dummy", "vllm"} <= set(model_registry)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"methd": "tar"}, UnknownNameError, "Did you mean 'method'"),
        ({"method": "tarr", "budget": "25%"}, UnknownNameError, "Did you mean 'tar'"),
        ({"method": "tar", "budget": "25%", "recent_rato": 0.5}, UnknownNameError, "Did you mean 'recent_ratio'"),
        ({"method": "tar", "budget": "25%", "recent_ratio": "x"}, UnknownNameError, "takes float"),
        ({"method": "tar"}, BudgetError, "needs a budget"),
        ({"method": "tar", "budget": "25 apples"}, BudgetError, "apples"),
        ({"batch_size": "auto"}, UnknownNameError, "batch_size is a whole number"),
        ({"pretrained": "/no/such/model"}, UnknownNameError, "no model folder"),
        ({"device_map": "auto", "device": "cpu"}, UnknownNameError, "not both"),
        ({"stage": "cash"}, UnknownNameError, "stage"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        KVPressVideoLM(**arguments)


@pytest.mark.parametrize(
    ("generation", "error", "message"),
    [
        ({"do_sample": True}, KVPressVideoError, "do_sample=True"),
        ({"temperature": 0.7}, KVPressVideoError, "temperature=0.7"),
        ({"num_beams": 4}, KVPressVideoError, "num_beams=4"),
        ({"max_gen_tok": 4}, UnknownNameError, "Did you mean 'max_gen_toks'"),
    ],
)
def test_only_greedy_answers(
    world: list[Clip], full: KVPressVideoLM, generation: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        full.generate_until([asked(world[0], "Where?", **generation)])


@pytest.mark.parametrize(
    ("visual", "message"),
    [
        (["a.mp4", "b.mp4"], "one video, got 2"),
        ([], "one video, got 0"),
        (["no-such.mp4"], "no video no-such.mp4"),
        ({"video": "a.mp4"}, "not a dict"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "differ in size"),
    ],
)
def test_wrong_videos(world: list[Clip], full: KVPressVideoLM, visual: Any, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        full.generate_until([asked(world[0], "Where?", visual)])


def test_short_videos_are_answered_said_once_and_counted(
    world: list[Clip], full: KVPressVideoLM, caplog: pytest.LogCaptureFixture
) -> None:
    """A clip with a frame less than asked for must not end a run of hours."""
    found = len(kv.read_video(world[0].path))
    wanting = KVPressVideoLM(frames=found + 1)
    requests = [asked(clip, "Where?") for clip in world[:2]]
    assert wanting.generate_until(requests) == full.generate_until(requests)
    assert wanting.get_model_info()["kvpress_video"]["short_videos"] == 2
    said = [record.getMessage() for record in caplog.records if "fewer frames" in record.getMessage()]
    assert said == [
        f"{world[0].path} has fewer frames than frames={found + 1}: all {found} are used, as for every such video."
    ]
    fast = KVPressVideoLM(fps=100)
    assert fast.generate_until(requests) == full.generate_until(requests)
    assert fast.get_model_info()["kvpress_video"]["short_videos"] == 2
    enough = KVPressVideoLM(frames=found)
    enough.generate_until(requests[:1])
    assert enough.get_model_info()["kvpress_video"]["short_videos"] == 0


@pytest.mark.parametrize(
    "setting", [{"image_aspect_ratio": "original"}, {"image_grid_pinpoints": [1]}, {"max_num": 12}]
)
def test_settings_of_other_models_images_are_ignored(
    world: list[Clip], full: KVPressVideoLM, setting: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    _log_ignored.cache_clear()
    request = asked(world[0], "Where?", **setting)
    assert full.generate_until([request] * 2) == full.generate_until([asked(world[0], "Where?")] * 2)
    assert [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()] == [
        f"The task sets {next(iter(setting))}, for the image preprocessing of other models: it is ignored."
    ]


def test_what_it_cannot_do(full: KVPressVideoLM) -> None:
    of_text = Instance("generate_until", {}, ("Where?", {}), 0, ("gsm8k", 0, 1))
    with pytest.raises(VideoError, match="gsm8k asks without a video"):
        full.generate_until([of_text])
    with pytest.raises(KVPressVideoError, match="arc_easy"):
        full.loglikelihood([Instance("loglikelihood", {}, ("Where?", " here"), 0, ("arc_easy", 0, 1))])


def test_wrong_metadata(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'clip_frames'"):
        load("needle", "still", clip_frame=16, pretrained="bundled")
    with pytest.raises(BenchmarkError, match="moving"):
        load("needle", "moving", clips=1, clip_frames=2, clip_folder=tmp_path)


def test_without_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(KVPressVideoError, match=r"kvpress-video\[lm-eval\]"):
        register()
