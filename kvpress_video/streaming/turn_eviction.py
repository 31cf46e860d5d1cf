"""The choice of turns to evict, whole and the oldest first, and of the tokens evicted with them.

Afterwards the cache is as if the evicted turns had never been asked: markup around them is evicted too, unless
    remaining tokens need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

KeepTurns = int | Literal["all"]


class TokenRange(NamedTuple):
    """Indices of consecutive tokens, `stop` not included."""

    start: int
    stop: int


class Opening(NamedTuple):
    """Markup before a question.

    Attributes:
        tokens: its token indices.
        closes_video: whether frames came before it.
    """

    tokens: TokenRange
    closes_video: bool


class TurnTokens(NamedTuple):
    """The tokens of a turn.

    Attributes:
        opening: markup before the question; that of the previous turn if that one was evicted.
        text: indices from the question to the end of the answer.
        reopening: markup that opens the frames after the turn, empty if it is the same as before a question; None if no
            frames follow.
    """

    opening: Opening
    text: TokenRange
    reopening: TokenRange | None = None


@dataclass(frozen=True)
class Departure:
    """The tokens evicted with some turns.

    Attributes:
        count: number of turns.
        ranges: evicted tokens, ascending.
        stay: the remaining turns.
        opening: remaining markup without a question, if the newest turn is evicted and nothing follows it.
    """

    count: int
    ranges: tuple[TokenRange, ...]
    stay: tuple[TurnTokens, ...]
    opening: Opening | None = None

    @property
    def tokens(self) -> int:
        """Number of evicted tokens."""
        return sum(stop - start for start, stop in self.ranges)


def departure(turns: Sequence[TurnTokens], count: int, before_frames: bool = False) -> Departure:
    """Return the tokens evicted with the `count` oldest of some turns.

    If another turn follows, its opening is evicted, and it takes over that of the evicted turn. With a turn between
    frames, the markup that closes and reopens the video is evicted. Of a turn before the first frames, the markup that
    opens the conversation and the video stays.

    Args:
        turns: the turns in the cache, oldest first.
        count: number of turns to evict.
        before_frames: whether frames come next, so that a video closed by the newest turn stays open.
    """
    ranges: list[TokenRange] = []
    stay = list(turns)
    opening = None
    for _ in range(count):
        first, reopening = stay[0].opening, stay[0].reopening
        start, stop = stay.pop(0).text
        if reopening is not None and first.closes_video:
            ranges += [first.tokens, TokenRange(start, reopening.stop)]
        elif reopening is not None:
            ranges.append(TokenRange(start, reopening.start))
        elif stay:
            ranges.append(TokenRange(start, stay[0].text.start))
            stay[0] = stay[0]._replace(opening=first)
        elif before_frames and first.closes_video:
            ranges += [first.tokens, TokenRange(start, stop)]
        else:
            ranges.append(TokenRange(start, stop))
            opening = first
    return Departure(count, tuple(each for each in ranges if each.stop > each.start), tuple(stay), opening)


def least_departure(
    turns: Sequence[TurnTokens], enough: Callable[[Departure], bool], before_frames: bool = False
) -> Departure | None:
    """Find the fewest oldest turns whose eviction suffices; None if that of all turns does not.

    Args:
        turns, before_frames: as in `departure`.
        enough: returns whether an eviction suffices.
    """
    departures = (departure(turns, count, before_frames) for count in range(len(turns) + 1))
    return next(filter(enough, departures), None)


def beyond(keep: KeepTurns) -> Callable[[Departure], bool]:
    """Return a function that tells whether at most `keep` turns stay."""
    return lambda leaves: keep == "all" or len(leaves.stay) <= keep
