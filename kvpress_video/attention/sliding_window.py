"""Sliding-window layers: keep each row's window correct in the stock cache when a pass differs from a stock pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..cache.forward_pass import ForwardPass
from ..cache.layer import CompressedLayer
from ..cache.uncompressed import begin
from ..compressor.entries import Places
from ..errors import UnsupportedModelError
from ..models.base import Adapter
from ..models.cache_argument import CACHE
from .masks import FLASH, brings_images, built, image_blocks, newest_queries, real_tokens


def check_sliding(adapter: Adapter, stage: str) -> None:
    """Check that the sliding layers of a model, if any, are supported.

    Raises:
        UnsupportedModelError: tokens would be missing from their windows.
    """
    if adapter.sliding and stage == "input":
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} has sliding layers, whose windows count every token of a prompt, so "
            "stage='input' would leave gaps: use stage='cache'."
        )


def tokens_seen(layer: CompressedLayer) -> list[int]:
    """Return the tokens seen by each row of a layer, including evicted ones, without padding."""
    if len(layer.rows) == 1 and layer.rows[0].following is not None:
        return [layer.logical]  # of a stream, whose text may be evicted
    return [
        row.text(layer.physical) + sum(map(row.tokens_seen, row.seen)) for row in layer.rows
    ]  # text other than labels is never evicted


@dataclass
class SlidingPass:
    """The sliding layers during one pass. Afterwards they hold the same as after a stock prompt padded on the left: the
    last tokens of each row within the window, at their original positions.

    Attributes:
        adapter: adapter of the model.
        seen: tokens of each row before the pass, empty at the start.
        forward_pass: the pass.
    """

    adapter: Adapter
    seen: Sequence[int]
    forward_pass: ForwardPass
    _plans: dict[torch.device, _Plan] = field(default_factory=dict)
    _rotations: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def stock(self) -> bool:
        """Whether stock masks and caches are right without changes."""
        return self.forward_pass.stock_mask and not (
            self.seen and self.adapter.image_blocks and brings_images(self.forward_pass)
        )

    def before_attention(self, module: Any, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Forward pre-hook that passes the rotation, mask and cache of this pass to a sliding attention."""
        return args, self._arguments(module, given)

    def before_borrower(self, module: Any, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Forward pre-hook that passes the mask of a sliding layer to an attention that reads its window."""
        states, given = given["hidden_states"], given | {"position_ids": None}
        mask = {} if self.stock else {"attention_mask": newest_queries(self._plans[states.device].mask, states)}
        return args, given | mask

    def _arguments(self, module: Any, given: dict[str, Any]) -> dict[str, Any]:
        layer, states = given[CACHE].layers[module.layer_idx], given["hidden_states"]
        given = given | {"position_ids": None}  # only read by flash attention, which treats gaps as packed sequences
        if self.forward_pass.places.shape[-1] == Places.COMPACT_WIDTH:
            if states.device not in self._rotations:
                positions = self.forward_pass.places[..., Places.ORIGINAL.start].long().to(states.device)
                self._rotations[states.device] = self.adapter.sliding_rotation(states, positions)
            given["position_embeddings"] = self._rotations[states.device]
        if self.stock:
            return given
        if states.device not in self._plans:
            self._plans[states.device] = self._plan(layer, module.config._attn_implementation, states)
        plan = self._plans[states.device]
        return given | {"attention_mask": plan.mask, CACHE: _Window(layer, plan)}

    def _plan(self, layer: Any, implementation: str, states: Tensor) -> _Plan:
        forward_pass, device, window = self.forward_pass, states.device, layer.sliding_window
        held = layer.keys.shape[2] if layer.is_initialized else 0
        seen = torch.tensor(self.seen or [0] * len(states), device=device)
        past = torch.arange(held, device=device) >= (held - seen)[:, None]
        valid = torch.cat([past, real_tokens(forward_pass, device)], dim=1)
        logical = layer.cumulative_length + forward_pass.logical
        keep = valid[:, : valid.shape[1] - forward_pass.probes].byte().argsort(dim=1, stable=True)
        keep = keep[:, max(keep.shape[1] - min(window - 1, logical), 0) :]
        padded = any(row.padding for row in forward_pass.rows) or min(self.seen, default=held) < held
        mask = None
        if implementation in FLASH:
            mask = valid if padded else None
        elif padded or states.shape[1] > 1:
            blocks = image_blocks(forward_pass, device) if self.adapter.image_blocks else None
            mask = built(valid[:, None], blocks, window, implementation, states)
        return _Plan(mask, keep, logical)


@dataclass(frozen=True)
class _Plan:
    """The work of all sliding layers on one device in a pass.

    Attributes:
        mask: mask of the attention.
        keep: which of the held and new keys stay, (batch, n).
        logical: tokens seen after it.
    """

    mask: Tensor | None
    keep: Tensor
    logical: int


@dataclass(frozen=True)
class _Window:
    """Stands in for the cache in one sliding attention.

    Attributes:
        layer: the stock cache layer, a `DynamicSlidingWindowLayer`.
        plan: the work to do.
    """

    layer: Any
    plan: _Plan

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all keys and values, (batch, kv_heads, held + new, head_dim), and keep those that stay."""
        layer, keep = self.layer, self.plan.keep[:, None, :, None]
        if not layer.is_initialized:
            begin(layer, keys, values)
        keys, values = torch.cat([layer.keys, keys], dim=-2), torch.cat([layer.values, values], dim=-2)
        layer.keys, layer.values = (part.take_along_dim(keep, dim=2) for part in (keys, values))
        layer.cumulative_length = self.plan.logical
        return keys, values
