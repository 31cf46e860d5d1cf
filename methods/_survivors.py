"""Two ways to read entries that earlier passes left: by their true patch, or as whole frames again."""

from __future__ import annotations

from kvpress_video.compressor import Entries
from kvpress_video.errors import BudgetError, unknown_name

TREATMENTS = ("tracked", "official")


def check_treatment(entries: str) -> None:
    """Raise UnknownNameError unless `entries` is one of the two."""
    if entries not in TREATMENTS:
        raise unknown_name("value of entries", entries, TREATMENTS)


def pseudo_frames(entries: Entries) -> int:
    """How many whole frames the entries fill when they are read as frames in order.

    Raises:
        BudgetError: they do not fill whole frames.
    """
    frames, rest = divmod(len(entries), entries.grid.patches)
    if rest:
        raise BudgetError(
            f"entries='official' reads what is cached as whole frames of {entries.grid.patches} patches, but "
            f"{len(entries)} entries leave {rest} over: use entries='tracked', or a budget of whole frames."
        )
    return frames
