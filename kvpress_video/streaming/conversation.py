"""The words of a session: what is said before frames and questions, and what was asked and answered."""

from __future__ import annotations

from typing import Any, NamedTuple

from .chat_template import ChatTemplate


class Turn(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


class Conversation:
    """What was said, and what has to be said next, in token ids.

    Attributes:
        turns: questions and answers so far.
        asking: what stands between a question and its answer.
    """

    def __init__(self, processor: Any, system: str | None) -> None:
        """Args:
        processor: its chat template gives the words.
        system: a system message.
        """
        self._tokenizer = processor.tokenizer
        self._words = ChatTemplate.of(processor, system)
        self.asking = self._ids(self._words.ask)
        self.turns: list[Turn] = []
        self._begun = False
        self._watching = False  # whether frames came last
        self._unsaid: list[int] = []  # the end of an answer, which generate() does not read itself

    def before_frames(self) -> list[int]:
        """What opens a run of frames."""
        return [] if self._watching else self._opening(self._words.open_video, self._words.next_video)

    def question(self, question: str) -> list[int]:
        """A question with the words before and after it."""
        words = self._words
        before = self._ids(words.close_video) if self._watching else self._opening(words.open_text, words.next_text)
        return [*before, *self._ids(question), *self.asking]

    def watched(self) -> None:
        """Frames were seen, and what opens them was said."""
        self._begun, self._watching, self._unsaid = True, True, []

    def answered(self, question: str, reply: list[int]) -> str:
        """A question was answered with these token ids, all but the last of which the model has read."""
        answer = self.text(reply)
        self._begun, self._watching = True, False
        self._unsaid = [token for token in reply[-1:] if token not in self._tokenizer.all_special_ids]
        self.turns.append(Turn(question, answer))
        return answer

    def text(self, reply: list[int]) -> str:
        """Token ids in words."""
        text: str = self._tokenizer.decode(reply, skip_special_tokens=True)
        return text.strip()

    @property
    def facts(self) -> dict[str, Any]:
        """Where the conversation is, in what JSON can hold."""
        turns = [list(turn) for turn in self.turns]
        return {"turns": turns, "begun": self._begun, "watching": self._watching, "unsaid": self._unsaid}

    def restore(self, facts: dict[str, Any]) -> None:
        """Go on where another conversation is."""
        self.turns = [Turn(*turn) for turn in facts["turns"]]
        self._begun, self._watching, self._unsaid = facts["begun"], facts["watching"], list(facts["unsaid"])

    def _opening(self, first: str, following: str) -> list[int]:
        return [*self._unsaid, *self._ids(following)] if self._begun else self._ids(first, special=True)

    def _ids(self, text: str, special: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids
