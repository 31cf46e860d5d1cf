"""Sessions with quantised entries: what they hold is flat and paid for, and questions leave no trace in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import model_of
from sessions import TinyProcessor, cache_of, differing, footage, tiny

import kvpress_video as kv
from kvpress_video.cache.storage import storage_of
from kvpress_video.models import adapter_for

QWEN = zoo.FAMILIES[0]
FINE = "4:q_group_size=8,residual_length=8"


def _quantized(budget: Any, method: str = "van", **options: Any) -> kv.VideoSession:
    return tiny(method, budget, QWEN, positions="keep", quantize=FINE, **options)


def _same(one: kv.VideoSession, other: list[torch.Tensor]) -> bool:
    return not differing(cache_of(one), other)


@pytest.mark.parametrize("method", ["van", "infinipot-v", "per-layer:shares=[1.2,0.9,1,0.9]"])
def test_a_budget_of_bytes_holds_over_a_long_life(method: str) -> None:
    adapter = adapter_for(model_of(QWEN))
    entry = storage_of(FINE).entry(adapter, False)
    budget = 4 * (160 * entry.held + entry.recent) + 200 * (entry.in_work + entry.staged)
    session = _quantized(f"{budget}B", method, text_room=70)
    held = []
    for number in range(12):
        session.push(footage(5 + 4 * (number % 3), seed=number))
        session.ask("What is it? " * (1 + number % 2), max_new_tokens=5, keep=number % 2 == 0)
        assert session.stats.bytes <= session.stats.peak_bytes <= budget
        held.append(session.stats.bytes)
    assert max(session.stats.entries) < session.stats.visual_tokens
    assert max(held[6:]) <= 1.25 * max(held[3:6])


def test_a_question_that_is_not_kept_or_taken_back_leaves_no_trace() -> None:
    session = _quantized(60, chunk=24)
    session.push(footage(16))
    session.ask("Before? " * 4, max_new_tokens=9)
    session.flush()
    before = [part.clone() for part in cache_of(session)]
    session.ask("And this one, which is packed before it goes? ", max_new_tokens=30, keep=False)
    assert _same(session, before)
    session.ask("This goes too, although it was kept for a while. ", max_new_tokens=30)
    assert not _same(session, before)
    session.take_back()
    assert _same(session, before)


def test_turns_that_come_back_are_as_they_were() -> None:
    """The question fails after the turn before it has left."""

    def fail(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise OSError("nobody there")

    session = _quantized(60, chunk=24, keep_turns=1)
    session.push(footage(16))
    session.ask("Which one? ", max_new_tokens=9)
    before = [part.clone() for part in cache_of(session)]
    with pytest.raises(OSError, match="nobody there"):
        session.ask("And this one? ", max_new_tokens=9, logits_processor=[fail])
    assert _same(session, before)


def test_copies_and_files_go_on_as_the_session_would(tmp_path: Path) -> None:
    session = _quantized(60, chunk=24)
    session.push(footage(16))
    session.ask("Which one?", max_new_tokens=9)
    session.save(tmp_path / "session.kvv")
    loaded = kv.VideoSession.load(tmp_path / "session.kvv", model_of(QWEN), TinyProcessor(QWEN))
    assert loaded.stats.bytes == session.stats.bytes
    for other in (session.fork(), loaded):
        assert _same(other, cache_of(session))
        other.push(footage(8, seed=3))
        answer = other.ask("And now?", max_new_tokens=9)
    session.push(footage(8, seed=3))
    assert session.ask("And now?", max_new_tokens=9) == answer
    assert _same(loaded, cache_of(session))


def test_what_does_not_go_together_says_what_to_do() -> None:
    with pytest.raises(kv.CacheError, match="positions='keep'"):
        tiny("van", 60, QWEN, quantize=4)
    with pytest.raises(kv.CacheError, match="bank_on='device'"):
        _quantized(60, bank_on="cpu")
