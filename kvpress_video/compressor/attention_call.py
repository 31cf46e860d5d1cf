"""The call of a layer's attention, for methods written against attention modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .entries import Entries


@dataclass(frozen=True)
class AttentionCall:
    """One call of a text attention.

    Attributes:
        module: the attention module.
        states: its hidden states, (batch, n, hidden).
        layer: all entries of its layer afterwards; the last n are those of the call.
        padding: leading padding of each row of the layer; None if a row has padding between its tokens.
    """

    module: nn.Module
    states: Tensor
    layer: Entries
    padding: Sequence[int | None]

    def rows(self, rows: Sequence[int]) -> AttentionCall:
        """Return the call for some rows of the batch."""
        states = torch.stack([self.states[row] for row in rows])
        return AttentionCall(self.module, states, self.layer.rows(rows), [self.padding[row] for row in rows])
