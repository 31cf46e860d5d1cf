"""A first pass over a question: its queries in every layer, and the margin of the first answer token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..attention.queries import projected_queries
from ..models.base import Adapter
from ..utils.concurrency import entered


class QuestionReading:
    """The inputs of attention modules in a pass over a question.

    Attributes:
        states: input of each compressed layer's attention, (batch, n, hidden).
    """

    def __init__(self, adapter: Adapter) -> None:
        """Prepare the recording."""
        self._adapter = adapter
        self.states: dict[int, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Context manager that records the passes of the text model."""
        notes = (each.register_forward_pre_hook(self._note, with_kwargs=True) for each in self._adapter.attentions)
        with entered(map(_removed, notes)):
            yield

    def _note(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.states[module.layer_idx] = kwargs["hidden_states"].detach()

    @torch.no_grad()
    def queries(self, row: int, valid: Tensor | slice = slice(None)) -> list[Tensor]:
        """Return the mean un-rotated query of each layer, (attention heads, head_dim) fp32.

        Args:
            row: row of the batch.
            valid: tokens of the question.
        """
        adapter, found = self._adapter, []
        modules: Sequence[Any] = adapter.attentions
        for attention in modules:
            hidden = self.states[attention.layer_idx][row][valid][None]
            projected = projected_queries(attention, hidden, adapter.kv_heads, adapter.head_dim)
            found.append(projected[0].float().mean(dim=0))
        return found


@torch.no_grad()
def margin_of(adapter: Adapter, state: Tensor) -> float:
    """Return the difference of the two largest logits after a token, from its last hidden state (hidden,)."""
    head: Any = adapter.model.get_output_embeddings()  # type: ignore[operator]
    first, second = head(state).float().topk(2).values.tolist()
    return float(first - second)


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
