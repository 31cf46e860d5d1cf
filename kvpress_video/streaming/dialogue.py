"""Turns of a conversation in a stream: asking, undoing failures, taking back, and evicting old turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from ..errors import BudgetError, CacheError
from ..utils.concurrency import defer_sigint
from .conversation import Asked, Conversation, ConversationState
from .stream import Mark, Stream
from .text_eviction import TextEviction
from .turn_eviction import Departure, KeepTurns, TokenRange, beyond, departure, least_departure


class Asking(NamedTuple):
    """A question in progress.

    Attributes:
        asked: token ids of the question.
        before: state of the stream before it.
        undo: restores that state.
    """

    asked: Asked
    before: Mark
    undo: ExitStack


class Dialogue:
    """The turns of one stream."""

    def __init__(
        self, stream: Stream, conversation: Conversation, keep_turns: KeepTurns, reserved_text: int | None
    ) -> None:
        """Manage the turns of a stream.

        Args:
            stream: stream that holds their tokens.
            conversation: the conversation, which produces and records them.
            keep_turns: number of turns to keep after the newest is answered.
            reserved_text: text entries reserved within a budget in bytes; None if text is not counted.
        """
        self._stream, self._conversation = stream, conversation
        self._keep_turns, self._reserved_text = keep_turns, reserved_text
        self._before_last: ConversationState | None = None

    def keeps(self, asked: bool) -> bool:
        """Return whether a turn stays in the conversation if requested (`asked`)."""
        return asked and self._keep_turns != 0

    @contextmanager
    def undoing(self) -> Iterator[ExitStack]:
        """Yield a stack of undo callbacks, which run after an error or Ctrl-C."""
        state, before_last, undo = self._conversation.state, self._before_last, ExitStack()
        try:
            yield undo
        except BaseException:
            with defer_sigint():
                undo.close()
                self._conversation.state, self._before_last = state, before_last
            raise

    @contextmanager
    def asking(self, question: str, max_new_tokens: int) -> Iterator[Asking]:
        """Context manager that makes room for a question, and restores evicted turns if it fails.

        Raises:
            BudgetError: a budget in bytes has no room for question and answer.
        """
        leaves, asked = self._fitting(question, max_new_tokens)
        closing = self._stream.closing
        asked = asked._replace(opening=closing + asked.opening)
        self._stream.make_room(closing + len(asked.ids) + max_new_tokens)
        with self.undoing() as undo:
            self._evict(leaves, undo)
            before = self._stream.mark()
            undo.callback(self._rewind, before, self._stream.remembered)
            yield Asking(asked, before, undo)

    def finish(self, question: str, reply: Sequence[int], keep: bool, asking: Asking) -> str:
        """Decode the token ids of an answer; if it is kept, record the turn and evict older ones."""
        if not self.keeps(keep):
            return self._conversation.text(reply)
        self._stream.remembered, self._before_last = asking.before, self._conversation.state
        tokens = TokenRange(asking.before.layers[0].logical, self._stream.layers[0].logical)
        answer = self._conversation.answered(question, reply, asking.asked, tokens)
        if (older := least_departure(self._conversation.state.tokens, beyond(self._keep_turns))) is not None:
            self._evict(older, asking.undo)
        return answer

    def take_back(self) -> None:
        """Remove the last turn.

        Raises:
            CacheError: there is none, frames followed it, or a push failed halfway.
        """
        before, conversation = self._stream.remembered, self._before_last
        if before is None or conversation is None:
            raise CacheError("There is no question to take back, or frames were seen since it was asked.")
        self._stream.check_whole()
        with defer_sigint():
            self._rewind(before, None)
            self._conversation.state = conversation

    def make_room_for_frames(self, undo: ExitStack) -> None:
        """Evict the fewest turns that leave enough of a budget in bytes for frames; all turns if none suffice."""
        turns = self._conversation.state.tokens
        if self._reserved_text is None or not turns:
            return
        short = self._stream.short_of_frames(len(self._conversation.frames([0.0], 0)[0]))
        enough = least_departure(turns, lambda leaves: leaves.tokens >= short, before_frames=True)
        self._evict(enough or departure(turns, len(turns), before_frames=True), undo)

    def _fitting(self, question: str, max_new_tokens: int) -> tuple[Departure, Asked]:
        """Find the fewest turns to evict for a question and its answer, and return the prompt after the eviction."""
        reserved, turns, asked = self._reserved_text, self._conversation.state.tokens, {}
        room = self._stream.text_left() if reserved is not None else None

        def missing(leaves: Departure) -> int:
            opened = leaves.opening is not None or self._conversation.state.opening is not None
            asked[leaves.count] = self._conversation.question(question, opened)
            text = self._stream.closing + len(asked[leaves.count].ids) + max_new_tokens
            return 0 if room is None else text - room - leaves.tokens

        found = least_departure(turns, lambda leaves: missing(leaves) <= 0)
        if found is None:
            leaves = departure(turns, len(turns))
            short = missing(leaves)
            text = len(asked[leaves.count].ids) + max_new_tokens
            raise BudgetError(
                f"Question and answer may take {text} tokens, and the budget has room for {text - short}: ask for a "
                f"shorter answer (max_new_tokens), push frames before more questions, or raise text_room={reserved}."
            )
        return found, asked[found.count]

    def _evict(self, leaves: Departure, undo: ExitStack) -> None:
        """Evict turns; `undo` restores them."""
        if not leaves.count:
            return
        last, earlier = self._before_last, None
        if last is not None and leaves.count <= len(last.tokens):
            earlier = departure(last.tokens, leaves.count)
        eviction = TextEviction(self._stream, leaves, earlier)
        with defer_sigint():
            undo.callback(eviction.put_back)
            eviction.apply()
            self._conversation.state = self._conversation.state.without(leaves)
            self._before_last = last.without(earlier) if last and earlier else None

    def _rewind(self, mark: Mark, remembered: Mark | None) -> None:
        self._stream.rewind(mark)
        self._stream.remembered = remembered
