"""Ways in which people use a model inside `compress()`: from threads, with streamers, copied, interrupted, nested."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, video_prompt
from sessions import TinyProcessor, footage
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

import kvpress_video as kv

FAMILY, METHOD, BUDGET = "qwen2_5_vl", "van", 8
WAIT = 60  # seconds before a test gives up


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.build(FAMILY, "sdpa")


@pytest.fixture(scope="module")
def inputs(model: Any) -> list[dict[str, Tensor]]:
    """Prompts with videos of several lengths."""
    return [zoo.inputs(model, [video_prompt(FAMILY, frames)]) for frames in (4, 6, 10)]


@pytest.fixture
def wanted(model: Any, inputs: list[dict[str, Tensor]]) -> list[Tensor]:
    with kv.compress(model, METHOD, BUDGET):
        return [answer(model, each).logits for each in inputs]


@pytest.fixture(autouse=True)
def stock_again(model: Any) -> Iterator[None]:
    before = traces(model)
    yield
    assert traces(model) == before


def traces(model: Any) -> dict[str, Any]:
    """Attributes and hooks of every module."""
    return {
        name: ({*vars(module)}, [len(value) for key, value in vars(module).items() if key.endswith("_hooks")])
        for name, module in model.named_modules()
    }


class Gate:
    """A logits processor that stops a generation at its second token until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._calls = 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self._calls += 1
        if self._calls == 2:
            self.reached.set()
            assert self.opened.wait(WAIT)
        return scores


class Call(threading.Thread):
    """A thread that keeps what its call returned or raised."""

    def __init__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self._call = lambda: call(*args, **kwargs)

    def run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self.result = error

    def wait(self) -> Any:
        self.join(WAIT)
        assert not self.is_alive()
        return self.result


def test_threads_take_turns(model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]) -> None:
    with kv.compress(model, METHOD, BUDGET) as run, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: answer(model, inputs[number]).logits, [0, 1, 2] * 5))
    for number, logits in enumerate(found):
        assert torch.equal(logits, wanted[number % 3])
    assert sorted(report.visual_tokens for report in run.reports) == sorted(
        5 * [int((each["input_ids"] == zoo.VIDEO).sum()) for each in inputs]
    )
    assert {*run.report.entries} == {BUDGET}


def test_forward_takes_turns_with_generate(model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]) -> None:
    gate = Gate()
    with kv.compress(model, METHOD, BUDGET) as run:
        slow = Call(answer, model, inputs[0], logits_processor=[gate])
        slow.start()
        assert gate.reached.wait(WAIT)
        quick = Call(torch.no_grad()(model), **inputs[1])
        quick.start()
        quick.join(0.3)
        assert quick.is_alive()
        assert len(run.reports) == 1
        gate.opened.set()
        assert torch.equal(slow.wait().logits, wanted[0])
        assert compressed(quick.wait().past_key_values)
        assert len(run.reports) == 2


def test_streamer_in_a_thread_outlives_the_block(
    model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]
) -> None:
    """The usual way to stream. Its thread has not called `generate()` when the block ends."""

    class Streamer(BaseStreamer):
        def __init__(self) -> None:
            self.said: list[int] = []

        def put(self, value: Tensor) -> None:
            self.said += value.flatten().tolist()

        def end(self) -> None: ...

    def work() -> Any:
        time.sleep(0.1)
        return answer(model, inputs[0], streamer=streamer)

    streamer = Streamer()
    with kv.compress(model, METHOD, BUDGET) as run:
        thread = Call(work)
        thread.start()
    assert torch.equal(thread.wait().logits, wanted[0])
    assert len(run.reports) == 1
    assert streamer.said[-5:] == wanted[0].argmax(dim=-1).flatten().tolist()


def test_leaving_waits_for_calls_that_wait_for_their_turn(
    model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]
) -> None:
    gate = Gate()
    with kv.compress(model, METHOD, BUDGET) as run:
        first = Call(answer, model, inputs[0], logits_processor=[gate])
        first.start()
        assert gate.reached.wait(WAIT)
        others = [Call(answer, model, each) for each in inputs[1:]]
        for thread in others:
            thread.start()
        threading.Timer(0.3, gate.opened.set).start()
    assert [torch.equal(each.wait().logits, right) for each, right in zip([first, *others], wanted, strict=True)] == [
        True
    ] * 3
    assert len(run.reports) == 3


def test_thread_that_never_calls_the_model_does_not_hold_up_the_block(
    model: Any, inputs: list[dict[str, Tensor]]
) -> None:
    done = threading.Event()
    with kv.compress(model, METHOD, BUDGET):
        idle = threading.Thread(target=done.wait)
        idle.start()
        answer(model, inputs[0])
    assert idle.is_alive()
    done.set()
    idle.join()


def test_method_taken_inside_is_the_stock_one_afterwards(model: Any, inputs: list[dict[str, Tensor]]) -> None:
    stock = answer(model, inputs[0]).logits
    with kv.compress(model, METHOD, BUDGET):
        generate = model.generate
    found = generate(**inputs[0], max_new_tokens=5, output_logits=True, return_dict_in_generate=True)
    assert torch.equal(torch.stack(found.logits, dim=1), stock)


def test_leaving_from_within_a_generation_is_refused(
    model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]
) -> None:
    def leave(ids: Tensor, scores: Tensor) -> Tensor:
        with pytest.raises(kv.CacheError, match="from within a request"):
            run.__exit__(None, None, None)
        return scores

    with kv.compress(model, METHOD, BUDGET) as run:
        assert torch.equal(answer(model, inputs[0], logits_processor=[leave]).logits, wanted[0])


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    timer = threading.Timer(after, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    timer.join()


@pytest.mark.parametrize("how", ["compress", "patch"])
def test_interrupted_wait_leaves_the_stock_model(model: Any, inputs: list[dict[str, Tensor]], how: str) -> None:
    before, gate = traces(model), Gate()
    with interrupted(2), getattr(kv, how)(model, METHOD, BUDGET):
        thread = Call(answer, model, inputs[0], logits_processor=[gate])
        thread.start()
        assert gate.reached.wait(WAIT)
    assert not gate.opened.is_set()
    assert thread.is_alive()
    assert traces(model) == before
    gate.opened.set()
    thread.wait()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("how", ["compress", "patch"])
@pytest.mark.parametrize("where", ["logits", "attention", "vision"])
def test_failed_generation_leaves_the_stock_model(
    model: Any, inputs: list[dict[str, Tensor]], how: str, where: str, error: type[BaseException]
) -> None:
    before, stock = traces(model), answer(model, inputs[0]).logits

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    module = {"attention": model.get_decoder().layers[1].self_attn, "vision": model.model.visual}.get(where)
    undo = module.register_forward_pre_hook(fail) if module is not None else None
    options: dict[str, Any] = {"logits_processor": [fail]} if where == "logits" else {}
    with pytest.raises(error), getattr(kv, how)(model, METHOD, BUDGET):
        answer(model, inputs[0], **options)
    if undo is not None:
        undo.remove()
    assert traces(model) == before
    assert torch.equal(answer(model, inputs[0]).logits, stock)


def test_nested_contexts_are_refused_and_change_nothing(
    model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]
) -> None:
    with kv.compress(model, METHOD, BUDGET) as run:
        for how in (kv.compress, kv.patch):
            with pytest.raises(kv.UnsupportedModelError, match="already"), how(model, "tar", 16):
                pass
        with pytest.raises(kv.UnsupportedModelError, match="already"):
            kv.VideoSession(model, TinyProcessor(FAMILY), METHOD, BUDGET).push(footage(16))
        assert torch.equal(answer(model, inputs[0]).logits, wanted[0])
    assert len(run.reports) == 1


def test_context_can_be_entered_again(model: Any, inputs: list[dict[str, Tensor]], wanted: list[Tensor]) -> None:
    run = kv.compress(model, METHOD, BUDGET)
    for count in (1, 2):
        with run:
            assert torch.equal(answer(model, inputs[0]).logits, wanted[0])
        assert len(run.reports) == count


def test_session_leaves_other_threads_the_stock_model(model: Any, inputs: list[dict[str, Tensor]]) -> None:
    stock, gate = answer(model, inputs[0]).logits, Gate()
    session = kv.VideoSession(model, TinyProcessor(FAMILY), METHOD, BUDGET)
    session.push(footage(16))
    asking = Call(session.ask, "what?", max_new_tokens=4, logits_processor=[gate])
    asking.start()
    assert gate.reached.wait(WAIT)
    bystander = Call(answer, model, inputs[0])
    bystander.start()
    bystander.join(0.3)
    assert bystander.is_alive()
    gate.opened.set()
    assert isinstance(asking.wait(), str)
    assert torch.equal(bystander.wait().logits, stock)


@pytest.mark.parametrize("how", ["compress", "patch"])
@pytest.mark.parametrize("method", ["van", "snapkv", "standby"])
def test_deep_copies_are_stock(model: Any, inputs: list[dict[str, Tensor]], how: str, method: str) -> None:
    """A reference model, an average of weights: with weights of its own, and counted nowhere."""
    stock = answer(model, inputs[0]).logits
    with getattr(kv, how)(model, method, BUDGET) as handle:
        answer(model, inputs[0])
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.lm_head.weight.mul_(2)
        found = answer(twin, inputs[0])
        assert torch.equal(found.logits, 2 * stock)
        assert not compressed(found.output.past_key_values)
        assert (len(handle.reports) if how == "compress" else handle.stats.requests) == 1
    assert torch.equal(answer(twin, inputs[0]).logits, 2 * stock)
    with kv.compress(twin, method, BUDGET) as run:  # as any other model
        answer(twin, inputs[0])
    assert {*run.report.entries} == {BUDGET}


def test_copy_of_a_model_that_runs_is_stock(model: Any, inputs: list[dict[str, Tensor]]) -> None:
    stock, twins = answer(model, inputs[0]).logits, []

    def copied(ids: Tensor, scores: Tensor) -> Tensor:
        twins.append(copy.deepcopy(model))
        return scores

    with kv.compress(model, METHOD, BUDGET):
        answer(model, inputs[0], new=2, logits_processor=[copied])
    assert len(twins) == 2
    for twin in twins:
        assert torch.equal(answer(twin, inputs[0]).logits, stock)


def test_dynamic_quantisation_of_a_patched_model(model: Any, inputs: list[dict[str, Tensor]]) -> None:
    def quantised() -> Any:
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    wanted = answer(quantised(), inputs[0]).logits
    with kv.patch(model, METHOD, BUDGET) as handle:
        assert torch.equal(answer(quantised(), inputs[0]).logits, wanted)
    assert handle.stats.requests == 0
