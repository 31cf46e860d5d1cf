"""Questions to sessions; those waiting at the same time are decoded as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...streaming.batch import ask_all
from ...streaming.session import VideoSession
from .memory import MemoryPlan
from .replies import Cancelled, Reply, StopRows, TokenRows
from .served_session import ServedSession


@dataclass(frozen=True)
class Question:
    """A question in the worker's queue.

    Attributes:
        served: the session, held in memory until the answer is done.
        text: text of the question.
        prompt: tokens of the text.
        tokens: maximum number of tokens of question and answer, markup included.
        limit: maximum number of answer tokens.
        keep: whether the turn stays in the conversation.
        reply: receives the answer.
        alone: whether there is no memory for the copy of the cache that a batch needs.
    """

    served: ServedSession
    text: str
    prompt: int
    tokens: int
    limit: int
    keep: bool
    reply: Reply
    alone: bool = False

    @property
    def kind(self) -> tuple[object, ...] | None:
        """Equal for questions that may share a batch, whose rows are all as long as the longest; None to run alone."""
        if self.alone:
            return None
        return "question", self.limit, self.keep, self.served.live.positions, self.served.need


class Asker:
    """Asks questions to sessions, in the worker's thread."""

    def __init__(self, plan: MemoryPlan) -> None:
        self._plan = plan

    def ask(self, questions: Sequence[Question]) -> list[str]:
        """Ask questions of one kind together, and return the answers.

        Raises:
            QuestionError: a question contains a special token of the model; then none is asked.
            RequestError: a session has no room for its question; then none is asked.
            Cancelled: nobody waits for the answers.
        """
        sessions = [question.served.live for question in questions]
        for question, session in zip(questions, sessions, strict=True):
            if question.reply.cancelled:
                raise Cancelled
            self._plan.check_text(session, question.tokens)
            question.reply.begin()
        answers = _asked(sessions, questions)
        for question, session in zip(questions, sessions, strict=True):
            if question.reply.cancelled and session.dialogue.keeps(question.keep):
                session.take_back()  # the others of its batch went on without it
            question.served.note()
        return answers


def _asked(sessions: Sequence[VideoSession], questions: Sequence[Question]) -> list[str]:
    first, replies = questions[0], [question.reply for question in questions]
    texts = [question.text for question in questions]
    options = {"streamer": TokenRows(replies), "stopping_criteria": [StopRows(replies)]}
    if len(sessions) == 1:
        return [sessions[0].ask(texts[0], max_new_tokens=first.limit, keep=first.keep, **options)]
    return ask_all(sessions, texts, max_new_tokens=first.limit, keep=first.keep, **options)
