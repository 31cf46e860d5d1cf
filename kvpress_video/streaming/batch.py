"""Several sessions answer at once, as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from ..cache.adoption import all_or_broken, layers_of
from ..cache.joining import join_layers
from ..cache.uncompressed import join_rows
from ..cache.uneven_layer import refuse_uneven
from ..compressor.entries import Context
from ..errors import CacheError
from ..models.devices import device_of
from .new_prompt import generate_on
from .session import VideoSession
from .stream import Stream


@torch.no_grad()
def ask_all(
    sessions: Sequence[VideoSession],
    questions: str | Sequence[str],
    *,
    max_new_tokens: int = 128,
    keep: bool = True,
    **generation: Any,
) -> list[str]:
    """Ask each session its question; the answers are decoded as one batch, and equal those of separate calls.

    The caches are copied into one batch during the call. A failed or interrupted answer restores every session.

    Args:
        sessions: different sessions on one model, with the same `positions`; methods, budgets and lengths may differ.
        questions: one per session, or one for all.
        max_new_tokens: maximum length of an answer.
        keep: whether questions and answers stay in the conversations.
        **generation: further arguments of `model.generate()`; greedy by default.

    Returns:
        The answers.

    Raises:
        CacheError: the sessions cannot form one batch.
        BudgetError: a question and its answer do not fit into a budget in bytes, or `max_new_tokens` is not a positive
            integer; no question is asked.
        QuestionError: a question is not a string, or contains a special token of the model; no question is asked.
    """
    asked = [questions] * len(sessions) if isinstance(questions, str) else list(questions)
    _check(sessions, asked)
    if not sessions:
        return []
    with sessions[0].lock, ExitStack() as turns:
        asking = [
            turns.enter_context(session.answering(question, max_new_tokens))
            for session, question in zip(sessions, asked, strict=True)
        ]
        ids = [each.asked.ids for each in asking]
        streams = [session.stream for session in sessions]
        length = max(map(len, ids))
        tokenizer = sessions[0].processor.tokenizer
        device = device_of(sessions[0].model)
        filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        padded = torch.tensor([[filler] * (length - len(row)) + row for row in ids], device=device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=device)
        generation = {"do_sample": False, "max_new_tokens": max_new_tokens} | generation
        with streams[0].attached():
            for stream in streams:
                stream.end_video()
            cache = _joined(streams, length + max_new_tokens)
            start = [layer.physical for layer in layers_of(cache)]
            output = generate_on(cache, streams[0].adapter, padded, mask, **generation)
            ends = generation.get("eos_token_id", sessions[0].model.generation_config.eos_token_id)
            replies = [_until(row, ends) for row in output]
            for row, (session, own, reply, each) in enumerate(zip(sessions, ids, replies, asking, strict=True)):
                if not session.dialogue.keeps(keep):
                    session.stream.rewind(each.before)
                elif each.before.others:  # decoded up to the end of the longest answer
                    session.stream.feed_text([*own, *reply[:-1]])
                else:
                    _hand_back(session.stream, cache, start, row, length - len(own), len(own) + len(reply) - 1)
        return [
            session.dialogue.finish(question, reply, keep, each)
            for session, question, reply, each in zip(sessions, asked, replies, asking, strict=True)
        ]


def _check(sessions: Sequence[VideoSession], questions: Sequence[str]) -> None:
    if len(sessions) != len(questions):
        raise CacheError(f"{len(questions)} questions for {len(sessions)} sessions: give one each, or one for all.")
    if len({id(session) for session in sessions}) < len(sessions):
        raise CacheError("A session was given twice: ask it one question after the other, or fork it.")
    if len({id(session.model) for session in sessions}) > 1:
        raise CacheError("The sessions run on several models: ask those of each model together.")
    for session in sessions:
        refuse_uneven(session.stream.layers[0], "A batch of sessions")
    if len({session.positions for session in sessions}) > 1:
        raise CacheError("Some sessions keep their positions and some compact them: ask them apart.")


def _joined(streams: Sequence[Stream], spare: int) -> DynamicCache:
    """Join the caches into one, padded on the left to the same length."""
    cache = DynamicCache(config=streams[0].adapter.text_model.config)
    logical = max(stream.layers[0].logical for stream in streams)
    join_rows(cache, [stream.cache for stream in streams], logical)
    numbers = [number for number, layer in enumerate(cache.layers) if type(layer) is DynamicLayer]
    for number, *layers in zip(numbers, *(stream.layers for stream in streams), strict=True):
        cache.layers[number] = join_layers(layers, [[0]] * len(layers), spare)
    return cache


def _until(row: Sequence[int], ends: int | Sequence[int] | None) -> list[int]:
    """Cut a reply after its first end token."""
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    last = next((place for place, token in enumerate(row) if token in stops), len(row) - 1)
    return list(row[: last + 1])


def _hand_back(stream: Stream, cache: DynamicCache, start: Sequence[int], row: int, padding: int, count: int) -> None:
    """Append the `count` new entries of a session's row to its cache, after the padding of its question."""
    with all_or_broken(stream.layers):
        for layer, joined, first in zip(stream.layers, layers_of(cache), start, strict=True):
            layer.extend(joined.entries(Context()).slice(first + padding, first + padding + count).rows([row]))
    stream.timeline = stream.timeline.interrupted()
    stream.note_peak()
