"""Decoding at equal memory: as many conversations with full caches as fit, compared with as many capped ones.

A conversation is a video and the text after it. A full cache is a stock one, filled with random keys and values; a
capped one was compressed and then repeated, and continues inside `compress()`. Both are decoded by the model's own
forward, all conversations in one batch. Their number follows from the bytes that one of them occupies after decoding,
metadata and spare capacity included. Evicted entries cost neither memory nor time, so the video of a capped
conversation is only two and a half times as long as its budget.

The stock cache is copied for every token. A second figure leaves that out: as many full caches in this package's
layers, which grow in place.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

import kvpress_video as kv
from kvpress_video.cache.adoption import layers_of
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.errors import BenchmarkError
from kvpress_video.models.cache_argument import CACHE

from ..results.measurement import Figure, Goal
from ..setup.prompts import video_prompt
from ..setup.scales import Bed
from ..setup.timing import free_bytes, interleaved, peak_bytes, seconds

_METHOD = "key-norm"
_SHARE_OF_FREE = 0.8  # the rest is workspace for decoding
_WATCHED = 2  # tokens decoded while memory is measured


class Conversations(ABC):
    """A batch of conversations of one kind on one model."""

    def __init__(self, model: Any, bed: Bed) -> None:
        self._model, self._bed = model, bed

    @abstractmethod
    def cache(self, count: int) -> Any:
        """Make a cache of `count` conversations."""

    @abstractmethod
    def occupied(self, cache: Any) -> int:
        """Return the bytes that a cache occupies."""

    def around(self) -> AbstractContextManager:
        """Return the context for decoding."""
        return nullcontext()

    def bytes_of_one(self) -> int:
        """Measure the bytes that one conversation occupies after decoding."""
        cache = self.cache(1)
        with self.around():
            self._decode(cache, 1, self._bed.scale.new_tokens)
        return self.occupied(cache)

    def seconds(self, count: int) -> float:
        """Measure the seconds of decoding `count` conversations."""
        torch.cuda.empty_cache()  # other kinds of conversations left blocks of other sizes
        cache = self.cache(count)
        with self.around():
            return seconds(partial(self._decode, cache, count, self._bed.scale.new_tokens), self._bed.device)

    def peak(self, count: int) -> int:
        """Measure the bytes of the caches and the peak of decoding."""
        torch.cuda.empty_cache()
        cache = self.cache(count)
        held = self.occupied(cache)
        with self.around():
            return held + peak_bytes(partial(self._decode, cache, count, _WATCHED), self._bed.device)

    def _decode(self, cache: Any, count: int, tokens: int) -> None:
        ids = torch.zeros(count, 1, dtype=torch.long, device=self._bed.device)
        for _ in range(tokens):
            position = ids.new_full((3, count, 1), cache.get_seq_length())
            logits = self._model(input_ids=ids, position_ids=position, **{CACHE: cache}).logits
            ids = logits[:, -1:].argmax(dim=-1)


class Full(Conversations):
    """Conversations with stock caches of all their tokens."""

    def cache(self, count: int) -> DynamicCache:
        """Make a cache of random keys and values."""
        config = self._model.get_decoder().config
        attention = self._model.get_decoder().layers[0].self_attn
        shape = 1, config.num_key_value_heads, self._bed.scale.conversation, attention.head_dim
        states = torch.randn(shape, device=self._bed.device, dtype=self._model.dtype).expand(count, -1, -1, -1)
        cache: Any = self._empty(config)
        for layer in cache.layers:
            layer.update(states, states)
        return cache

    def _empty(self, config: Any) -> DynamicCache:
        return DynamicCache(config=config)

    def occupied(self, cache: Any) -> int:
        """Bytes of keys and values."""
        return sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))


class InPlace(Full):
    """Conversations with full caches that grow in place."""

    def _empty(self, config: Any) -> DynamicCache:
        cache = DynamicCache(config=config)
        room = self._bed.scale.conversation + max(self._bed.scale.new_tokens, _WATCHED)
        cache.layers = [CompressedLayer(room) for _ in cache.layers]
        return cache

    def occupied(self, cache: Any) -> int:
        """Bytes of the layers' buffers."""
        return sum(layer.reserved_bytes for layer in layers_of(cache))


class Capped(Conversations):
    """Conversations whose video was compressed to the budget."""

    def __init__(self, model: Any, bed: Bed) -> None:
        super().__init__(model, bed)
        rows, columns = bed.scale.patches
        prompt = video_prompt(model, 5 * bed.scale.budget // (2 * rows * columns), rows, columns)
        with self.around():
            output = model.generate(**prompt, max_new_tokens=1, return_dict_in_generate=True)
        self._one = output[CACHE]

    def around(self) -> AbstractContextManager:
        """Return the compression, with nothing left to evict."""
        return kv.compress(self._model, _METHOD, self._bed.scale.budget, prefill="split")

    def cache(self, count: int) -> Any:
        """Repeat the compressed conversation."""
        cache = copy.deepcopy(self._one)
        cache.batch_repeat_interleave(count)
        return cache

    def occupied(self, cache: Any) -> int:
        """Bytes of the layers' buffers."""
        return sum(layer.reserved_bytes for layer in layers_of(cache))

    @property
    def entries(self) -> int:
        """Entries of one conversation in each layer."""
        return layers_of(self._one)[0].physical


@torch.no_grad()
def run(bed: Bed) -> Iterator[Figure]:
    """Measure tokens per second of all three kinds in equal memory."""
    model, _ = bed.model()
    capped = Capped(model, bed)
    kinds: dict[str, Conversations] = {
        "full": Full(model, bed), "in_place": InPlace(model, bed), "capped": capped
    }  # fmt: skip
    room = room_of(bed)
    each = {name: kind.bytes_of_one() for name, kind in kinds.items()}
    counts = {name: room // each[name] for name in kinds} | {"in_place": room // each["full"]}
    if not counts["full"]:
        raise BenchmarkError(f"No full cache of {each['full']:,} bytes fits into {room:,}: choose another scale.")
    spent = {
        name: median(taken)
        for name, taken in interleaved(
            {name: partial(kind.seconds, counts[name]) for name, kind in kinds.items()}, bed.scale.rounds
        ).items()
    }
    rates = {name: counts[name] * bed.scale.new_tokens / taken for name, taken in spent.items()}
    raw: dict[str, Any] = {"room_bytes": room, "new_tokens": bed.scale.new_tokens, "rounds": bed.scale.rounds}
    for name, kind in kinds.items():
        raw |= {
            f"{name}_conversations": counts[name],
            f"{name}_conversation_bytes": each[name],
            f"{name}_seconds": spent[name],
            f"{name}_tokens_per_second": rates[name],
            f"{name}_peak_bytes": kind.peak(counts[name]),
        }
    case = f"{bed.scale.conversation:,} tokens, capped at {bed.scale.budget:,}"
    entry = each["full"] / bed.scale.conversation
    floor = each["full"] / (capped.entries * entry)
    yield Figure(
        "decode", case, "tokens per second ÷ full caches in place", rates["capped"] / rates["in_place"], "×",
        Goal(10, least=True), floor, "keys and values that a token reads, full ÷ capped", raw,
    )  # fmt: skip
    yield Figure(
        "decode", case, "tokens per second ÷ full stock caches", rates["capped"] / rates["full"], "×", raw=raw
    )  # fmt: skip


def room_of(bed: Bed) -> int:
    """Return the bytes that conversations may occupy."""
    if bed.scale.cache_bytes is not None:
        return bed.scale.cache_bytes
    return int(_SHARE_OF_FREE * free_bytes(bed.device))
