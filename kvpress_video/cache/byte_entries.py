"""How many entries a number of bytes allows."""

from __future__ import annotations

from collections.abc import Callable

from ..budget import Budget


def layer_entries(budget: Budget, layers: int, entry_bytes: int, batch: int = 1, uncompressed: int = 0) -> int:
    """Return how many entries a budget of bytes allows each layer and row; a budget of tokens is that number already.

    Args:
        budget: budget of tokens or bytes.
        layers: compressed layers.
        entry_bytes: keys, values and metadata of one entry, all KV heads of one layer.
        batch: rows that share the bytes.
        uncompressed: bytes of a row that go to other things.
    """
    if budget.unit != "bytes":
        return int(budget.amount)
    return (int(budget.amount) // batch - uncompressed) // (layers * entry_bytes)


def chunk_of(length: int, text: int, layers: int, work: float = 1) -> int:
    """Return a third of the entries that a budget of bytes leaves a layer for frames; a quarter of the budget at most.
    Where an entry takes more bytes in work than one that stays, the chunk is smaller, since it takes room from those.

    Args:
        length: entries that it allows each layer, text included.
        text: how many of them are text.
        layers: compressed layers, one of which holds the chunk at a time.
        work: bytes of an entry in work over those of one that stays.
    """
    return max(1, min(int((length - text) / (2 + work)), int(length * layers / (4 * work))))


def longest_within(amount: int, most: int, bytes_of: Callable[[int], int]) -> int:
    """Return the most entries that take no more than so many bytes, 0 if none fit.

    Args:
        amount: number of bytes.
        most: entries that there may be.
        bytes_of: bytes that so many entries take; with more entries they grow, at most in proportion.
    """
    length = most
    while length > 0 and (taken := bytes_of(length)) > amount:
        length = min(length - 1, length * amount // taken)
    while length < most and bytes_of(length + 1) <= amount:  # what was rounded
        length += 1
    return length
