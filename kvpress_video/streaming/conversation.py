"""The text of a session in token ids: chat-template markup, questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..models.base import Adapter
from ..models.streamed_frames import FrameText
from ..utils.questions import check_question
from .chat_template import ChatTemplate
from .frame_tokens import LabelIds


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class ConversationState:
    """The state of a `Conversation`.

    Attributes:
        turns: questions and answers so far.
        begun: whether anything was said or shown.
        watching: whether frames came last.
        unsaid: the last token of an answer, which `generate()` returns but does not put into the cache.
    """

    turns: tuple[Turn, ...] = ()
    begun: bool = False
    watching: bool = False
    unsaid: tuple[int, ...] = ()


class Conversation:
    """Produces the token ids that come next and records questions and answers.

    Attributes:
        turns: questions and answers so far.
        asking: token ids between a question and its answer.
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
        self._begins: str | None = getattr(processor.tokenizer, "bos_token", None)  # which some templates write
        self._template = ChatTemplate.of(processor, system, adapter)
        self.asking = self._ids(self._template.ask)
        self._unsaid: tuple[int, ...]
        self.restore(ConversationState())

    def frames(self, seconds: Sequence[float], first: int) -> tuple[list[int], list[LabelIds]]:
        """Return the token ids that open a run of frames, none inside one, and those around each temporal step.

        Text between two special tokens is tokenised in one piece.

        Args:
            seconds: when each is shown.
            first: ordinal of the first of them in the session, from 0.
        """
        texts = self._adapter.frame_texts(self._processor, seconds, first)
        labels = [self._label(text) for text in texts]
        if self._watching:
            return [], labels
        opening = self._template.next_video if self._begun else self._template.open_video
        alone, whole = self._ids(opening, not self._begun), self._ids(opening + texts[0].opens, not self._begun)
        shared = next((n for n, (one, other) in enumerate(zip(alone, whole, strict=False)) if one != other), len(alone))
        return [*self._unsaid, *whole[:shared]], [labels[0]._replace(opens=whole[shared:]), *labels[1:]]

    @property
    def label_tokens(self) -> int:
        """Tokens around the first temporal step of a session, if others came before."""
        [text] = self._adapter.frame_texts(self._processor, [0.0], 0)
        return sum(map(len, self._label(text)))

    def _label(self, text: FrameText) -> LabelIds:
        return LabelIds(self._ids(self._adapter.frame_separator + text.opens), self._ids(text.closes))

    def question(self, question: str) -> list[int]:
        """Return the token ids of a question with the markup before and after it."""
        template, said = self._template, question + self._template.ask
        if self._watching:
            return self._ids(template.close_video + said)
        if self._begun:
            return [*self._unsaid, *self._ids(template.next_text + said)]
        return self._ids(template.open_text + said, special=True)

    def watched(self) -> None:
        """Record that frames, and the markup that opens them, are in the cache."""
        self._begun, self._watching, self._unsaid = True, True, ()

    def answered(self, question: str, reply: Sequence[int]) -> str:
        """Record a turn.

        Args:
            question: plain text.
            reply: token ids of the answer; all but the last are in the cache.

        Returns:
            The answer's text.
        """
        answer = self.text(reply)
        self._begun, self._watching = True, False
        self._unsaid = tuple(token for token in reply[-1:] if token not in self._tokenizer.all_special_ids)
        self.turns.append(Turn(question, answer))
        return answer

    def text(self, reply: Sequence[int]) -> str:
        """Decode token ids, special tokens left out."""
        text: str = self._tokenizer.decode(list(reply), skip_special_tokens=True)
        return text.strip()

    @property
    def state(self) -> ConversationState:
        """The present state, for `restore`."""
        return ConversationState(tuple(self.turns), self._begun, self._watching, self._unsaid)

    def restore(self, state: ConversationState) -> None:
        """Continue from a state."""
        self.turns = list(state.turns)
        self._begun, self._watching, self._unsaid = state.begun, state.watching, state.unsaid

    def _ids(self, text: str, special: bool = False) -> list[int]:
        special = special and not (self._begins and text.startswith(self._begins))
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"] if text or special else []
        return ids
