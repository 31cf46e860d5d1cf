"""The text of a session in token ids: chat-template markup, questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from ..models.base import Adapter
from ..models.streamed_frames import FrameText
from ..utils.questions import check_question
from .chat_template import ChatTemplate
from .frame_queue import TIME_LIMIT
from .frame_tokens import LabelIds
from .turn_eviction import Departure, Opening, TokenRange, TurnTokens

_LAST_STEP = 10**9  # index of a temporal step beyond any session


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


class Asked(NamedTuple):
    """Token ids of a question with the markup before and after it, and the number of those before it."""

    ids: list[int]
    opening: int


@dataclass(frozen=True)
class ConversationState:
    """The state of a `Conversation`.

    Attributes:
        turns: questions and answers in the cache.
        begun: whether there were any frames or questions.
        watching: whether the last input was frames.
        unsaid: the last token of an answer, which `generate()` returns but does not put into the cache.
        tokens: token indices of the newest turns; turns of older files without them are never evicted.
        opening: markup in the cache whose question was evicted, so that the next one needs none.
        evicted: number of evicted turns.
    """

    turns: tuple[Turn, ...] = ()
    begun: bool = False
    watching: bool = False
    unsaid: tuple[int, ...] = ()
    tokens: tuple[TurnTokens, ...] = ()
    opening: Opening | None = None
    evicted: int = 0

    def without(self, leaves: Departure) -> ConversationState:
        """Return the state after some turns are evicted."""
        first = len(self.turns) - len(self.tokens)
        closes_nothing = not leaves.stay and leaves.opening is None
        return replace(
            self,
            turns=(*self.turns[:first], *self.turns[first + leaves.count :]),
            watching=self.watching or closes_nothing,
            unsaid=() if leaves.opening or closes_nothing else self.unsaid,
            tokens=leaves.stay,
            opening=leaves.opening or self.opening,
            evicted=self.evicted + leaves.count,
        )


class Conversation:
    """Produces the next token ids, and records questions and answers.

    Attributes:
        asking: token ids between a question and its answer.
        state: the mutable part.
    """

    def __init__(self, processor: Any, system: str | None, adapter: Adapter) -> None:
        """Parse the chat template.

        Args:
            processor: a processor with a tokenizer and a chat template.
            system: system message.
            adapter: adapter of the model, which defines the text of each frame.

        Raises:
            QuestionError: the system message is not text, or contains a special token of the model.
        """
        if system is not None:
            check_question(processor, system, "system message")
        self._processor, self._adapter = processor, adapter
        self._tokenizer = processor.tokenizer
        self._begins: str | None = getattr(processor.tokenizer, "bos_token", None)  # written by some templates
        self._template = ChatTemplate.of(processor, system, adapter)
        self.asking = self._ids(self._template.ask)
        self.state = ConversationState()

    @property
    def turns(self) -> list[Turn]:
        """Questions and answers in the cache."""
        return list(self.state.turns)

    def frames(self, seconds: Sequence[float], first: int) -> tuple[list[int], list[LabelIds]]:
        """Return the token ids that open a run of frames (none within a run), and those around each temporal step.

        Text between two special tokens is tokenised in one piece.

        Args:
            seconds: time of each step.
            first: index of the first step in the session, from 0.
        """
        texts = self._adapter.frame_texts(self._processor, seconds, first)
        labels = [self._label(text) for text in texts]
        state, first_ever = self.state, not self.state.begun
        if state.watching:
            return [], labels
        opening = self._template.open_video if first_ever else self._template.next_video
        alone, whole = self._ids(opening, first_ever), self._ids(opening + texts[0].opens, first_ever)
        shared = _alike(alone, whole)
        before = [*state.unsaid, *whole[:shared]]
        before = before[self._shared(before) :] if state.opening else before
        return before, [labels[0]._replace(opens=whole[shared:]), *labels[1:]]

    @property
    def label_tokens(self) -> int:
        """Number of tokens around the first temporal step, as if others preceded it."""
        [text] = self._adapter.frame_texts(self._processor, [0.0], 0)
        return sum(map(len, self._label(text)))

    def _label(self, text: FrameText) -> LabelIds:
        return LabelIds(self._ids(self._adapter.frame_separator + text.opens), self._ids(text.closes))

    @property
    def longest_label(self) -> int:
        """Maximum number of tokens around any temporal step."""
        texts = [self._adapter.frame_texts(self._processor, [at], _LAST_STEP)[0] for at in (-TIME_LIMIT, TIME_LIMIT)]
        return max(sum(map(len, self._label(text))) for text in texts)

    @property
    def reopening_tokens(self) -> int:
        """Maximum number of tokens between an answer and frames."""
        return 1 + len(self._ids(self._template.next_video))

    def question(self, question: str, opened: bool = False) -> Asked:
        """Return the token ids of a question, text between two special tokens in one piece.

        Args:
            question: plain text.
            opened: whether the markup before it is already in the cache.
        """
        template, state, said = self._template, self.state, question + self._template.ask
        if opened:
            return Asked(self._ids(said), 0)
        first = not state.begun
        opening = template.open_text if first else template.close_video if state.watching else template.next_text
        whole = self._ids(opening + said, first)
        shared = _alike(self._ids(opening, first), whole)
        return Asked([*state.unsaid, *whole], len(state.unsaid) + shared)

    def watched(self, before: Sequence[int], start: int) -> None:
        """Record that frames are in the cache.

        Args:
            before: token ids of the markup that opens them.
            start: index of the first of them.
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
            asked: tokens put into the cache before the answer.
            tokens: indices of these tokens and of the answer.

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
        """Decode token ids without special tokens."""
        text: str = self._tokenizer.decode(list(reply), skip_special_tokens=True)
        return text.strip()

    def _opening(self, first: str, following: str) -> list[int]:
        if self.state.begun:
            return [*self.state.unsaid, *self._ids(following)]
        return self._ids(first, special=True)

    def _shared(self, before: Sequence[int]) -> int:
        """Count the leading tokens that the markup before frames and the markup before questions share."""
        return _alike(before, self._opening(self._template.open_text, self._template.next_text))

    def _ids(self, text: str, special: bool = False) -> list[int]:
        special = special and not (self._begins and text.startswith(self._begins))
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"] if text or special else []
        return ids


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the leading tokens that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
