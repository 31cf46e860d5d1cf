"""Sessions whose newest frames are encoded anew for each question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from sessions import LABELS, QWEN, cache_of, check_failed_answer, check_same, frames_for, tiny
from torch import Tensor
from transformers.cache_utils import DynamicCache

import kvpress_video as kv
from kvpress_video.compressor.entries import Context, Kind
from kvpress_video.errors import BudgetError, CacheError
from kvpress_video.models import adapter_for

QUESTION = "what?"
FAMILIES = [family for family in (QWEN, "llava_next_video", *LABELS[:1]) if family in zoo.FAMILIES]


def watching(family: str = QWEN, method: str = "fresh:n=2,base=recent", seed: int = 0, **options: Any) -> Any:
    session = tiny(method, options.pop("budget", 40), family, **options)
    session.push(frames_for(family, 24, seed))
    session.flush()
    return session


def newest(session: kv.VideoSession) -> list[Tensor]:
    """Keys and values of the last two frames in each layer."""
    found = []
    for layer in session.stream.layers:
        entries = layer.entries(Context())
        mine = (entries.kind != Kind.TEXT) & (entries.frame >= entries.frame.max() - 1)
        found += [part[mine].clone() for part in (entries.keys, entries.values)]
    return found


@torch.no_grad()
def alone(session: kv.VideoSession) -> list[Tensor]:
    """Output of the stock model for the text before the frames and the last two frames, in one pass."""
    stream, adapter = session.stream, adapter_for(session.model)
    first = stream.layers[0].entries(Context())
    states = stream.newest.states
    text = first.kind[0, 0] == Kind.TEXT
    text &= first.index[0, 0] < states.index[0]
    held = (first.index[0, 0][:, None] == states.index[None]).any(dim=0)
    opening = torch.tensor(_opening(session))
    embeddings = torch.cat([adapter.inner.get_input_embeddings()(opening), states.embeddings[held]])
    mine = text | (first.kind[0, 0] != Kind.TEXT) & (first.frame[0, 0] >= first.frame[0, 0].max() - 1)
    position = first.present[0, 0][mine].T[:, None]
    position = position.long() if (position == position.round()).all() else position
    cache = DynamicCache()
    aligned = session.stream.newest._arguments(states.where(held))
    if aligned:
        aligned["visual_pos_masks"] = torch.cat([torch.zeros(1, len(opening), dtype=torch.bool),
                                                 aligned["visual_pos_masks"]], dim=1)  # fmt: skip
    spatial = bool(adapter.rope().axes.any())
    adapter.text_model(inputs_embeds=embeddings[None], position_ids=position if spatial else position[0],
                       past_key_values=cache, use_cache=True, **aligned)  # fmt: skip
    count = int(held.sum())
    parts = [(layer.keys, layer.values) for layer in cache.layers]
    return [part[:, :, -count:].flatten(0, 2) for layer in parts for part in layer]


def _opening(session: kv.VideoSession) -> list[int]:
    fresh = kv.VideoSession(session.model, session.processor, "full")
    return fresh._conversation.frames([0.0], 0)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_newest_frames_are_those_of_a_pass_over_them_alone(family: str) -> None:
    session = watching(family)
    before = cache_of(session)
    with session.stream.answering([]):
        found = newest(session)
        torch.testing.assert_close(found, alone(session), rtol=0, atol=1e-5)
        assert (found[-1] - newest(watching(family, "recent"))[-1]).abs().max() > 1e-4
    check_same(cache_of(session), before)


def test_a_question_reads_them_and_leaves_the_cache_unchanged() -> None:
    session, plain = watching(), watching(method="recent")
    logits = [_logits(each) for each in (session, plain)]
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    check_same(cache_of(session), cache_of(plain))
    session.ask(QUESTION, max_new_tokens=3)
    for layer, other in zip(session.stream.layers, plain.stream.layers, strict=True):
        assert torch.equal(layer.entries(Context()).keys[:, :, : other.physical], other.entries(Context()).keys)


def _logits(session: kv.VideoSession) -> Tensor:
    with session.lock, session.answering(QUESTION, 1) as asking, session.stream.attached():
        found: list[Tensor] = []
        head = session.model.get_output_embeddings().register_forward_hook(lambda _, __, out: found.append(out))
        try:
            session.stream.generate(asking.asked.ids, max_new_tokens=1, do_sample=False)
        finally:
            head.remove()
        session.stream.rewind(asking.before)
    return found[0][:, -1]


def test_what_a_failed_answer_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    check_failed_answer(watching(), QUESTION, monkeypatch)


def test_copies_batches_and_later_frames() -> None:
    sessions = [watching(seed=seed) for seed in range(2)]
    copies = [session.fork() for session in sessions]
    alone = [session.ask(QUESTION, max_new_tokens=4) for session in copies]
    assert kv.ask_all(sessions, QUESTION, max_new_tokens=4) == alone
    for session in (*sessions, *copies):
        session.push(frames_for(QWEN, 7, seed=5))
    assert [session.ask(QUESTION, max_new_tokens=4) for session in sessions] == [
        session.ask(QUESTION, max_new_tokens=4) for session in copies
    ]


def test_frames_count_as_bytes() -> None:
    session, plain = watching(), watching(method="recent")
    states = session.stream.newest.states
    assert session.stats.frame_bytes == states.embeddings.nbytes > 0
    assert session.stats.bytes == plain.stats.bytes + states.embeddings.nbytes
    assert int(states.frames.max() - states.frames.min()) == 1
    session.ask(QUESTION, max_new_tokens=2)
    assert session.stats.peak_bytes > session.stats.bytes + session.stats.frame_bytes
    assert session.stats.entries == plain.stats.entries


def test_what_is_refused(tmp_path: Path) -> None:
    session = watching()
    with pytest.raises(CacheError, match="which cannot be saved"):
        session.save(tmp_path / "session.kvv")
    assert not list(tmp_path.iterdir())
    other = kv.VideoSession.restore(session.snapshot(), session.model, session.processor, method="recent")
    assert other.stats.frame_bytes == 0
    with pytest.raises(BudgetError, match="re-encodes"):
        tiny("fresh", "1MiB")
