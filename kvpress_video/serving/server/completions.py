"""Stateless chat completions: each request contains its whole conversation, and its cache is freed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ...cache.adoption import layers_of
from ...cache.joining import count_positions
from ...compression import Report, compress
from ...compressor.registry import make_method
from ...models import adapter_for
from ...models.devices import device_of
from .choosing import GREEDY, Chooser, RowChoices, Sampling
from .decoding import Decoding, Row, joinable
from .openai_schema import ChatRequest
from .prompts import Shown, model_inputs, prompt_text, template_turns
from .replies import Cancelled, Reply, StopRows, TokenRows


@dataclass(frozen=True)
class Asked:
    """A request to answer.

    Attributes:
        request: the validated request.
        shown: its videos and pictures.
        sampling: sampling settings.
        limit: maximum number of answer tokens.
        reply: receives the tokens.
        kind: equal for requests whose answers may share a batch, in which all rows have the length of the longest.
    """

    request: ChatRequest
    shown: Sequence[Shown]
    sampling: Sampling
    limit: int
    reply: Reply
    kind: Hashable = None


@dataclass(frozen=True)
class Completed:
    """A finished answer.

    Attributes:
        prompt_tokens: tokens of the prompt, including visual ones.
        report: report of the compression; None for a prompt without media.
    """

    prompt_tokens: int
    report: Report | None


class Completions:
    """Answers requests with one model under one compression, in the thread that owns the model.

    Attributes:
        joinable: whether several answers can be decoded together.
    """

    def __init__(self, model: Any, processor: Any, method: str, budget: str | int, chunk: int | None = None) -> None:
        """Prepare the compression; see `compress` for its arguments.

        Raises:
            UnsupportedModelError: the model does not support the method.
        """
        self._model, self._processor, self._adapter = model, processor, adapter_for(model)
        self._compression = compress(model, method, budget, chunk=chunk)
        self._penalty = model.generation_config.repetition_penalty or 1.0
        self.joinable = joinable(self._adapter, make_method(method))

    def prompt(self, request: ChatRequest) -> str:
        """Write a request in the model's chat template.

        Raises:
            QuestionError: a text contains a special token of the model.
        """
        return prompt_text(self._processor, template_turns(self._processor, request))

    def answer(self, asked: Asked) -> Completed:
        """Generate an answer.

        Raises:
            BudgetError: the prompt does not fit into a budget of bytes.
            QuestionError: a text contains a special token of the model.
            Cancelled: nobody waits for the answer.
        """
        return self._generate(asked, asked.limit)[0]

    def begin(self, asked: Asked) -> tuple[Completed, Row]:
        """Prefill the prompt of a request and generate the first token of its answer; raises the errors of `answer`."""
        done, chooser, cache = self._generate(asked, 1)
        count_positions(layers_of(cache))
        return done, Row(cache, chooser, asked.limit)

    def batch(self) -> Decoding:
        """Create an empty batch of answers."""
        return Decoding(self._adapter)

    def advance(self, batch: Decoding, arriving: Sequence[Row], pause: Callable[[], bool]) -> None:
        """Decode a batch; see `Decoding.advance`."""
        with self._compression.exclusive():
            batch.advance(arriving, pause)

    def _generate(self, asked: Asked, tokens: int) -> tuple[Completed, Chooser, Any]:
        reply = asked.reply
        if reply.cancelled:
            raise Cancelled
        reply.begin()
        prompt = self.prompt(asked.request)
        inputs = model_inputs(self._processor, prompt, asked.shown).to(device_of(self._model))
        chooser = Chooser(asked.sampling, inputs["input_ids"], reply, self._penalty)
        with self._compression.exclusive() as run:
            try:
                output = self._model.generate(
                    **inputs,
                    **GREEDY,
                    max_new_tokens=tokens,
                    logits_processor=[RowChoices([chooser])],
                    streamer=TokenRows([reply]),
                    stopping_criteria=[StopRows([reply])],
                    return_dict_in_generate=True,
                )
                report = run.reports[-1] if run.reports else None
            finally:
                run.reports.clear()
        return Completed(inputs["input_ids"].shape[1], report), chooser, output.past_key_values
