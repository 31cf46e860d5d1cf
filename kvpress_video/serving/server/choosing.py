"""Choose the next token of each row of a batch by the row's own settings, as if it were alone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from .openai_schema import ChatRequest
from .replies import Reply


@dataclass(frozen=True)
class Sampling:
    """Sampling settings; decoding is greedy at a temperature of zero."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, request: ChatRequest) -> Sampling:
        """Read the settings of a request: without a temperature, decoding is greedy; without a seed, one is drawn."""
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return cls(request.temperature or 0.0, 1.0 if request.top_p is None else request.top_p, seed)


@dataclass
class Chooser:
    """Chooses the tokens of one answer.

    Attributes:
        sampling: sampling settings.
        prompt: token ids, (1, n), to which the repetition penalty applies.
        reply: the answer so far.
        penalty: the model's repetition penalty; 1 for none.
    """

    sampling: Sampling
    prompt: Tensor
    reply: Reply
    penalty: float = 1.0
    _generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.sampling.seed)

    def __call__(self, scores: Tensor) -> Tensor:
        """Return scores (1, vocabulary) of which the chosen token's is the largest."""
        if self.penalty != 1.0:
            answer = torch.tensor([self.reply.tokens], dtype=self.prompt.dtype, device=self.prompt.device)
            history = torch.cat([self.prompt, answer], dim=1).to(scores.device)
            scores = RepetitionPenaltyLogitsProcessor(self.penalty)(history, scores)
        if not self.sampling.temperature:
            return scores
        nothing: Any = None  # both use the scores alone
        scores = TemperatureLogitsWarper(self.sampling.temperature)(nothing, scores)
        if self.sampling.top_p < 1.0:
            scores = TopPLogitsWarper(self.sampling.top_p)(nothing, scores)
        chosen = torch.multinomial(scores.softmax(dim=-1).cpu(), 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen.to(scores.device), 0.0)


class RowChoices(LogitsProcessor):
    """Chooses the token of each row of a batch by the row's settings."""

    def __init__(self, choosers: Sequence[Chooser]) -> None:
        self._choosers = choosers

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (batch, vocabulary), processed by each row's settings."""
        return torch.cat([choose(scores[row : row + 1]) for row, choose in enumerate(self._choosers)])


GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": 1.0}
"""Arguments of `generate()` that leave the choice to `RowChoices`."""
