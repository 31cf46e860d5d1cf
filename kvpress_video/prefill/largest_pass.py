"""What the largest pass of a prefill brings to a layer before any of it leaves, and who pays for it."""

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
    """Return the allocator that pays for the largest pass, whose entries come to a layer before any leave it. Text is
    paid for already, as is the room of text to come, except where the cache was begun without them; but text that takes
    less later is not paid for in full.

    Args:
        allocator: allocator of the prefill.
        whole: the tokens of the prompt.
        chunks: its parts; None if it is read in one pass.
        embeddings: embeddings of the prompt, (batch, n, hidden).
        begun: whether the cache holds anything before the prompt.
        transfers: whether evicted entries are held for text, which may come to hold all of the video once more.
    """
    packs = allocator.packs
    if begun:
        in_work = whole.length if chunks is None else max(map(len, chunks.visual))
    elif chunks is None:
        in_work = whole.length - (0 if packs else min(row.text(whole.length) for row in whole.rows))
    else:
        in_work = chunks.in_work(allocator.text_in_work, own_text=packs)
        if packs and same_in_all_rows(chunks.visual, whole, embeddings):
            in_work = -(-in_work // len(whole.rows))  # which one row reads for all of them
    transferred = max(row.visual for row in whole.rows) if transfers else 0
    return replace(allocator, in_work=max(allocator.in_work, in_work + transferred), transferred=transferred)
