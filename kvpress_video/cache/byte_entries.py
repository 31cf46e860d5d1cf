"""How many entries a number of bytes allows."""

from __future__ import annotations

from collections.abc import Callable

from ..budget import Budget


def layer_entries(budget: Budget, layers: int, entry_bytes: int, batch: int = 1, uncompressed: int = 0) -> int:
    """Return the entries per layer and row that a budget in bytes allows; a budget in tokens is this number.

    Args:
        budget: budget of tokens or bytes.
        layers: number of compressed layers.
        entry_bytes: bytes of keys, values and metadata of an entry, over all KV heads of one layer.
        batch: rows that share the bytes.
        uncompressed: bytes of a row for everything else.
    """
    if budget.unit != "bytes":
        return int(budget.amount)
    return (int(budget.amount) // batch - uncompressed) // (layers * entry_bytes)


def chunk_of(length: int, text: int, layers: int, work: float = 1) -> int:
    """Return a third of the entries per layer that a budget in bytes leaves for frames, at most a quarter of the
    budget. The chunk is smaller if an entry in work takes more bytes than a kept one.

    Args:
        length: entries per layer that the budget allows, text included.
        text: number of text entries among them.
        layers: number of compressed layers, one of which holds the chunk at a time.
        work: ratio of the bytes of an entry in work to those of a kept one.
    """
    return max(1, min(int((length - text) / (2 + work)), int(length * layers / (4 * work))))


def longest_within(amount: int, most: int, bytes_of: Callable[[int], int]) -> int:
    """Return the maximum number of entries that fit into an amount of bytes; 0 if none fit.

    Args:
        amount: number of bytes.
        most: upper limit of the entries.
        bytes_of: bytes of a number of entries, increasing and at most proportional to it.
    """
    length = most
    while length > 0 and (taken := bytes_of(length)) > amount:
        length = min(length - 1, length * amount // taken)
    while length < most and bytes_of(length + 1) <= amount:  # correct for rounding
        length += 1
    return length
