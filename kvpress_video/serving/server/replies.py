"""Text of answers during generation: streaming, stop strings and cancellation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

_BROKEN = "\ufffd"  # bytes of an incomplete character


class Cancelled(Exception):
    """Raised if no client waits for the answers any more."""


class Reply:
    """One answer in progress, written by the generating thread and cancelled by others.

    Attributes:
        tokens: generated tokens so far, including the one that ends the answer.
        text: text of the answer so far, stripped, and cut at the stop string.
        cancelled: whether no client waits for it any more.
        emit: receives the pieces of the text, which join to `text`.
        first: seconds from the request to the first token.
    """

    def __init__(
        self,
        tokenizer: Any,
        limit: int,
        ends: frozenset[int],
        stops: Sequence[str] = (),
    ) -> None:
        """Begin an answer.

        Args:
            tokenizer: decodes tokens.
            limit: maximum number of tokens.
            ends: token ids that end an answer.
            stops: strings that end it.
        """
        self._tokenizer, self._limit, self._ends, self._stops = tokenizer, limit, ends, tuple(stops)
        self._made = time.perf_counter()
        self._stopped = self._ended = False
        self.cancelled = False
        self.emit: Callable[[str], None] = lambda piece: None
        self.first: float | None = None
        self.tokens: list[int] = []
        self.text = ""

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self.cancelled or self._ended or self._stopped or len(self.tokens) >= self._limit

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """OpenAI's reason for the end of the answer."""
        return "stop" if self._ended or self._stopped else "length"

    def begin(self) -> None:
        """Begin the answer, or restart it without emitting pieces twice."""
        self.tokens = []
        self._stopped = self._ended = False

    def put(self, token: int) -> None:
        """Add a token."""
        if self.done:
            return
        self.tokens.append(token)
        self.first = self.first or time.perf_counter() - self._made
        self._ended = token in self._ends
        decoded = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        stop = min((place for text in self._stops if (place := decoded.find(text)) >= 0), default=None)
        self._stopped = stop is not None
        self._show(decoded[:stop] if self.done else self._certain(decoded))

    def _certain(self, decoded: str) -> str:
        """Omit text that later tokens may change: incomplete characters, and the beginning of a stop string."""
        decoded = decoded.rstrip(_BROKEN)
        begun = (
            length
            for stop in self._stops
            for length in range(min(len(stop), len(decoded)), 0, -1)
            if decoded.endswith(stop[:length])
        )
        return decoded[: len(decoded) - max(begun, default=0)]

    def _show(self, text: str) -> None:
        text = text.strip()
        if text.startswith(self.text) and text != self.text:
            piece, self.text = text[len(self.text) :], text
            self.emit(piece)


class TokenRows(BaseStreamer):
    """Streamer that passes the tokens of each row of a batch to the reply of the row."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies, self._prompt = replies, True

    def put(self, value: Tensor) -> None:
        """Receive the prompt, then one token of each row at a time."""
        if self._prompt:
            self._prompt = False
            return
        for reply, token in zip(self._replies, value.reshape(-1).tolist(), strict=True):
            reply.put(token)

    def end(self) -> None:
        """Receive the end."""


class StopRows(StoppingCriteria):
    """Stops each row whose reply is done; raises `Cancelled` if all replies are cancelled."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = replies

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return which rows are done, (batch,) bool."""
        if all(reply.cancelled for reply in self._replies):
            raise Cancelled
        return torch.tensor([reply.done for reply in self._replies], device=input_ids.device)


def end_tokens(model: Any) -> frozenset[int]:
    """Return the token ids that end an answer of a model."""
    ends = model.generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())
