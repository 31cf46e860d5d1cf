"""The text of answers while their tokens are generated: streamed, ended by stop texts, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

_BROKEN = "\ufffd"  # bytes that do not make a character yet


class Cancelled(Exception):
    """Nobody waits for the answers any more."""


class Reply:
    """One answer in progress, written by the thread that generates and cancelled by another.

    Attributes:
        tokens: generated so far, the token that ends the answer included.
        text: of the answer so far, stripped, without the stop text and what follows it.
        cancelled: whether nobody waits for it any more.
        emit: receives each piece of the text; the pieces make up `text`.
        first: seconds from when it was asked for to its first token.
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
            limit: most tokens.
            ends: tokens that end an answer.
            stops: texts that end it.
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
        """Whether no more tokens belong to it."""
        return self.cancelled or self._ended or self._stopped or len(self.tokens) >= self._limit

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """Why it ended."""
        return "stop" if self._ended or self._stopped else "length"

    def begin(self) -> None:
        """Begin the answer, or begin it again; what was emitted before is not emitted twice."""
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
        """Leave out what later tokens may change: broken characters, and what may begin a stop text."""
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
    """Hands the tokens that `generate()` adds to each row of a batch to that row's reply."""

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
    """Ends each row whose reply is done; raises `Cancelled` where nobody waits for any of them."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = replies

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return which rows are done, (batch,) bool."""
        if all(reply.cancelled for reply in self._replies):
            raise Cancelled
        return torch.tensor([reply.done for reply in self._replies], device=input_ids.device)


def end_tokens(model: Any) -> frozenset[int]:
    """Tokens that end an answer of a model."""
    ends = model.generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())
