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

    The hash of an entry is the same in every pass, batch and device. So what is left of a stream is a uniform sample
    of all that was seen (reservoir sampling by bottom-k hashes), and not one biased to the latest chunk.

    Attributes:
        seed: another seed, another sample.
    """

    seed: int = 0

    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "baseline"

    def scores(self, entries: Entries) -> Tensor:
        """Uniform in [0, 1), (batch, kv_heads, n) fp32."""
        here, device = entries.keys.shape[1], entries.tags.device
        heads = entries.context.spread.rank * here + torch.arange(here, device=device)[:, None]
        state = _absorb(_absorb(torch.zeros_like(heads), self.seed), entries.context.layer)
        state = _absorb(state, heads)
        for column in (Tags.SEGMENT, Tags.FRAME, Tags.ROW, Tags.COLUMN):
            state = _absorb(state, entries.tags[..., column].long())
        return (state >> 8).float() / 2**24


def _absorb(state: Tensor, word: Tensor | int) -> Tensor:
    """One round of a 32-bit multiply-xorshift hash, in int64 so that it never overflows."""
    state = (state + word + 0x9E3779B9) & _LOW_32_BITS
    for _ in range(2):
        state = ((state ^ (state >> 16)) * 0x45D9F3B) & _LOW_32_BITS
    return state ^ (state >> 16)
