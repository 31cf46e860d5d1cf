"""The entries that the largest pass of a prefill adds to a layer before eviction, and their budget."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..cache.allocation import BudgetAllocator
from ..cache.forward_pass import ForwardPass
from .chunking import Chunks, same_in_all_rows


def paying_for_largest_pass(
    allocator: BudgetAllocator,
    whole: ForwardPass,
    chunks: Chunks | None,
    embeddings: Tensor,
    *,
    begun: bool,
    transfers: bool,
) -> BudgetAllocator:
    """Return an allocator that includes the largest pass, whose entries are added to a layer before any are evicted.
    Text and the room for later text are already included, except in a cache begun without them; text that takes fewer
    bytes later is not included in full.

    Args:
        allocator: allocator of the prefill.
        whole: the tokens of the prompt.
        chunks: its chunks; None if it is read in one pass.
        embeddings: embeddings of the prompt, (batch, n, hidden).
        begun: whether the cache is not empty before the prompt.
        transfers: whether evicted entries are held for text, up to the whole video a second time.
    """
    packs = allocator.packs
    if begun:
        in_work = whole.length if chunks is None else max(map(len, chunks.visual))
    elif chunks is None:
        in_work = whole.length - (0 if packs else min(row.text(whole.length) for row in whole.rows))
    else:
        in_work = chunks.in_work(allocator.text_in_work, own_text=packs)
        if packs and same_in_all_rows(chunks.visual, whole, embeddings):
            in_work = -(-in_work // len(whole.rows))  # read by one row for all
    transferred = max(row.visual for row in whole.rows) if transfers else 0
    return replace(allocator, in_work=max(allocator.in_work, in_work + transferred), transferred=transferred)
