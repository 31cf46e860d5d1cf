"""Split entries over the segments of a row in proportion to the tokens seen of each."""

from __future__ import annotations

from collections.abc import Mapping


def allocate(total: int, seen: Mapping[int, int], held: Mapping[int, int]) -> dict[int, int]:
    """Split entries over segments in proportion to the tokens seen of each, exactly and deterministically.

    The remainder goes to the largest fractions, earlier segments first.

    Args:
        total: entries to distribute; capped at the number held.
        seen: tokens seen, per segment ordinal.
        held: entries held of each segment, which its share cannot exceed.

    Returns:
        Entries to keep, per segment ordinal.
    """
    length, total = sum(seen.values()), min(total, sum(held.values()))
    shares = {segment: min(total * count // length, held[segment]) for segment, count in seen.items()}
    by_remainder = sorted(seen, key=lambda segment: (-(total * seen[segment] % length), segment))
    while (missing := total - sum(shares.values())) > 0:
        for segment in [s for s in by_remainder if shares[s] < held[s]][:missing]:
            shares[segment] += 1
    return shares
