"""A stream and its conversation: frames are pushed, questions asked at any time, inside one fixed budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..budget import BudgetLike
from ..compressor.base import Compressor
from ..errors import BudgetError, CacheError
from ..models import adapter_for
from ..prefill.options import Positions
from ..utils.concurrency import defer_sigint, model_lock
from ..video.reader import read_in_groups
from .answer_stream import stream_answer
from .checkpoint import read_snapshot, write_snapshot
from .config import SessionConfig
from .conversation import Conversation, Turn
from .frame_queue import FrameQueue
from .state import Snapshot, put_stream, take_stream
from .stats import SessionStats, measured
from .stream import Mark, Stream


class VideoSession:
    """An endless video and a conversation about it.

        session = kv.VideoSession(model, processor, "infinipot-v", budget=6144)
        session.push(frames, times)
        session.ask("What did she put down?")

    Frames are worked through a chunk at a time and the cache is compressed after each; frames that do not fill a chunk
    wait until they do, or until a question is asked. Questions and answers stay in the conversation and never count as
    vision. Many sessions may share one model, from many threads: they take turns.

    Attributes:
        model, processor, positions: as given.
        stream: the cache, and what is known of it.
        lock: the model's, held whenever the session runs it.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        method: str | Compressor = "infinipot-v",
        budget: BudgetLike | None = None,
        *,
        positions: Positions = "compact",
        chunk: int | None = None,
        fps: float = 2.0,
        system: str | None = None,
        text_room: int = 512,
        position_limit: int | None = None,
        bank_on: str = "device",
        **settings: Any,
    ) -> None:
        """Args:
        model, processor: as `from_pretrained` gives them.
        method: a method's name, `"name:setting=value,…"`, or an instance.
        budget: `6144` (visual entries per layer and KV head; text is kept on top) or `"256MiB"` (everything that the
            cache holds, text included). Only `"full"`, which grows for ever, needs none.
        positions: `"compact"` squeezes the time of earlier frames whenever the positions that the model knows run out;
            `"keep"` leaves every position where it was.
        chunk: visual tokens worked through at once; whole frames, at least one. By default a third of the budget.
        fps: frames per second where `push` is not told the times.
        system: a system message.
        text_room: text entries that a budget of bytes is kept free for, beyond those held, until more frames come.
        position_limit: positions that the model knows; what its configuration says by default.
        bank_on: where older entries live between the moments that attention asks for them: on the model's `"device"`,
            on the `"cpu"`, or on `"disk"`, in temporary files. Which these are is the method's to say: all that it was
            given once, or, for `detachable`, what is older than its window. Answers are the same.
        **settings: the method's settings.

        Raises:
            BudgetError: there is no budget, or it caps nothing.
            UnknownNameError: unknown method, setting, positions or place of the bank.
            UnsupportedModelError: the model cannot follow a stream.
        """
        self._recipe = SessionConfig(
            method, budget, positions, chunk, fps, system, text_room, position_limit, bank_on, settings
        )
        adapter = adapter_for(model)
        self._most = self._recipe.chunk_for(adapter)
        self.model, self.processor, self.positions = model, processor, positions
        self._talk = Conversation(processor, system)
        self._inbox = FrameQueue(processor, adapter, self._most, fps)
        self.stream = Stream(
            adapter,
            self._recipe.make_method(),
            self._recipe.cap,
            chunk=self._most,
            compact=positions == "compact",
            position_limit=position_limit,
            text_room=self._recipe.room or 0,
            probes=self._talk.asking,
            bank_on=bank_on,
        )
        self.lock = model_lock(adapter.model)
        self._last_turn: tuple[Mark, dict[str, Any]] | None = None  # where to go back to without it

    @property
    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return self._talk.turns

    def push(self, frames: Any, times: float | Iterable[float] | None = None) -> None:
        """Show frames.

        Args:
            frames: one or any number; PIL images, numpy arrays or torch tensors, (height, width, 3) or colours first.
            times: seconds at which they were shown, moving on from push to push; `fps` after the last by default.

        Raises:
            VideoError: frames or times are not what they should be; none of them is seen then.
            BudgetError: the method cannot work inside the budget.
        """
        with self.lock:
            for arrived in self._inbox.accept(frames, times):
                self._inbox.put(*arrived)
                if self._inbox.full:
                    self.flush()

    def push_video(
        self, path: str | Path, *, fps: float | None = 2.0, start: float | None = None, end: float | None = None
    ) -> None:
        """Show a video file, a group of frames at a time, with a progress bar.

        Its frames follow those pushed before: time goes on from the last one.

        Args:
            path: the video file.
            fps: frames to take per second; every frame when None.
            start, end: the part to show, in seconds.

        Raises:
            VideoError: the file is missing or unreadable, or does not have the frames asked for.
        """
        from rich.progress import track

        total, groups = read_in_groups(path, fps=fps, start=start, end=end)
        offset: float | None = None
        last = self._inbox.last_time
        for video in track(groups, f"watching {Path(path).name}", total, transient=True):
            if offset is None:
                offset = 0.0 if last is None else last + 1 / video.fps - float(video.times[0])
            self.push(video.frames, video.times + offset)

    def flush(self) -> None:
        """Work through the frames that wait."""
        with self.lock:
            if not self._inbox.frames:
                return
            batch = self._inbox.batch()
            with defer_sigint(), self.stream.attached():
                self.stream.feed_frames(batch.inputs, batch.seconds, self._talk.before_frames())
                self._talk.watched()
                self._inbox.clear()
                self._last_turn = None

    def ask(
        self, question: str, *, max_new_tokens: int = 128, keep: bool = True, streamer: Any = None, **generation: Any
    ) -> str:
        """Ask about what was seen so far. Greedy, unless `generation` says otherwise.

        Args:
            question: in plain words.
            max_new_tokens: the longest answer.
            keep: whether question and answer stay in the conversation.
            streamer: a transformers streamer, which is handed the tokens of the answer as they come.
            **generation: more arguments of `model.generate()`.

        Returns:
            The answer.

        Raises:
            BudgetError: a budget of bytes has no room for question and answer.
        """
        with self.lock:
            ids = self.prepare(question, max_new_tokens)
            before = self.stream.mark()
            try:
                with self.stream.attached():
                    reply = self.stream.generate(
                        ids, max_new_tokens=max_new_tokens, streamer=streamer, **{"do_sample": False} | generation
                    )
            except BaseException:
                self.stream.rewind(before)
                raise
            if not keep:
                self.stream.rewind(before)
            return self.finish(question, reply, keep, before)

    def prepare(self, question: str, max_new_tokens: int) -> list[int]:
        """Work through the frames that wait and make room; the token ids of a question and the words around it.

        Raises:
            BudgetError: a budget of bytes has no room for question and answer.
        """
        self.flush()
        ids = self._talk.question(question)
        text = len(ids) + max_new_tokens
        if self._recipe.room is not None and text > (room := self.stream.text_left()):
            raise BudgetError(
                f"Question and answer may take {text} tokens, and the budget has room for {room}: ask for a shorter "
                f"answer (max_new_tokens), push frames before more questions, or raise text_room={self._recipe.room}."
            )
        self.stream.make_room(text)
        return ids

    def finish(self, question: str, reply: list[int], keep: bool, before: Mark) -> str:
        """The answer in words, noted down if it is to be kept.

        Args:
            question, reply: as asked, and the answer's token ids.
            keep: whether they stay in the conversation.
            before: where the stream was before the question.
        """
        if not keep:
            return self._talk.text(reply)
        self._last_turn = before, self._talk.facts
        return self._talk.answered(question, reply)

    def take_back(self) -> None:
        """Forget the last question and its answer.

        Raises:
            CacheError: there are none, or frames were seen since.
        """
        with self.lock:
            if self._last_turn is None:
                raise CacheError("There is no question to take back, or frames were seen since it was asked.")
            before, talk = self._last_turn
            self.stream.rewind(before)
            self._talk.restore(talk)
            self._last_turn = None

    def stream_answer(self, question: str, **options: Any) -> Iterator[str]:
        """As `ask`, but the answer comes piece by piece while it is made.

        Closing the iterator early stops the answer, which then leaves no trace.
        """
        return stream_answer(self, self.processor.tokenizer, question, **options)

    def fork(self) -> VideoSession:
        """A copy that goes its own way: what it sees and is asked leaves no trace here."""
        return VideoSession.restore(self.snapshot(), self.model, self.processor)

    def snapshot(self) -> Snapshot:
        """Everything that the session is, copied: on the cache's device, or on the CPU where it has a bank elsewhere.

        Raises:
            CacheError: a push failed halfway.
        """
        with self.lock:
            stream, inbox = take_stream(self.stream), self._inbox.snapshot()
            facts = {
                "recipe": self._recipe.facts | {"chunk": self._most},
                "stream": stream.facts,
                "talk": self._talk.facts,
            }
            return Snapshot(stream.tensors | inbox.tensors, facts | {"inbox": inbox.facts})

    @classmethod
    def restore(
        cls, snapshot: Snapshot, model: Any, processor: Any, method: str | Compressor | None = None
    ) -> VideoSession:
        """A session as it was when its snapshot was taken.

        Args:
            snapshot: of a session on the same model; on any device.
            model, processor: the same, in this process.
            method: in place of the one that it was made with.
        """
        facts = snapshot.facts
        session = cls(model, processor, **(facts["recipe"] | ({"method": method} if method else {})))
        put_stream(session.stream, Snapshot(snapshot.tensors, facts["stream"]))
        session._inbox.restore(Snapshot(snapshot.tensors, facts["inbox"]))
        session._talk.restore(facts["talk"])
        return session

    def save(self, path: str | Path) -> None:
        """Write the session to a file, whole or not at all.

        Raises:
            CacheError: the method was given as an instance, which no file can hold.
        """
        write_snapshot(Path(path), self.snapshot(), self.model)

    @classmethod
    def load(cls, path: str | Path, model: Any, processor: Any) -> VideoSession:
        """The session in a file.

        Raises:
            CacheError: there is none, it is damaged, or it was made with another model.
        """
        return cls.restore(read_snapshot(Path(path), model), model, processor)

    @property
    def stats(self) -> SessionStats:
        """The session as it is now."""
        return measured(self.stream, self._inbox)
