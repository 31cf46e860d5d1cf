"""Video sessions: push frames and ask questions at any time, inside one fixed budget.

This file holds one class, the public interface of sessions; most of it is documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..budget import BudgetLike
from ..cache.quantization import QuantizeLike
from ..cache.uneven_layer import refuse_uneven
from ..compressor.base import Compressor
from ..compressor.registry import name_of
from ..models import adapter_for
from ..prefill.options import Labels, Positions
from ..self_check.check import ensure_checked
from ..utils.concurrency import defer_sigint, model_lock
from ..utils.formatting import plural
from ..utils.questions import check_new_tokens, check_question
from ..video.reader import VideoSource, read_in_groups
from .answer_stream import stream_answer
from .config import SessionConfig
from .conversation import Conversation, Turn
from .dialogue import Asking, Dialogue
from .frame_queue import FrameQueue
from .state import SessionState, Snapshot, put_stream, take_stream
from .stats import SessionStats, measure
from .stream import Mark, Stream
from .turn_eviction import KeepTurns


class VideoSession:
    """A video stream and a conversation about it.

        session = kv.VideoSession(model, processor, "infinipot-v", budget=6144)
        session.push(frames, times)
        session.ask("What did she put down?")

    Frames are prefilled a chunk at a time, and the cache is compressed after each chunk; frames are queued until they
    fill a chunk or a question is asked. Questions and answers stay in the conversation and never count as visual
    entries. Sessions on one model can be used from several threads, which take turns.

    Attributes:
        model: the model.
        processor: its processor.
        positions: as given.
        stream: the cache with its positions.
        dialogue: the conversation.
        lock: the model's lock, held while the session runs the model.
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
        labels: Labels = "spread",
        keep_turns: KeepTurns = "all",
        quantize: QuantizeLike = None,
        experts: int | None = None,
        **settings: Any,
    ) -> None:
        """Start an empty session.

        Args:
            model, processor: result of `from_pretrained`.
            method: a method's name, `"name:setting=value,…"`, or an instance.
            budget: `6144` (visual entries per layer and KV head; text is kept in addition) or `"256MiB"` (the whole
                cache at any moment, with text and the chunk in work). Only `"full"`, which grows without bound, needs
                none.
            positions: `"compact"` rescales the time of earlier frames whenever positions run out; `"keep"` leaves
                every position as it was.
            chunk: visual tokens per prefill, rounded down to whole frames; by default a third of the entries that the
                budget leaves a layer for frames.
            fps: frames per second if `push` gets no times.
            system: system message.
            text_room: additional text entries for which a budget in bytes reserves room.
            position_limit: positions the model was trained for; `max_position_embeddings` by default.
            bank_on: where keys and values of the bank are stored: on the model's `"device"`, on the `"cpu"` or on
                `"disk"` (temporary files). The bank is all that went through compression or, for `detachable`, what is
                outside its window. Answers are the same.
            labels: treatment of the text that the processor writes for each frame, as in `compress`: `"spread"` and
                `"drop"` count it in the budget, with `"keep"` it grows in addition.
            keep_turns: number of questions with their answers that stay in the cache after the newest is answered;
                older ones are evicted whole, the oldest first. `"all"` keeps all, under a budget in bytes as long as
                the next question fits. The opening of the conversation is never evicted.
            quantize: bits of cached keys and values, as in `compress`; needs `positions="keep"` and a bank on the
                device.
            experts: in a mixture of experts, how many of the experts chosen for a visual token process it, as in
                `compress`.
            **settings: settings of the method.

        Raises:
            BudgetError: there is no budget, it caps nothing, or a number is out of range, `experts` included.
            UnknownNameError: unknown method, setting, `positions` or `bank_on`.
            UnsupportedModelError: the model does not support streams, or its cache cannot be quantised.
            CacheError: `quantize` cannot be read, or is incompatible with `positions` or `bank_on`.
        """
        ensure_checked(model)
        adapter = adapter_for(model)
        self._config = SessionConfig(
            method,
            budget,
            positions,
            chunk,
            fps,
            system,
            text_room,
            position_limit,
            bank_on,
            labels,
            keep_turns,
            quantize,
            experts,
            settings,
        ).resolved(adapter)
        tokens = self._config.chunk_for(adapter)
        self.model, self.processor, self.positions = model, processor, positions
        self._conversation = Conversation(processor, system, adapter)
        self._queue = FrameQueue(processor, adapter, tokens, fps, self._conversation.label_tokens)
        self.stream = Stream(
            adapter,
            self._config.make_method(),
            self._config.cap,
            chunk=tokens,
            compact=positions == "compact",
            position_limit=position_limit,
            text_room=self._config.reserved_text or 0,
            opening=self._conversation.reopening_tokens,
            label_tokens=(self._conversation.label_tokens, self._conversation.longest_label),
            probes=self._conversation.asking,
            storage=self._config.storage,
            labels=labels,
            experts=experts,
        )
        self.lock = model_lock(adapter.model)
        self.dialogue = Dialogue(self.stream, self._conversation, keep_turns, self._config.reserved_text)

    def __repr__(self) -> str:
        frames, seconds = self._queue.state.count, self._queue.state.last_time
        end = "" if seconds is None else f" up to {seconds:.1f} s"
        return (
            f"<VideoSession on {type(self.model).__name__}: {name_of(self._config.method)} at {self._config.cap}, "
            f"{plural(frames, 'frame')}{end}, {plural(len(self.turns), 'turn')}>"
        )

    @property
    def turns(self) -> list[Turn]:
        """Questions and answers in the cache, oldest first."""
        return self._conversation.turns

    @property
    def savable(self) -> bool:
        """Whether a file can hold the session: not if heads keep different numbers of entries, frames are archived, or
        the newest ones are re-encoded.
        """
        method = self._config.make_method()
        return not (method.uneven or method.recall_share or method.fresh)

    def push(self, frames: Any, times: float | Iterable[float] | None = None) -> None:
        """Append frames.

        Args:
            frames: one or several; PIL images, numpy arrays or torch tensors, (height, width, 3) or channels first.
            times: times of the frames in seconds, within ±1e10, ascending across pushes; by default 1/`fps` apart.

        Raises:
            VideoError: frames or times are invalid; none is appended.
            BudgetError: the method does not support the budget.
        """
        with self.lock:
            for accepted in self._queue.accept(frames, times):
                if self._queue.full:  # an earlier push failed
                    self.flush()
                self._queue.put(accepted)
                if self._queue.full:
                    self.flush()

    def push_video(
        self, path: VideoSource, *, fps: float | None = 2.0, start: float | None = None, end: float | None = None
    ) -> None:
        """Append the frames of a video file, at times that continue from the last frame.

        They are decoded on demand, no larger than the processor can use, unless larger ones were pushed before.

        Args:
            path: the video file, as in `read_video`.
            fps: frames to sample per second; all frames when None.
            start, end: the part of the file, in seconds.

        Raises:
            VideoError: the file is missing or unreadable, or does not have the frames asked for.
        """
        from rich.console import Console
        from rich.progress import track

        console, title = Console(stderr=True), f"watching {getattr(path, 'name', path)!s:.60}"

        total, groups = read_in_groups(path, fps=fps, start=start, end=end, max_pixels=self._queue.max_pixels)
        offset: float | None = None
        last = self._queue.state.last_time
        with closing(groups):
            for video in track(groups, title, total, console=console, transient=True, disable=not console.is_terminal):
                if offset is None:
                    offset = 0.0 if last is None else last + 1 / video.fps - float(video.times[0])
                self.push(video.frames, video.times + offset)

    def flush(self) -> None:
        """Prefill the queued frames."""
        with self.lock:
            if not self._queue.frames:
                return
            batch = self._queue.batch()
            with defer_sigint(), self.stream.attached(), self.dialogue.undoing() as undo:
                self.dialogue.make_room_for_frames(undo)
                before, labels = self._conversation.frames(batch.seconds, self.stream.timeline.frames)
                start = self.stream.layers[0].logical
                self.stream.feed_frames(batch.inputs, batch.seconds, before, labels)
                self._conversation.watched(before, start)
                self._queue.clear()
                self.stream.remembered = None

    def ask(
        self, question: str, *, max_new_tokens: int = 128, keep: bool = True, streamer: Any = None, **generation: Any
    ) -> str:
        """Ask about the frames so far; a failed or interrupted answer leaves the session as it was.

        Args:
            question: plain text.
            max_new_tokens: upper limit of the answer's length.
            keep: whether question and answer stay in the conversation.
            streamer: a transformers streamer, which receives the answer's tokens as they are generated.
            **generation: further arguments of `model.generate()`; greedy by default.

        Raises:
            BudgetError: the turn does not fit into a budget in bytes, or `max_new_tokens` is not a positive integer.
            QuestionError: the question is not a string, or contains a special token of the model.
        """
        with self.lock, self.answering(question, max_new_tokens) as asking:
            with self.stream.attached():
                self.stream.end_video()
                reply = self.stream.generate(
                    asking.asked.ids,
                    max_new_tokens=max_new_tokens,
                    streamer=streamer,
                    **{"do_sample": False} | generation,
                )
            if not self.dialogue.keeps(keep):
                self.stream.rewind(asking.before)
            return self.dialogue.finish(question, reply, keep, asking)

    @contextmanager
    def answering(self, question: str, max_new_tokens: int) -> Iterator[Asking]:
        """Context manager that flushes queued frames and makes room for a question.

        After an error or Ctrl-C, the session is restored, evicted turns included.

        Raises:
            BudgetError: as in `ask`.
            QuestionError: as in `ask`.
        """
        check_new_tokens(max_new_tokens)
        check_question(self.processor, question)
        self.flush()
        with self.dialogue.asking(question, max_new_tokens) as asking, self.stream.answering(asking.asked.ids):
            yield asking

    def take_back(self) -> None:
        """Remove the last question and its answer.

        Raises:
            CacheError: there is none, frames followed it, or a push failed halfway.
        """
        with self.lock:
            self.dialogue.take_back()

    def stream_answer(self, question: str, **options: Any) -> Iterator[str]:
        """Ask as in `ask`, and yield the answer piece by piece while it is generated.

        Closing the iterator early stops the answer and leaves no trace, unless the answer was complete and another
        thread has pushed or asked since.
        """
        options["keep"] = self.dialogue.keeps(options.get("keep", True))
        return stream_answer(self._asked_at, self._take_back_from, self.processor.tokenizer, question, **options)

    def _asked_at(self, question: str, **options: Any) -> Mark | None:
        """Ask as in `ask`, and return the mark for taking the turn back."""
        with self.lock:
            self.ask(question, **options)
            return self.stream.remembered

    def _take_back_from(self, mark: Mark | None) -> None:
        """Take back the last turn if it began at a mark and is still the last."""
        with self.lock:
            if mark is not None and self.stream.remembered is mark:
                self.take_back()

    def planned_bytes(self, height: int, width: int) -> int:
        """Compute the memory for frames of this size: the reserved buffers of the cache, and a chunk of queued frames.

        Raises:
            VideoError: the vision tower does not support frames of this size.
        """
        frame = np.zeros((height, width, 3), np.uint8)
        return self.stream.planned_bytes + self._queue.frames_per_chunk(frame) * frame.nbytes

    def fork(self) -> VideoSession:
        """Return an independent copy of the session."""
        return VideoSession.restore(self.snapshot(), self.model, self.processor)

    def snapshot(self) -> Snapshot:
        """Copy all state: on the cache's device, or on the CPU if layers are offloaded.

        Raises:
            CacheError: a push failed halfway.
        """
        with self.lock:
            stream, tensors = take_stream(self.stream)
            state = SessionState(self._config, stream, self._conversation.state, self._queue.state)
            return Snapshot(tensors | self._queue.tensors(), state)

    def snapshot_for_file(self) -> Snapshot:
        """Copy all state as `snapshot` does, for `write_snapshot`, which another thread may call.

        Raises:
            CacheError: a push failed halfway, or the heads keep different numbers of entries.
        """
        refuse_uneven(self.stream.layers[0], "A session file")
        return self.snapshot()

    @classmethod
    def restore(
        cls, snapshot: Snapshot, model: Any, processor: Any, method: str | Compressor | None = None
    ) -> VideoSession:
        """Create a session from a snapshot.

        Args:
            snapshot: snapshot of a session on the same model; on any device.
            model, processor: the same model and processor, in this process.
            method: replaces the snapshot's method.
        """
        state = snapshot.state
        session = cls(model, processor, **(state.config.arguments | ({"method": method} if method else {})))
        put_stream(session.stream, state.stream, snapshot.tensors)
        session._queue.restore(state.queue, snapshot.tensors)
        session._conversation.state = state.conversation
        return session

    def save(self, path: str | Path) -> None:
        """Write the session to a file atomically; a new file is readable by its owner only.

        Raises:
            CacheError: the method was given as an instance, which cannot be saved, its heads keep different numbers of
                entries, or the file cannot be written.
        """
        from .checkpoint import write_snapshot

        write_snapshot(Path(path), self.snapshot_for_file(), self.model)

    @classmethod
    def load(cls, path: str | Path, model: Any, processor: Any) -> VideoSession:
        """Read a session from a file.

        Raises:
            CacheError: the file is missing, damaged, inconsistent, too large for the memory, or of another model.
            UnknownNameError: its method or a setting is not installed.
        """
        from .checkpoint import naming, read_snapshot

        snapshot = read_snapshot(Path(path), model)
        with naming(Path(path)):
            return cls.restore(snapshot, model, processor)

    @property
    def stats(self) -> SessionStats:
        """Return statistics of the session."""
        return measure(self.stream, self._queue, self._conversation.state.evicted)
