"""Find the text that a processor writes for each frame: its time or number, and opening and closing markers."""

from __future__ import annotations

import numpy as np


def label_frames(ids: np.ndarray, where: np.ndarray, frames: np.ndarray, closes: int) -> np.ndarray:
    """Return the frame whose label each token of a row belongs to.

    All text between two frames of a video is labels: the first `closes` tokens belong to the frame before, the rest to
        the frame after. The labels before the first frame and after the last are found by comparison with these, so a
        video of one frame has no label.

    Args:
        ids: token ids of the row, (n,).
        where: ascending indices of the video's visual tokens in it, (tokens,).
        frames: frame of each, (tokens,), ascending.
        closes: tokens after the last visual token of a frame that close it.

    Returns:
        (n,) int64, -1 for tokens of no label.
    """
    found = np.full(len(ids), -1, dtype=np.int64)
    starts = np.flatnonzero(np.r_[True, np.diff(frames) > 0])
    if len(starts) < 2:
        return found
    opens, ends = where[starts], where[np.r_[starts[1:], len(where)] - 1] + 1
    numbers = frames[starts]
    for end, start, before, after in zip(ends[:-1], opens[1:], numbers[:-1], numbers[1:], strict=True):
        cut = min(end + closes, start)
        found[end:cut], found[cut:start] = before, after
    if ends[0] == opens[1]:
        return found
    closing = ids[ends[0] : min(ends[0] + closes, opens[1])]
    found[ends[-1] : ends[-1] + _equal_tokens(closing, ids[ends[-1] :])] = numbers[-1]
    opening = ids[ends[0] + len(closing) : opens[1]]
    found[opens[0] - _opening_tokens(opening, ids[: opens[0]]) : opens[0]] = numbers[0]
    return found


def _equal_tokens(one: np.ndarray, other: np.ndarray) -> int:
    """Count the leading tokens that are equal."""
    length = min(len(one), len(other))
    return int(np.cumprod(one[:length] == other[:length]).sum())


def _opening_tokens(opening: np.ndarray, before: np.ndarray) -> int:
    """Count the tokens at the end of `before` that open the first frame as `opening` opens the second: they have the
    same end, start with its first or second token (the separator between frames is missing), and are not longer. 0 if
    there are none.
    """
    if not len(opening) or not len(before) or before[-1] != opening[-1]:
        return 0
    for start in range(min(2, len(opening))):
        alike = np.flatnonzero(before[start - len(opening) :][::-1] == opening[start])
        if len(alike):
            return int(alike[0]) + 1
    return 0
