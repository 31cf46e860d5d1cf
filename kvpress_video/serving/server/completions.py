"""Chat completions without state: each request brings its whole conversation, whose cache is compressed and dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ...compression import Report, compress
from ...models.devices import device_of
from .openai_schema import ChatRequest
from .prompts import Shown, model_inputs, prompt_text, template_turns
from .replies import Cancelled, Reply, StopRows, TokenRows


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedily at a temperature of zero."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @classmethod
    def of(cls, request: ChatRequest) -> Sampling:
        """Read a request; without a temperature decoding is greedy."""
        return cls(request.temperature or 0.0, 1.0 if request.top_p is None else request.top_p, request.seed)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `generate()`."""
        if not self.temperature:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


@dataclass(frozen=True)
class Completed:
    """A finished answer.

    Attributes:
        prompt_tokens: of the prompt, visual ones included.
        report: of the compression; None for a prompt that showed nothing.
    """

    prompt_tokens: int
    report: Report | None


class Completions:
    """A model under one compression, which answers requests in the thread that owns it."""

    def __init__(self, model: Any, processor: Any, method: str, budget: str | int) -> None:
        """Prepare the compression.

        Raises:
            UnsupportedModelError: the model does not support the method.
        """
        self._model, self._processor = model, processor
        self._compression = compress(model, method, budget)

    def prompt(self, request: ChatRequest) -> str:
        """Write a request in the model's chat template.

        Raises:
            QuestionError: a text contains a special token of the model.
        """
        return prompt_text(self._processor, template_turns(self._processor, request))

    def answer(self, prompt: str, shown: Sequence[Shown], sampling: Sampling, limit: int, reply: Reply) -> Completed:
        """Generate an answer.

        Args:
            prompt: from `prompt`.
            shown: videos and pictures of the request.
            sampling: how to choose tokens.
            limit: most tokens.
            reply: receives them.

        Raises:
            BudgetError: the prompt does not fit into a budget of bytes.
            Cancelled: nobody waits for the answer.
        """
        if reply.cancelled:
            raise Cancelled
        reply.begin()
        inputs = model_inputs(self._processor, prompt, shown).to(device_of(self._model))
        with seeded(sampling.seed), self._compression.exclusive() as run:
            try:
                self._model.generate(
                    **inputs,
                    max_new_tokens=limit,
                    streamer=TokenRows([reply]),
                    stopping_criteria=[StopRows([reply])],
                    **sampling.options,
                )
                report = run.reports[-1] if run.reports else None
            finally:
                run.reports.clear()
        return Completed(inputs["input_ids"].shape[1], report)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Sample from a seed inside the context; the generators go on after it as if nothing had been sampled."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
