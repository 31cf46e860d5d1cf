"""Decoding steps through the hooks, compared with the stock model on a cache of the same length.

At ratio 1 nothing was evicted; capped, a longer video was compressed to as many entries. A step is one call of the
model's forward, without `generate()`. A second stock cache is timed like the others: its ratio to the first, and the
spread of that ratio, are the resolution of the measurement. The stock cache copies itself in every step; the last row
compares with one that is written in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

import kvpress_video as kv
from kvpress_video.cache.adoption import layers_of
from kvpress_video.models.cache_argument import CACHE
from kvpress_video.models.loading import load_bundled

from ..results.measurement import Figure, Goal
from ..setup.prompts import video_prompt
from ..setup.scales import Bed
from ..setup.text_prefill import COLUMNS, ROWS
from ..setup.timing import BusyClock, interleaved, measured, single_thread

METHOD = "key-norm"
STEPS = 8
_BUNDLED_ENTRIES = 1024
_ROUNDS = 4  # multiple of the scale's rounds: the differences are small
_STOCK, _AGAIN, _IN_PLACE = "stock", "stock again", "stock in place"
_COMPRESSED = ("ratio 1", "capped")


class InPlaceLayer(DynamicLayer):
    """A stock layer that writes new entries into a buffer instead of concatenating."""

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Copy keys and values (1, kv_heads, n, head_dim) into buffers with room for `STEPS` more entries."""
        super().__init__()
        self._room = [torch.cat([part, part[:, :, :STEPS]], dim=2) for part in (keys, values)]
        self.keys, self.values = (part[:, :, : keys.shape[2]] for part in self._room)
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values (1, kv_heads, n, head_dim)."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        for part, states in zip(self._room, (key_states, value_states), strict=True):
            part[:, :, start:end] = states
        self.keys, self.values = (part[:, :, :end] for part in self._room)
        return self.keys, self.values


class Decoder:
    """A model and a filled cache to decode from.

    Attributes:
        cache: the cache, whose length `step_seconds()` does not change.
    """

    def __init__(self, model: Any, cache: Any, budget: str | int | None = None) -> None:
        """Decode inside a compression with this budget, or with the stock model if it is None."""
        self.cache = cache
        self._model, self._budget = model, budget

    def step_seconds(self) -> float:
        """Measure the seconds of one step, as the mean over `STEPS`."""
        with self._around():
            spent = measured(self._decode, BusyClock(self._model.device))
        self.cache.crop(-STEPS)
        return spent / STEPS

    def _around(self) -> AbstractContextManager:
        return nullcontext() if self._budget is None else kv.compress(self._model, METHOD, self._budget)

    def _decode(self) -> None:
        ids = torch.zeros(1, 1, dtype=torch.long, device=self._model.device)
        for _ in range(STEPS):
            position = ids.new_full((3, 1, 1), self.cache.get_seq_length())
            logits = self._model(input_ids=ids, position_ids=position, **{CACHE: self.cache}).logits
            ids = logits[:, -1:].argmax(dim=-1)


def compressed(model: Any, tokens: int, budget: str | int) -> Decoder:
    """Prefill a video under a budget.

    Args:
        model: a Qwen2.5-VL.
        tokens: visual tokens, a multiple of `ROWS` × `COLUMNS`.
        budget: budget of `kv.compress()`.
    """
    prompt = video_prompt(model, tokens // (ROWS * COLUMNS), ROWS, COLUMNS)
    with kv.compress(model, METHOD, budget):
        output = model.generate(**prompt, max_new_tokens=1, return_dict_in_generate=True)
    return Decoder(model, output[CACHE], budget)


def decoders(model: Any, entries: int) -> dict[str, Decoder]:
    """Make the decoders to compare, with the same number of entries per layer."""
    whole = compressed(model, entries, "100%")
    states = [(layer.keys, layer.values) for layer in layers_of(whole.cache)]
    config = model.get_decoder().config
    stock = [DynamicCache(config=config) for _ in range(3)]
    for cache in stock[:2]:
        for number, (keys, values) in enumerate(states):
            cache.update(keys, values, number)
    stock[2].layers = [InPlaceLayer(keys, values) for keys, values in states]
    capped = compressed(model, entries + max(entries // 4, ROWS * COLUMNS), entries)
    names = (_STOCK, _AGAIN, _IN_PLACE)
    return {name: Decoder(model, cache) for name, cache in zip(names, stock, strict=True)} | {
        "ratio 1": whole, "capped": capped
    }  # fmt: skip


@torch.no_grad()
def run(bed: Bed) -> Iterator[Figure]:
    """Measure the time of a step relative to stock, for the scale's model and the bundled one."""
    deep, bundled = bed.deep().model()[0], load_bundled(device=str(bed.device))[0]
    text = deep.get_decoder().config
    name = f"{text.num_hidden_layers} layers of {text.hidden_size}"
    yield from _of(deep, name, bed.scale.step_entries, bed, Goal(1.02))
    for entries in sorted({min(_BUNDLED_ENTRIES, bed.scale.step_entries), bed.scale.step_entries}):
        yield from _of(bundled, "bundled", entries, bed, Goal(1.05))


def _of(model: Any, name: str, entries: int, bed: Bed, goal: Goal) -> Iterator[Figure]:
    works = {kind: decoder.step_seconds for kind, decoder in decoders(model, entries).items()}
    rounds = _ROUNDS * bed.scale.rounds
    with single_thread():
        spent = interleaved(works, rounds)
    at = f"{entries:,} entries"
    raw = {"steps": STEPS, "rounds": rounds, "threads": 1}
    for kind, taken in spent.items():
        known = {**raw, "seconds": taken}
        yield Figure("steps", f"{name}: {kind}, {at}", "time of a step", 1e3 * median(taken), "ms", raw=known)
    for kind in (_AGAIN, *_COMPRESSED):
        ratio = _ratio(spent, kind, _STOCK)
        yield Figure("steps", f"{name}: {kind}, {at}", "time of a step ÷ stock", median(ratio), "×",
                     goal if kind in _COMPRESSED else None, raw=raw)  # fmt: skip
    low, *_, high = quantiles(_ratio(spent, _AGAIN, _STOCK), n=4)
    yield Figure(
        "steps", f"{name}: stock against stock, {at}", "interquartile range of the ratio", 100 * (high - low), "%",
        raw=raw,
    )  # fmt: skip
    for kind in _COMPRESSED:
        yield Figure("steps", f"{name}: {kind}, {at}", "time of a step ÷ stock written in place",
                     median(_ratio(spent, kind, _IN_PLACE)), "×", raw=raw)  # fmt: skip


def _ratio(spent: Mapping[str, list[float]], kind: str, other: str) -> list[float]:
    return [one / two for one, two in zip(spent[kind], spent[other], strict=True)]
