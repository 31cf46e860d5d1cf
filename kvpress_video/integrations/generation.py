"""Limits of an answer, from the generation settings of a harness."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..errors import KVPressVideoError, unknown_name

logger = logging.getLogger(__name__)

_LENGTHS = ("max_gen_toks", "max_new_tokens")
_SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "num_beams")
_OF_IMAGES = ("min_pixels", "max_pixels", "max_num", "max_slice_nums", "num_crops", "do_pan_and_scan")


@dataclass(frozen=True)
class Generation:
    """Limits of a greedy answer.

    Attributes:
        until: stop strings, which are not part of the answer.
        max_new_tokens: maximum number of answer tokens.
    """

    until: tuple[str, ...]
    max_new_tokens: int

    @classmethod
    def read(cls, given: Mapping[str, Any], default_tokens: int) -> Generation:
        """Read a task's `generation_kwargs`.

        Args:
            given: `until`, `max_gen_toks` or `max_new_tokens`; sampling settings only if decoding stays greedy.
                Settings of image preprocessing for other models are ignored.
            default_tokens: `max_new_tokens` if `given` sets no length.

        Raises:
            UnknownNameError: unknown setting.
            KVPressVideoError: decoding would not be greedy.
        """
        known = {"until", *_LENGTHS, *_SAMPLING}
        for name in given:
            if name.startswith("image_") or name in _OF_IMAGES:
                _log_ignored(name)
            elif name not in known:
                raise unknown_name("generation setting", name, known)
        sampled = given.get("do_sample", bool(given.get("temperature")))
        if sampled or (given.get("num_beams") or 1) > 1:
            asked = ", ".join(f"{name}={given[name]!r}" for name in _SAMPLING if name in given)
            raise KVPressVideoError(f"Only greedy decoding is supported, and the task asks for {asked}.")
        until = given.get("until") or ()
        lengths = [int(given[name]) for name in _LENGTHS if given.get(name) is not None]
        return cls(
            tuple(filter(None, [until] if isinstance(until, str) else until)), lengths[0] if lengths else default_tokens
        )

    def cut(self, reply: str) -> str:
        """Cut a reply at the first stop string."""
        return reply[: min((place for stop in self.until if (place := reply.find(stop)) >= 0), default=len(reply))]


@cache
def _log_ignored(name: str) -> None:
    logger.warning("The task sets %s, for the image preprocessing of other models: it is ignored.", name)


class Stop(StoppingCriteria):
    """Stops each row of a batch at the first stop string."""

    def __init__(self, tokenizer: Any, prompt_length: int, until: tuple[str, ...]) -> None:
        self._tokenizer, self._start, self._until = tokenizer, prompt_length, until

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Return which rows are done, (batch,) bool."""
        replies = self._tokenizer.batch_decode(input_ids[:, self._start :].tolist(), skip_special_tokens=True)
        done = [any(stop in reply for stop in self._until) for reply in replies]
        return torch.tensor(done, device=input_ids.device)
