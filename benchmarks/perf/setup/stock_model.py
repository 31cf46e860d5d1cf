"""The stock text model, called with the arguments of `model.generate()`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache

from kvpress_video.models.cache_argument import CACHE


class StockPrefill:
    """The text model's prefill of one prompt, repeatable, without the vision tower.

    Attributes:
        text_model: the text model.
    """

    def __init__(self, model: Any, prompt: Mapping[str, Tensor]) -> None:
        self.text_model = model.get_decoder()
        self._arguments: dict[str, Any] = {}

        def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            self._arguments = {name: value for name, value in kwargs.items() if name != CACHE}

        hook = self.text_model.register_forward_pre_hook(note, with_kwargs=True)
        try:
            model.generate(**prompt, max_new_tokens=1)
        finally:
            hook.remove()

    @property
    def positions(self) -> Tensor:
        """(t, h, w) of each token, (1, n, 3)."""
        return self._arguments["position_ids"][-3:].permute(1, 2, 0)

    def __call__(self) -> list[Any]:
        """Prefill the prompt and return the layers of its stock cache."""
        cache = DynamicCache(config=self.text_model.config)
        self.text_model(**self._arguments | {CACHE: cache})
        return list(cache.layers)
