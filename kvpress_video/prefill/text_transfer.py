"""Evicted entries of one layer that the text after a video reads once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..attention.layer_compressor import PeakBytes
from ..attention.queries import projected_queries
from ..cache.compaction import moved
from ..cache.eviction import EvictionPlan
from ..cache.forward_pass import ForwardPass
from ..compressor.base import Compressor
from ..compressor.entries import Entries, Kind, Places, Tags, is_visual
from ..compressor.rope import Rope
from ..compressor.routing import checked_transfer
from ..errors import UnsupportedModelError
from ..models.base import Adapter


class TextTransfer:
    """Entries that a layer evicted during one prefill, held until the text after the video has read them.

    Attributes:
        number: index of the layer.
    """

    def __init__(self, number: int, weight: float, rope: Rope, peak: PeakBytes, one_pass: bool) -> None:
        """Prepare the transfer.

        Args:
            number: index of the layer.
            weight: weight of the evicted entries.
            rope: rotation of the text model.
            peak: counter of the bytes held here.
            one_pass: whether the text is in the same pass as the video.
        """
        self.number = number
        self._weight = weight
        self._rope = rope
        self._peak = peak
        self._one_pass = one_pass
        self._evicted: list[Entries] = []

    def collect(self, entries: Entries, plan: EvictionPlan) -> None:
        """Keep copies of the visual entries that a plan evicts, with keys at their original positions.

        Args:
            entries: all entries of the layer.
            plan: its eviction plan.
        """
        gone = is_visual(entries.kind)
        for row, after in enumerate(plan.rows):
            gone[row].scatter_(1, plan.slots[row, :, after.padding :], False)
        most = len(entries) - min(plan.slots.shape[2] - after.padding for after in plan.rows)
        last = gone.int().argsort(dim=-1, stable=True)[..., len(entries) - most :]
        taken = entries.gather(last)
        taken.tags[..., Tags.INDEX].masked_fill_(~gone.gather(-1, last), -1)
        if taken.places.shape[-1] == Places.COMPACT_WIDTH:
            taken = moved(taken, taken.position, self._rope)
        self._evicted.append(taken)
        parts = (taken.keys, taken.values, taken.tags, taken.places)
        self._peak.hold(sum(part.numel() * part.element_size() for part in parts))

    def reads(self, forward_pass: ForwardPass) -> bool:
        """Whether a pass contains the text."""
        return bool(self._evicted) and (self._one_pass or not forward_pass.compress)

    @torch.no_grad()
    def read(self, attention: Any, states: Tensor, forward_pass: ForwardPass, output: Tensor) -> Tensor:
        """Add the attention of the text after the last frame to the evicted entries to an attention's output.

        Args:
            attention: the layer's module.
            states: its input, (batch, n, hidden).
            forward_pass: the pass.
            output: its output, (batch, n, hidden).
        """
        evicted = Entries.join(self._evicted, dim=2)
        heads, width = evicted.keys.shape[1], evicted.keys.shape[-1]
        queries = projected_queries(attention, states, heads, width).transpose(1, 2)
        positions = forward_pass.places[:, None, :, Places.ORIGINAL].to(states.device)
        queries = self._rope.rotate(queries.float(), positions) * (self._rope.scale * attention.scaling)
        held = (evicted.index >= 0).expand(len(states), -1, -1)
        groups = queries.shape[1] // heads
        keys, values = (part.expand(len(states), -1, -1, -1).repeat_interleave(groups, dim=1)
                        for part in (evicted.keys, evicted.values))  # fmt: skip
        mask = held.repeat_interleave(groups, dim=1)[:, :, None]
        found = scaled_dot_product_attention(queries.to(values.dtype), keys.to(values.dtype), values, mask, scale=1.0)
        read = attention.o_proj(found.transpose(1, 2).flatten(2)) * self._weight
        here = _after_frames(forward_pass).to(states.device) & held.any(dim=(1, 2))[:, None]
        return output + torch.where(here[..., None], read, 0)


def check_transfer(adapter: Adapter, method: Compressor) -> None:
    """Check that a model supports reading evicted entries, if the method requests it.

    Raises:
        UnsupportedModelError: its attention is gated.
    """
    attention: Any = adapter.attentions[0]
    if checked_transfer(method, len(adapter.attentions)) is None:
        return
    if attention.q_proj.weight.shape[0] != attention.o_proj.weight.shape[1]:
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} gates the output of its attention, so that it cannot read evicted entries "
            "apart from the others: choose a method without a transfer, such as 'mod:layers=deep'."
        )


def _after_frames(forward_pass: ForwardPass) -> Tensor:
    """Return the tokens of a pass after the last visual one of their row, (batch, n) bool."""
    seen = is_visual(forward_pass.tags[..., Tags.KIND]).cumsum(dim=1)
    return (seen == seen[:, -1:]) & (forward_pass.tags[..., Tags.KIND] == Kind.TEXT)
