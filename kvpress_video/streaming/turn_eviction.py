"""Which turns of a conversation leave the cache, and which tokens go with them: whole turns, the oldest first.

What stays is what would be there if the turns that left had never been asked: markup around them goes too, as far as
nothing that stays needs it.
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
    """Where the text of a turn is.

    Attributes:
        opening: markup before the question; that of the turn before it where that one has left.
        text: indices from the question on to the end of the answer.
        reopening: markup that opens the frames after the turn, empty if it belongs to all that may follow a turn;
            None if no frames follow.
    """

    opening: Opening
    text: TokenRange
    reopening: TokenRange | None = None


@dataclass(frozen=True)
class Departure:
    """What leaves with some turns.

    Attributes:
        count: how many turns.
        ranges: tokens that leave, ascending.
        stay: the turns that stay.
        opening: markup that is left without a question, where the newest turn has left and nothing follows it.
    """

    count: int
    ranges: tuple[TokenRange, ...]
    stay: tuple[TurnTokens, ...]
    opening: Opening | None = None

    @property
    def tokens(self) -> int:
        """How many tokens leave."""
        return sum(stop - start for start, stop in self.ranges)


def departure(turns: Sequence[TurnTokens], count: int, before_frames: bool = False) -> Departure:
    """Say what leaves with the `count` oldest of some turns.

    A turn that another follows takes along the opening of that one, which gets its own. A turn between frames takes
    along what closes and reopens the video. A turn before the first frames leaves what opens the conversation and the
    video.

    Args:
        turns: those in the cache, oldest first.
        count: how many leave.
        before_frames: whether frames come next, so that the video that the newest turn closed stays open without it.
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
    """Find the fewest turns, the oldest first, whose departure is enough; None if that of all of them is not.

    Args:
        turns, before_frames: as in `departure`.
        enough: says of a departure whether no more turns have to leave.
    """
    departures = (departure(turns, count, before_frames) for count in range(len(turns) + 1))
    return next(filter(enough, departures), None)


def beyond(keep: KeepTurns) -> Callable[[Departure], bool]:
    """Return what says whether no more than `keep` turns stay."""
    return lambda leaves: keep == "all" or len(leaves.stay) <= keep
