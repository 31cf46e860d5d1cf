"""Completions that arrive together: one batch, and answers as if each had been alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

import kvpress_video as kv

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from servers import BUDGET, METHOD, make_server

from kvpress_video.cache.adoption import layers_of
from kvpress_video.serving.server.choosing import Sampling
from kvpress_video.serving.server.completion_queue import CompletionQueue
from kvpress_video.serving.server.completions import Asked, Completions
from kvpress_video.serving.server.decoding import Decoding
from kvpress_video.serving.server.memory import room_for
from kvpress_video.serving.server.openai_schema import ChatRequest
from kvpress_video.serving.server.replies import Cancelled, Reply
from kvpress_video.serving.server.worker import Worker


@pytest.fixture(autouse=True)
def _endless(bundled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says on and on what it would say if it could not end, and so answers are longer than a word."""
    monkeypatch.setattr(bundled[0].generation_config, "suppress_tokens", [bundled[0].generation_config.eos_token_id])
    monkeypatch.setattr(bundled[0].generation_config, "eos_token_id", None)


@pytest.fixture
def completions(bundled: Any) -> Completions:
    return Completions(*bundled, METHOD, BUDGET)


@pytest.fixture
def footage(clips: Any) -> list[kv.Video]:
    return [kv.read_video(clip.path) for clip in clips]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that are decoded together, in order."""
    found: list[int] = []
    advance = Decoding.advance

    def counted(self: Decoding, *arguments: Any) -> None:
        advance(self, *arguments)
        found.append(len(self))

    monkeypatch.setattr(Decoding, "advance", counted)
    return found


def asked(
    bundled: Any,
    video: kv.Video | None,
    question: str = "What was the first shape to flash?",
    limit: int = 12,
    stops: tuple[str, ...] = (),
    **sampling: Any,
) -> Asked:
    """A request, whose answer is as long as its limit where no text ends it."""
    shown = [] if video is None else [{"type": "video_url", "video_url": {"url": "a video"}}]
    message = {"role": "user", "content": [*shown, {"type": "text", "text": question}]}
    request = ChatRequest.model_validate({"model": "bundled", "messages": [message]})
    reply = Reply(bundled[1].tokenizer, limit, frozenset(), stops)
    return Asked(request, [] if video is None else [video], Sampling(**sampling), limit, reply, video is not None)


@contextmanager
def queue(completions: Completions, together: int = 8) -> Iterator[tuple[CompletionQueue, Callable[[], None]]]:
    """A queue, and what lets its worker begin."""
    worker, gate = Worker(together), threading.Event()
    worker.submit("gate", gate.wait)
    try:
        yield CompletionQueue(completions, worker, together), gate.set
    finally:
        gate.set()
        worker.end()


def outcome(each: Asked, future: Future[Any]) -> tuple[list[int], str, int]:
    done = future.result(300)
    return each.reply.tokens, each.reply.text, done.prompt_tokens


def test_answers_together_are_those_of_each_alone(
    bundled: Any, completions: Completions, footage: list[kv.Video], sizes: list[int]
) -> None:
    def requests() -> list[Asked]:
        return [
            asked(bundled, footage[0]),
            asked(bundled, footage[1], "How many flashes were there?", limit=3),
            asked(bundled, footage[2], "Where was the heart? Was it near the star, or was it far from it?"),
            asked(bundled, footage[3], limit=24),
            asked(bundled, footage[0], limit=1),
            asked(bundled, footage[0], limit=9, temperature=2.0, seed=7),
            asked(bundled, footage[0], limit=9, temperature=2.0, seed=8, top_p=0.5),
            asked(bundled, None, "What is a heart?"),
        ]

    alone = [(each, completions.answer(each)) for each in requests()]
    together = requests()
    with queue(completions) as (waiting, begin):
        futures = [waiting.submit(each) for each in together]
        begin()
        found = [outcome(*each) for each in zip(together, futures, strict=True)]
    assert found == [(each.reply.tokens, each.reply.text, done.prompt_tokens) for each, done in alone]
    assert {len(tokens) for tokens, _, _ in found} >= {1, 3, 9, 24}
    assert found[5] != found[6]
    assert max(sizes) >= 3


def test_stop_texts_and_pieces_of_each_row(bundled: Any, completions: Completions, footage: list[kv.Video]) -> None:
    whole = asked(bundled, footage[0])
    completions.answer(whole)
    stop = whole.reply.text[len(whole.reply.text) // 2 :][:3]
    together = [asked(bundled, footage[0], stops=stops) for stops in ((stop,), ())]
    pieces: list[list[str]] = [[], []]
    for each, mine in zip(together, pieces, strict=True):
        each.reply.emit = mine.append
    with queue(completions) as (waiting, begin):
        futures = [waiting.submit(each) for each in together]
        begin()
        for future in futures:
            future.result(300)
    cut = whole.reply.text[: whole.reply.text.index(stop)].strip()
    assert ["".join(mine) for mine in pieces] == [cut, whole.reply.text] == [each.reply.text for each in together]
    assert len(pieces[1]) > 1


def test_others_join_an_answer_in_progress(bundled: Any, completions: Completions, footage: list[kv.Video]) -> None:
    first, second = (asked(bundled, video, limit=40) for video in footage[:2])
    lengths, futures = [], []

    def join(piece: str) -> None:
        if not futures:
            futures.append(waiting.submit(second))

    first.reply.emit = join
    second.reply.emit = lambda piece: lengths.append(len(first.reply.tokens))
    with queue(completions) as (waiting, begin):
        done = waiting.submit(first)
        begin()
        found = [outcome(first, done), outcome(second, futures[0])]
    assert 0 < lengths[0] < 40
    for each, tokens in ((asked(bundled, footage[0], limit=40), found[0][0]),
                         (asked(bundled, footage[1], limit=40), found[1][0])):  # fmt: skip
        completions.answer(each)
        assert each.reply.tokens == tokens


def test_others_go_on_without_one_that_is_cancelled(
    bundled: Any, completions: Completions, footage: list[kv.Video], sizes: list[int]
) -> None:
    gone, stays = (asked(bundled, video, limit=20) for video in footage[:2])

    def leave(piece: str) -> None:
        gone.reply.cancelled = len(stays.reply.tokens) > 3

    gone.reply.emit = leave
    with queue(completions) as (waiting, begin):
        futures = [waiting.submit(each) for each in (gone, stays)]
        begin()
        assert isinstance(futures[0].exception(300), Cancelled)
        futures[1].result(300)
    assert len(gone.reply.tokens) < 20 == len(stays.reply.tokens)
    assert {1, 2} <= {*sizes}


def test_a_batch_that_fails_is_answered_one_by_one(
    bundled: Any, completions: Completions, footage: list[kv.Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, calls = Decoding.advance, []

    def fails(self: Decoding, *arguments: Any) -> None:
        advance(self, *arguments)
        calls.append(len(self))
        if len(self) == 2:
            raise MemoryError

    monkeypatch.setattr(Decoding, "advance", fails)
    together = [asked(bundled, video, limit=12) for video in footage[:2]]
    pieces: list[str] = []
    together[0].reply.emit = pieces.append
    with queue(completions) as (waiting, begin):
        futures = [waiting.submit(each) for each in together]
        begin()
        found = [outcome(*each)[0] for each in zip(together, futures, strict=True)]
    assert calls == [1, 2]
    for video, tokens in zip(footage[:2], found, strict=True):
        each = asked(bundled, video, limit=12)
        completions.answer(each)
        assert each.reply.tokens == tokens
    assert "".join(pieces) == together[0].reply.text


def test_the_repetition_penalty_counts_prompt_and_answer(
    bundled: Any, completions: Completions, footage: list[kv.Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = bundled
    plain = asked(bundled, footage[0], limit=16)
    completions.answer(plain)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 3.0)
    penalised = Completions(model, processor, METHOD, BUDGET)
    inputs = kv.prepare(processor, footage[0], "What was the first shape to flash?")
    with kv.compress(model, METHOD, BUDGET):
        output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    wanted = output[0, inputs["input_ids"].shape[1] :].tolist()
    together = [asked(bundled, footage[0], limit=16) for _ in range(2)]
    with queue(penalised) as (waiting, begin):
        futures = [waiting.submit(each) for each in together]
        begin()
        assert [outcome(*each)[0] for each in zip(together, futures, strict=True)] == [wanted, wanted]
    assert wanted != plain.reply.tokens[: len(wanted)]


def test_a_batch_takes_the_memory_of_its_requests(
    bundled: Any, completions: Completions, footage: list[kv.Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_server(bundled).plan
    advance, held = Decoding.advance, []

    def measured(self: Decoding, *arguments: Any) -> None:
        advance(self, *arguments)
        if self._cache is not None:
            held.append((sum(layer.reserved_bytes for layer in layers_of(self._cache)), len(self)))

    monkeypatch.setattr(Decoding, "advance", measured)
    long = " ".join(["Where was the heart?"] * 40)
    together = [asked(bundled, footage[0], long, 10), asked(bundled, footage[1], limit=80)]
    with queue(completions) as (waiting, begin):
        futures = [waiting.submit(each) for each in together]
        begin()
        for future in futures:
            future.result(300)
    room = room_for(500 + 80)
    assert all(size <= rows * plan.cache(room - 80, 80, shows=True) for size, rows in held)
    assert held[-1][0] < max(held)[0] * 0.4  # the long row has left, and its padding with it


def test_what_is_in_progress_when_the_worker_ends(bundled: Any, completions: Completions, footage: Any) -> None:
    each = asked(bundled, footage[0], limit=400)
    ending = threading.Event()
    each.reply.emit = lambda piece: ending.set()
    worker = Worker(8)
    waiting = CompletionQueue(completions, worker, 8)
    future = waiting.submit(each)
    other = waiting.submit(asked(bundled, footage[1], limit=400))
    assert ending.wait(300)
    worker.end()
    assert future.done()
    assert other.done()
