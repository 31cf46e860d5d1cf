"""Treatments of the entries that survived earlier passes: by true patch, or as whole frames in order."""

from __future__ import annotations

from kvpress_video.compressor import Entries
from kvpress_video.errors import BudgetError, unknown_name

TREATMENTS = ("tracked", "official")


def check_treatment(entries: str) -> None:
    """Raise UnknownNameError unless `entries` names a treatment."""
    if entries not in TREATMENTS:
        raise unknown_name("value of entries", entries, TREATMENTS)


def pseudo_frames(entries: Entries) -> int:
    """Count the whole frames that entries fill when read as frames in order.

    Raises:
        BudgetError: the number of entries is no multiple of the patches of a frame.
    """
    frames, rest = divmod(len(entries), entries.grid.patches)
    if rest:
        raise BudgetError(
            f"entries='official' treats the cache as whole frames of {entries.grid.patches} patches, but "
            f"{len(entries)} entries leave {rest} over: use entries='tracked', or a budget of whole frames."
        )
    return frames
