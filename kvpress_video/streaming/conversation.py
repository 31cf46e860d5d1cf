"""The text of a session in token ids: chat-template markup, questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from ..models.base import Adapter
from ..utils.questions import check_question
from .chat_template import ChatTemplate
from .frame_queue import TIME_LIMIT
from .frame_tokens import LabelIds
from .turn_eviction import Departure, Opening, TokenRange, TurnTokens

_LAST_STEP = 10**9  # ordinal of a temporal step that no session comes to


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


class Asked(NamedTuple):
    """Token ids of a question with the markup before and after it, and how many of them come before it."""

    ids: list[int]
    opening: int


@dataclass(frozen=True)
class ConversationState:
    """The state of a `Conversation`.

    Attributes:
        turns: questions and answers in the cache.
        begun: whether anything was said or shown.
        watching: whether frames came last.
        unsaid: the last token of an answer, which `generate()` returns but does not put into the cache.
        tokens: where the newest turns are; older ones, of files that do not tell, never leave.
        opening: markup in the cache whose question has left, so that the next one needs none.
        evicted: how many turns have left.
    """

    turns: tuple[Turn, ...] = ()
    begun: bool = False
    watching: bool = False
    unsaid: tuple[int, ...] = ()
    tokens: tuple[TurnTokens, ...] = ()
    opening: Opening | None = None
    evicted: int = 0

    def without(self, leaves: Departure) -> ConversationState:
        """Return the state once some turns have left."""
        first = len(self.turns) - len(self.tokens)
        return replace(
            self,
            turns=(*self.turns[:first], *self.turns[first + leaves.count :]),
            unsaid=() if leaves.opening else self.unsaid,
            tokens=leaves.stay,
            opening=leaves.opening or self.opening,
            evicted=self.evicted + leaves.count,
        )


class Conversation:
    """Produces the token ids that come next and records questions and answers.

    Attributes:
        asking: token ids between a question and its answer.
        state: all that changes.
    """

    def __init__(self, processor: Any, system: str | None, adapter: Adapter) -> None:
        """Read the chat template.

        Args:
            processor: has a tokenizer and a chat template.
            system: system message.
            adapter: the model's, which knows what its processor writes for each frame.

        Raises:
            QuestionError: the system message is no text, or contains a special token of the model.
        """
        if system is not None:
            check_question(processor, system, "system message")
        self._processor, self._adapter = processor, adapter
        self._tokenizer = processor.tokenizer
        self._template = ChatTemplate.of(processor, system, adapter.video_markup(processor))
        self.asking = self._ids(self._template.ask)
        self.state = ConversationState()

    @property
    def turns(self) -> list[Turn]:
        """Questions and answers in the cache."""
        return list(self.state.turns)

    def before_frames(self) -> list[int]:
        """Return the token ids that open a run of frames; none inside one."""
        if self.state.watching:
            return []
        before = self._opening(self._template.open_video, self._template.next_video)
        return before[self._shared(before) :] if self.state.opening else before

    def labels(self, seconds: Sequence[float], first: int) -> list[LabelIds]:
        """Return the token ids around each temporal step.

        Args:
            seconds: when each is shown.
            first: ordinal of the first of them in the session, from 0.
        """
        texts = self._adapter.frame_texts(self._processor, seconds, first)
        return [LabelIds(self._ids(text.opens), self._ids(text.closes)) for text in texts]

    @property
    def label_tokens(self) -> int:
        """Tokens around the first temporal step of a session."""
        [label] = self.labels([0.0], 0)
        return len(label.opens) + len(label.closes)

    @property
    def longest_label(self) -> int:
        """Most tokens around any temporal step."""
        labels = [self.labels([seconds], _LAST_STEP)[0] for seconds in (-TIME_LIMIT, TIME_LIMIT)]
        return max(len(label.opens) + len(label.closes) for label in labels)

    @property
    def reopening_tokens(self) -> int:
        """Most tokens of the text between an answer and frames."""
        return 1 + len(self._ids(self._template.next_video))

    def question(self, question: str, opened: bool = False) -> Asked:
        """Return the token ids of a question.

        Args:
            question: plain text.
            opened: whether the markup before it is in the cache already.
        """
        template = self._template
        if opened:
            before = []
        elif self.state.watching:
            before = self._ids(template.close_video)
        else:
            before = self._opening(template.open_text, template.next_text)
        return Asked([*before, *self._ids(question), *self.asking], len(before))

    def watched(self, before: Sequence[int], start: int) -> None:
        """Record that frames are in the cache.

        Args:
            before: token ids of the markup that opens them.
            start: index of the first of those.
        """
        tokens = self.state.tokens
        if tokens and not self.state.watching:
            reopening = TokenRange(start + self._shared(before), start + len(before))
            tokens = (*tokens[:-1], tokens[-1]._replace(reopening=reopening))
        self.state = replace(self.state, begun=True, watching=True, unsaid=(), tokens=tokens, opening=None)

    def answered(self, question: str, reply: Sequence[int], asked: Asked, tokens: TokenRange) -> str:
        """Record a turn.

        Args:
            question: plain text.
            reply: token ids of the answer; all but the last are in the cache.
            asked: what was put into the cache before the answer.
            tokens: indices of all of that, the answer included.

        Returns:
            The answer's text.
        """
        answer, state = self.text(reply), self.state
        text = tokens.start + asked.opening
        opening = state.opening or Opening(TokenRange(tokens.start, text), state.watching)
        self.state = replace(
            state,
            turns=(*state.turns, Turn(question, answer)),
            begun=True,
            watching=False,
            unsaid=tuple(token for token in reply[-1:] if token not in self._tokenizer.all_special_ids),
            tokens=(*state.tokens, TurnTokens(opening, TokenRange(text, tokens.stop))),
            opening=None,
        )
        return answer

    def text(self, reply: Sequence[int]) -> str:
        """Decode token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(reply), skip_special_tokens=True)
        return text.strip()

    def _opening(self, first: str, following: str) -> list[int]:
        if self.state.begun:
            return [*self.state.unsaid, *self._ids(following)]
        return self._ids(first, special=True)

    def _shared(self, before: Sequence[int]) -> int:
        """Count the first tokens of the markup that opens frames that also come before a question."""
        other = self._opening(self._template.open_text, self._template.next_text)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, other, strict=False)))

    def _ids(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"] if text or special else []
        return ids
