"""lmms-eval: the chat model `kvpress_video`, on lmms-eval itself where it is installed, else on a stand-in."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from kvpress_video.benchmarks.world import Clip, make_clips

import kvpress_video as kv
from kvpress_video.errors import KVPressVideoError, QuestionError, UnknownNameError, VideoError

MODULE = "kvpress_video.integrations.lmms_eval"
Docs = list[dict[str, Any]]


class Lmms(ABC):
    """The base class of lmms-eval 0.7, as far as it is used."""

    is_simple = True

    def __init__(self) -> None:
        self.task_dict: dict[str, dict[str, Docs]] = {}

    @abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...


@dataclass(frozen=True)
class ModelManifest:
    """A registry entry of lmms-eval 0.7."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


def parsed(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split(",") if part)


def stand_in() -> dict[str, ModuleType]:
    names = ("", ".api", ".api.model", ".models", ".models.registry_v2", ".utils")
    modules = {f"lmms_eval{name}": ModuleType(f"lmms_eval{name}") for name in names}
    modules["lmms_eval.api.model"].lmms = Lmms  # type: ignore[attr-defined]
    modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest  # type: ignore[attr-defined]
    modules["lmms_eval.utils"].simple_parse_args_string = parsed  # type: ignore[attr-defined]
    return modules


@pytest.fixture(scope="module")
def integration() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("lmms_eval") is None:
            for name, module in stand_in().items():
                patch.setitem(sys.modules, name, module)
        yield importlib.import_module(MODULE)
        patch.delitem(sys.modules, MODULE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    pytest.importorskip("av", reason="PyAV writes the clips")
    return make_clips(2, 16, folder=tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(integration: Any) -> Any:
    return integration.KVPressVideoChat.create_from_arg_string(
        "method=tar,budget=25%,max_new_tokens=16", {"batch_size": 8, "device": "cpu", "max_batch_size": None}
    )


def shown(document: dict[str, Any]) -> list[dict[str, Any]]:
    content = [{"type": "video", "url": document["video"]}, {"type": "text", "text": document["question"]}]
    return [{"role": "user", "content": content}]


def ask(model: Any, documents: Docs, messages: Callable[[Any], Any] = shown, **generation: Any) -> list[str]:
    model.task_dict = {"a_task": {"test": documents}}
    requests = [
        SimpleNamespace(args=(document.get("question", ""), messages, generation, place, "a_task", "test"))
        for place, document in enumerate(documents)
    ]
    answers: list[str] = model.generate_until(requests)
    return answers


def documents(world: list[Clip]) -> Docs:
    """Question by question, so that those about one clip are apart."""
    return [
        {"video": str(clip.path), "question": clip.questions[number].text, "answer": clip.questions[number].answer}
        for number in range(8)
        for clip in world
    ]


def test_answers_are_those_of_a_plain_loop(model: Any, world: list[Clip], bundled: tuple[Any, Any]) -> None:
    stock, processor = bundled
    expected = {}
    for clip in world:
        inputs = kv.prepare(processor, kv.read_video(clip.path), [question.text for question in clip.questions])
        with kv.compress(stock, "tar", "25%"):
            output = stock.generate(**inputs, max_new_tokens=16, do_sample=False)
        replies = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        expected |= {(str(clip.path), q.text): reply for q, reply in zip(clip.questions, replies, strict=True)}
    asked = documents(world)
    found = ask(model, asked, max_new_tokens=16, temperature=0, top_p=1.0, num_beams=1, do_sample=False)
    assert found == [expected[document["video"], document["question"]].strip() for document in asked]
    assert len(model._answerer.reports) == len(world)


def test_until_ends_an_answer(model: Any, world: list[Clip]) -> None:
    document = documents(world)[-1]
    (whole,) = ask(model, [document])
    assert ask(model, [document], until=[whole[1]]) == [whole[0]]


def test_system_messages_are_read(model: Any, world: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        model._answerer, "_answer", lambda video, requests: [read.append(r.prompt) or "" for r in requests]
    )
    ask(model, documents(world)[:1], lambda document: [{"role": "system", "content": "Be brief."}, *shown(document)])
    assert read == [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>"
        f"{documents(world)[0]['question']}<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_a_part_of_a_video(model: Any, world: list[Clip]) -> None:
    def first_half(document: dict[str, Any]) -> list[dict[str, Any]]:
        (message,) = shown(document)
        video, text = message["content"]
        return [{"role": "user", "content": [{**video, "start_time": 0.0, "end_time": 8.0}, text]}]

    ask(model, documents(world)[:1])
    ask(model, documents(world)[:1], first_half)
    whole, half = (report.visual_tokens for report in model._answerer.reports[-2:])
    assert half * 2 == whole


def test_short_videos_are_answered_said_once_and_counted(
    integration: Any, model: Any, world: list[Clip], caplog: pytest.LogCaptureFixture
) -> None:
    """A clip with a frame less than asked for must not end a run of hours; lmms-eval's results have no place for it."""
    found = len(kv.read_video(world[0].path))
    wanting = integration.KVPressVideoChat.create_from_arg_string(
        f"method=tar,budget=25%,frames={found + 1},device=cpu"
    )
    asked = documents(world)[:4]
    assert ask(wanting, asked, max_new_tokens=4) == ask(model, asked, max_new_tokens=4)
    said = [record.getMessage() for record in caplog.records]
    first = f"{world[0].path} has fewer frames than frames={found + 1}: all {found} are used, as for every such video."
    assert [line for line in said if "fewer frames" in line] == [first]
    assert [line for line in said if "that short" in line] == ["2 of the 2 videos were that short."]


def test_the_registry_finds_the_model(integration: Any) -> None:
    manifest = integration.manifest()
    assert manifest.model_id == "kvpress_video"
    assert manifest.aliases == ("kvpress-video",)
    assert manifest.simple_class_path is None
    module, _, name = manifest.chat_class_path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, sys.modules["lmms_eval.api.model"].lmms)
    assert found.is_simple is False


def test_lmms_evals_own_registry_takes_it(integration: Any) -> None:
    if not hasattr(sys.modules["lmms_eval"], "__path__"):
        pytest.skip("lmms-eval is not installed")
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(integration.manifest())
    for name in ("kvpress_video", "kvpress-video"):
        assert registry.resolve(name).model_type == "chat"
        assert registry.get_model_class(name) is integration.KVPressVideoChat


TASK = """
task: tiny_world
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/documents.json}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 16, temperature: 0, do_sample: false}}
process_results: !function utils.score
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
UTILS = """
def visual(doc): return [doc["video"]]
def text(doc, lmms_eval_specific_kwargs=None): return doc["question"]
def score(doc, results): return {"exact_match": float(results[0] == doc["answer"])}
"""


def test_lmms_evals_own_evaluator_runs_it(
    model: Any, world: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval is not installed")
    tasks = importlib.import_module("lmms_eval.tasks")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny_world.yaml").write_text(TASK.format(folder=tmp_path))
    (tmp_path / "utils.py").write_text(UTILS)
    asked = documents(world)
    (tmp_path / "documents.json").write_text("\n".join(map(json.dumps, asked)))
    manager = tasks.TaskManager("ERROR", include_path=str(tmp_path), include_defaults=False, model_name="kvpress_video")
    found = evaluator.simple_evaluate(
        model=model, tasks=["tiny_world"], task_manager=manager, batch_size=8, bootstrap_iters=0
    )
    right = [answer == document["answer"] for answer, document in zip(ask(model, asked), asked, strict=True)]
    assert found["results"]["tiny_world"]["exact_match,none"] == sum(right) / len(right)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "text", "text": "Where?"}], "one about 0"),
        ([{"type": "video", "url": "a.mp4"}, {"type": "video", "url": "b.mp4"}], "one about 2"),
        ([{"type": "image", "url": "a.png"}, {"type": "text", "text": "Where?"}], "'image'"),
        ([{"type": "video", "url": "no-such.mp4"}, {"type": "text", "text": "Where?"}], "no video no-such.mp4"),
        ([{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "<|video_pad|>?"}], "contains '<.video_pad.>'"),
    ],
)
def test_wrong_messages(model: Any, content: Any, message: str) -> None:
    with pytest.raises((VideoError, QuestionError), match=message):
        ask(model, [{}], lambda document: [{"role": "user", "content": content}])


def test_what_it_cannot_do(integration: Any, model: Any) -> None:
    with pytest.raises(KVPressVideoError, match="likelihoods"):
        model.loglikelihood([])
    with pytest.raises(KVPressVideoError, match="one round"):
        model.generate_until_multi_round([])
    with pytest.raises(UnknownNameError, match="Did you mean 'method'"):
        integration.KVPressVideoChat(methd="tar")


def test_without_lmms_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(KVPressVideoError, match="pip install 'lmms-eval"):
        importlib.import_module(MODULE)
