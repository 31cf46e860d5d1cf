"""A batch of answers in progress, which grows and shrinks between decoding steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.cache_utils import Cache, DynamicCache

from ...cache.joining import join_layers
from ...compressor.base import Compressor
from ...models.base import Adapter
from ...streaming.new_prompt import generate_on
from .choosing import GREEDY, Chooser, RowChoices
from .replies import Reply, TokenRows


def joinable(adapter: Adapter, method: Compressor) -> bool:
    """Return whether the caches of a model's prompts can be joined as rows of one."""
    others = adapter.unstreamed or adapter.sliding or adapter.recurrences
    return not (others or method.uneven or method.fresh or method.recall_share)


@dataclass(eq=False)
class Row:
    """An answer with a prefilled prompt and its first token.

    Attributes:
        cache: cache of the prompt, with one row that tracks positions.
        chooser: chooses its tokens.
        limit: maximum number of tokens.
    """

    cache: Cache
    chooser: Chooser
    limit: int

    @property
    def reply(self) -> Reply:
        """The answer so far."""
        return self.chooser.reply

    @property
    def left(self) -> int:
        """Number of tokens that may still be generated."""
        return self.limit - len(self.reply.tokens)


class Decoding:
    """A batch of answers; the caller keeps the compression active on the model."""

    def __init__(self, adapter: Adapter) -> None:
        """Create an empty batch."""
        self._adapter = adapter
        self._rows: list[Row] = []
        self._cache: Cache | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @torch.no_grad()
    def advance(self, arriving: Sequence[Row], pause: Callable[[], bool]) -> None:
        """Decode until an answer is done or a pause is requested, for at least one step.

        If it fails, the caches of all rows are lost.

        Args:
            arriving: answers that join; their caches are consumed.
            pause: called after each step; returns whether to pause.
        """
        try:
            self._regroup([row for row in self._rows if not row.reply.done], arriving)
            if not self._rows:
                return
            replies = [row.reply for row in self._rows]
            last = torch.tensor([[reply.tokens[-1]] for reply in replies], device=self._rows[0].chooser.prompt.device)
            assert self._cache is not None
            generate_on(
                self._cache,
                self._adapter,
                last,
                torch.ones_like(last),
                **GREEDY,
                max_new_tokens=min(row.left for row in self._rows),
                logits_processor=[RowChoices([row.chooser for row in self._rows])],
                streamer=TokenRows(replies),
                stopping_criteria=[_Until(lambda: any(reply.done for reply in replies) or pause())],
            )
        except BaseException:
            self._rows, self._cache = [], None
            raise

    def _regroup(self, staying: Sequence[Row], arriving: Sequence[Row]) -> None:
        """Build a batch from remaining and arriving rows, layer by layer."""
        if not arriving and len(staying) == len(self._rows):
            return
        parts = [(row.cache, [0]) for row in arriving]
        if staying:
            assert self._cache is not None
            parts.insert(0, (self._cache, [self._rows.index(row) for row in staying]))
        self._rows, self._cache = [*staying, *arriving], None
        if not self._rows:
            return
        spare = min(row.left for row in self._rows)  # when a row leaves, a new batch is built from the others
        joined = DynamicCache(config=self._adapter.text_model.config)
        for number in range(len(joined.layers)):
            layers: list[Any] = [cache.layers[number] for cache, _ in parts]
            joined.layers[number] = join_layers(layers, [rows for _, rows in parts], spare)
            for layer in layers:
                layer.reset()
        self._cache = joined


class _Until(StoppingCriteria):
    """Ends `generate()` for all rows at once."""

    def __init__(self, ends: Callable[[], bool]) -> None:
        self._ends = ends

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return whether all rows end, (batch,) bool."""
        return torch.full((len(input_ids),), self._ends(), device=input_ids.device)
