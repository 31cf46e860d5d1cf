"""Full prefill of a video, compared with eight tokens per frame, pooled or selected before prefill.

The goal concerns the time in the text model, including pooling or selection; the vision tower's work is the same.
The tower is timed separately, with the attention that `standby` reads from it, and both together are a second figure.
While the text model is timed, the tower's features come from a `SharedPrefill`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch

import kvpress_video as kv

from ..results.measurement import Figure, Goal
from ..setup.prompts import video_prompt
from ..setup.scales import Bed
from ..setup.stock_model import StockPrefill
from ..setup.timing import interleaved, measured_calls, seconds

METHODS = ("average-pooling", "standby")
ROWS, COLUMNS, KEPT = 18, 18, 8
_ROUNDS = 3  # at most: a full prefill is long, and the difference large


class Prefill:
    """The prefill of one prompt, in full or shortened.

    Attributes:
        tokens: tokens of the prompt.
        visual: visual tokens of the prompt.
        kept: visual tokens of a shortened prefill.
        text_model: the module that is timed.
    """

    def __init__(self, bed: Bed) -> None:
        frames = bed.scale.prefill_frames
        self.visual, self.kept = frames * ROWS * COLUMNS, frames * KEPT
        self._model, _ = bed.model()
        self._device = bed.device
        self._prompt = video_prompt(self._model, frames, ROWS, COLUMNS)
        self.tokens = self._prompt["input_ids"].shape[1]
        self._stock = StockPrefill(self._model, self._prompt)
        self.text_model = self._stock.text_model
        self._once = kv.SharedPrefill()

    def full(self) -> float:
        """Return the seconds in the stock text model."""
        return seconds(self._stock, self._device)

    def shortened(self, method: str) -> float:
        """Return the seconds in the text model, including compression."""
        compression = kv.compress(self._model, method, self.kept, stage="input", shared=self._once)
        with measured_calls(self.text_model, self._device) as taken, compression:
            self._model.generate(**self._prompt, max_new_tokens=1)
        return sum(taken)

    def stock_tower(self) -> float:
        """Return the seconds in the vision tower."""
        return seconds(self._encode, self._device)

    def tower(self, method: str) -> float:
        """Return the seconds in the vision tower with its attention recorded."""
        with kv.compress(self._model, method, self.kept, stage="input"):
            return seconds(self._encode, self._device)

    def _encode(self) -> Any:
        prompt = self._prompt
        return self._model.model.get_video_features(prompt["pixel_values_videos"], prompt["video_grid_thw"])

    def flops(self, tokens: int) -> float:
        """Return the floating-point operations of the text model's layers on a prompt of `tokens`."""
        config = self.text_model.config
        weights = sum(part.numel() for part in self.text_model.layers.parameters() if part.ndim == 2)
        heads = self.text_model.layers[0].self_attn.head_dim * config.num_attention_heads
        return 2.0 * weights * tokens + 2.0 * config.num_hidden_layers * heads * tokens**2  # half of q·k and of p·v


@torch.no_grad()
def run(bed: Bed) -> Iterator[Figure]:
    """Time the shortened prefills and the full one."""
    prefill = Prefill(bed)
    rounds = min(bed.scale.rounds, _ROUNDS)
    tower = {"full": prefill.stock_tower} | {name: partial(prefill.tower, name) for name in METHODS}
    text = {"full": prefill.full} | {name: partial(prefill.shortened, name) for name in METHODS}
    towers = {name: work() for name, work in tower.items()}  # warm already: the prompt was encoded once
    texts = {name: median(taken) for name, taken in interleaved(text, rounds).items()}
    short = prefill.tokens - prefill.visual + prefill.kept
    floor = 100 * prefill.flops(short) / prefill.flops(prefill.tokens)
    for name in METHODS:
        case = f"{name}, {prefill.visual // (ROWS * COLUMNS)} frames × {KEPT} of {ROWS * COLUMNS} tokens"
        raw = {"tokens": prefill.tokens, "kept_tokens": short, "rounds": rounds,
               "text_seconds": texts[name], "full_text_seconds": texts["full"],
               "tower_seconds": towers[name], "full_tower_seconds": towers["full"]}  # fmt: skip
        yield Figure(
            "prefill", case, "text model's prefill ÷ with all tokens", 100 * texts[name] / texts["full"], "%",
            Goal(4.6), floor,
            "share of the operations: linear layers in proportion to the tokens, attention to their square", raw,
        )  # fmt: skip
        both, whole = texts[name] + towers[name], texts["full"] + towers["full"]
        yield Figure(
            "prefill", case, "the same with the vision tower, timed once", 100 * both / whole, "%", raw=raw,
        )  # fmt: skip
