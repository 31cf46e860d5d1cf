"""Keep a random sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Tags

_LOW_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class Random(Compressor):
    """Keep the entries with the highest hash of (seed, layer, head, segment, frame, row, column).

    The hash of an entry does not depend on the pass, batch or device. So the survivors of a stream are a uniform sample
    of everything seen (reservoir sampling by hash), without a bias towards the latest chunk.

    Attributes:
        seed: seed of the sample, an integer.
    """

    seed: int = 0

    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "baseline"
    family: ClassVar[str] = "sampling"
    fidelity: ClassVar[str] = "exact"

    def scores(self, entries: Entries) -> Tensor:
        """Score entries uniformly in [0, 1), (batch, kv_heads, n) fp32."""
        here, device = entries.keys.shape[1], entries.tags.device
        heads = entries.context.spread.rank * here + torch.arange(here, device=device)[:, None]
        state = _absorb(_absorb(torch.zeros_like(heads), self.seed), entries.context.layer)
        state = _absorb(state, heads)
        for column in (Tags.SEGMENT, Tags.FRAME, Tags.ROW, Tags.COLUMN):
            state = _absorb(state, entries.tags[..., column].long())
        return (state >> 8).float() / 2**24


def _absorb(state: Tensor, word: Tensor | int) -> Tensor:
    """Add a word to the state of a 32-bit multiply-xorshift hash; int64 arithmetic avoids overflow."""
    state = (state + word + 0x9E3779B9) & _LOW_32_BITS
    for _ in range(2):
        state = ((state ^ (state >> 16)) * 0x45D9F3B) & _LOW_32_BITS
    return state ^ (state >> 16)
