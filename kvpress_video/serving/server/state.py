"""The components of a running server."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import BudgetError
from ...streaming.session import VideoSession
from ...utils.formatting import format_bytes
from ...video.resolution import frame_pixels
from .admission import Admission
from .completion_queue import CompletionQueue
from .completions import Completions
from .downloads import Downloads
from .failures import RequestError
from .live_sources import LiveSources
from .media import MediaReader
from .membership import Membership
from .memory import MemoryPlan, free_memory
from .metrics import Metrics
from .openai_schema import usage
from .questions import Asker
from .replies import Reply, end_tokens
from .served_session import ServedSession
from .session_files import SessionFiles
from .session_schema import lost
from .sessions import Sessions
from .settings import ServerSettings
from .usable_methods import UsableMethods
from .worker import Worker

_USUAL_TOKENS = 256
_LONGEST_TEXT = 1 << 18


class Server:
    """A loaded model and the components that serve it.

    Attributes:
        name: name of the model for clients.
        settings: settings from the command line.
        tokenizer, ends: decode answers, and end them.
        plan, admission: compute and reserve memory.
        worker: runs the model.
        media, downloads: read the media of requests.
        completions, completion_queue, sessions, asker: answer requests.
        sources: read the live streams of sessions.
        methods: methods that sessions can use.
        metrics: metrics for Prometheus.
        memory, session_bytes: bytes in total, and of a session with default settings.
    """

    def __init__(self, name: str, model: Any, processor: Any, settings: ServerSettings) -> None:
        """Create all components, without listening yet.

        Raises:
            BudgetError: the memory does not hold the weights and one session.
            UnsupportedModelError: the model does not support the method.
        """
        self.name, self.settings = name, settings
        self.model, self.processor = model, processor
        self.tokenizer, self.ends = processor.tokenizer, end_tokens(model)
        self._counter = copy.deepcopy(processor.tokenizer)  # for the event loop; the worker uses the other
        limits = replace(
            settings.limits, kept=min(settings.limits.kept, frame_pixels(processor) or settings.limits.kept)
        )
        self.plan = MemoryPlan.of(model, settings, limits)
        self.completions = Completions(model, processor, settings.method, settings.budget, settings.chunk)
        self.session_bytes = self.plan.session(VideoSession(model, processor, settings.method, settings.budget))
        self.memory = free_memory(model) if settings.memory is None else settings.memory
        if self.memory < self.plan.weights + self.session_bytes:
            raise BudgetError(
                f"{format_bytes(self.memory)} of memory hold no session: the weights take "
                f"{format_bytes(self.plan.weights)}, and a session up to {format_bytes(self.session_bytes)}. Allow "
                "more (--memory), or lower the budget."
            )
        self.admission = Admission(self.memory - self.plan.weights, settings.queue)
        self.media = MediaReader(limits, settings.hosts, settings.folders)
        self.downloads = Downloads(self.media, settings.queue)
        self.worker = Worker(settings.batch)
        self.completion_queue = CompletionQueue(self.completions, self.worker, settings.batch)
        self._temporary = tempfile.TemporaryDirectory(prefix="kvpress-video-") if settings.sessions is None else None
        folder = Path(self._temporary.name) if self._temporary else settings.sessions or Path()
        files = SessionFiles(folder, settings.shared)
        self.sessions = Sessions(model, processor, self.plan, self.admission, self.worker, files, settings)
        self.asker = Asker(self.plan)
        self.sources = LiveSources(self.sessions, self.media.limits, settings.sources, self.push)
        self.metrics = Metrics()
        self.metrics.watch(self._gauges)
        self._membership = Membership(folder, self.sessions.claims.server, lambda: self.sessions.live)
        self.sessions.opened = self._membership.update
        self._tasks: list[asyncio.Task[None]] = []
        self.methods = UsableMethods(model, processor, settings.budget, self.worker)

    def _gauges(self) -> dict[str, float]:
        return {
            "memory_reserved_bytes": self.admission.used,
            "memory_available_bytes": self.admission.total,
            "sessions_live": self.sessions.live,
            "sessions_detached": self.sessions.count - self.sessions.live,
            "requests_waiting_for_memory": self.admission.waiting,
            "jobs_waiting_for_the_model": self.worker.waiting,
        }

    @property
    def ready(self) -> bool:
        """Whether the server accepts requests."""
        return bool(self._tasks) and self.worker.alive

    @property
    def capacity(self) -> dict[str, int]:
        """Total memory in bytes, and the number of default sessions that fit into it."""
        return {
            "memory": self.memory,
            "weights": self.plan.weights,
            "available": self.admission.total,
            "session": self.session_bytes,
            "sessions": self.admission.total // self.session_bytes,
        }

    async def begin(self) -> None:
        """Accept requests."""
        self.media.begin()
        self._tasks = [asyncio.create_task(self.sessions.detach_idle())]
        if self._temporary is None:
            self._tasks.append(asyncio.create_task(self.sessions.save_changed(self.settings.save_every)))

    async def listens(self, url: str) -> None:
        """Tell the other servers of a shared folder where this one listens."""
        if self.settings.shared:
            await self._membership.join(url)
            self._tasks.append(asyncio.create_task(self._membership.run()))

    def drain(self) -> None:
        """Hand sessions over to the other servers of a shared folder, while requests in flight are finished."""
        if self.settings.shared:
            self._membership.leave()
            self._tasks.append(asyncio.create_task(self._hand_over()))

    async def _hand_over(self) -> None:
        await self.sources.end()  # the next frame of one would bring its session back here
        await self.sessions.hand_over()

    async def end(self) -> None:
        """Finish requests in flight, save sessions, and release all resources."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.sources.end()
        if self._temporary is None:
            await self.sessions.end()
        await asyncio.to_thread(self.worker.end)
        await asyncio.to_thread(self.sessions.close_files)
        self.downloads.close()
        self.media.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def push(self, served: ServedSession, frames: Any, times: list[float] | None) -> dict[str, Any]:
        """Append frames, (n, height, width, 3) uint8, to a session that is in use; count its frames.

        Raises:
            VideoError: their size or times do not follow the frames before them.
        """

        def push() -> dict[str, Any]:
            served.live.push(frames, times)
            served.note()
            stats = served.live.stats
            saved = 0 if served.saved is None else served.saved.frames
            return {"frames": stats.frames, "waiting": stats.waiting, "saved": saved} | lost(served)

        told = await self.sessions.run(served, push)
        self.metrics.pushed(len(frames))
        return told

    def reply(self, limit: int, stops: Sequence[str] = ()) -> Reply:
        """Create an empty answer."""
        return Reply(self.tokenizer, limit, self.ends, stops)

    def count(self, prompt_tokens: int, reply: Reply) -> dict[str, int]:
        """Count a finished answer in the metrics, and return its usage."""
        self.metrics.generated(prompt_tokens, len(reply.tokens), reply.first)
        return usage(prompt_tokens, len(reply.tokens))

    def text_tokens(self, texts: Sequence[str]) -> int:
        """Count the tokens of texts.

        Raises:
            RequestError: they exceed the server's limit.
        """
        length = sum(map(len, texts))
        if length > _LONGEST_TEXT:
            raise RequestError(400, f"Texts have {_LONGEST_TEXT:,} characters at most, {length:,} were sent.")
        return sum(len(self._counter(text, add_special_tokens=False)["input_ids"]) for text in texts)

    def answer_tokens(self, asked: int | None) -> int:
        """Return the token limit of an answer.

        Raises:
            RequestError: the request exceeds the server's limit.
        """
        most = self.settings.max_tokens
        if asked is not None and asked > most:
            raise RequestError(400, f"Answers have {most} tokens at most, {asked} were asked for.", param="max_tokens")
        return min(_USUAL_TOKENS, most) if asked is None else asked
