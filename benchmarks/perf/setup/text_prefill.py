"""The text model's prefill of one random video, by the stock model or inside a compression."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from .prompts import video_prompt
from .stock_model import StockPrefill
from .timing import Meter, measured, measured_calls

ROWS, COLUMNS = 8, 16

MeterOf = Callable[[torch.device], Meter]


class TextPrefill:
    """The measured prefill of one prompt on one model; the vision tower runs before it and is not part of it.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        """Prepare a prompt with `tokens` visual tokens, a multiple of `ROWS` × `COLUMNS`, for a Qwen2.5-VL."""
        self.model = model
        self._prompt = video_prompt(model, tokens // (ROWS * COLUMNS), ROWS, COLUMNS)
        self._stock = StockPrefill(model, self._prompt)

    def stock(self, meter: MeterOf) -> float:
        """Measure the stock text model."""
        return measured(self._stock, meter(self.model.device))

    def within(self, compression: AbstractContextManager, meter: MeterOf) -> float:
        """Measure the text model of `generate()` inside a compression."""
        with measured_calls(self._stock.text_model, self.model.device, meter) as taken, compression:
            self.model.generate(**self._prompt, max_new_tokens=1)
        return sum(taken)
