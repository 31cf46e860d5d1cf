"""Upper bounds on the memory of sessions and requests, computed before they start."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from ...budget import Budget
from ...compressor.base import deferred
from ...compressor.registry import make_method
from ...models import adapter_for
from ...models.base import Adapter
from ...models.devices import device_of
from ...prefill.options import usual_chunk
from ...streaming.session import VideoSession
from .failures import RequestError
from .media import MediaLimits
from .settings import ServerSettings

_GROWTH = 9 / 8  # an outgrown buffer is replaced by one an eighth larger than needed
_LEAST_GROWTH = 64
_SPARE_TEXT = 64  # markup around one message
_LEAST_ROOM = 9  # 512 entries
_FREE_SHARE = 0.5
_PIXEL_FORMS = 5  # bytes per uint8 value and its float32 copy in the processor
_LEAST_PATCH = 14


@dataclass(frozen=True)
class MemoryPlan:
    """Memory bounds for one model under one budget.

    Weights are counted, activations of the current pass are not.

    Attributes:
        adapter: adapter of the model.
        method, budget, chunk: those of completions.
        limits: limits on media.
        session_text: text entries that a session may hold.
    """

    adapter: Adapter
    method: str
    budget: Budget
    limits: MediaLimits
    session_text: int
    chunk: int | None = None

    @classmethod
    def of(cls, model: Any, settings: ServerSettings, limits: MediaLimits) -> MemoryPlan:
        """Create the plan for a loaded model."""
        budget = Budget.parse(settings.budget)
        return cls(adapter_for(model), settings.method, budget, limits, settings.session_text, settings.chunk)

    @property
    def weights(self) -> int:
        """Bytes of the model's parameters and buffers."""
        model = self.adapter.model
        return sum(part.nbytes for group in (model.parameters(), model.buffers()) for part in group)

    def _entries(self, count: int, compact: bool) -> int:
        """Bytes of `count` entries in each layer, with grown buffers, one of which is being moved."""
        layers, entry = len(self.adapter.attentions), self.adapter.entry_bytes(compact)
        room = math.ceil(count * _GROWTH) + _LEAST_GROWTH
        return (layers + 1) * room * entry

    @property
    def _chunk(self) -> int:
        """Maximum number of visual tokens in work: a chunk, or a frame if that is larger."""
        asked = self.chunk or usual_chunk(self.budget, self.adapter, False)
        return max(asked, self.limits.kept // _LEAST_PATCH**2)

    def cache(self, text: int, new: int, shows: bool) -> int:
        """Maximum bytes of the cache of one completion.

        Args:
            text: tokens of its text.
            new: tokens of its answer.
            shows: whether it contains videos or pictures.
        """
        fixed = self.adapter.uncompressed_bytes(text + new)
        if not shows:
            return fixed + self._entries(text + new + _SPARE_TEXT, False)
        if self.budget.unit == "bytes":
            return fixed + int(self.budget.amount) + self._entries(new, False)
        layers = len(self.adapter.attentions) if deferred(make_method(self.method)) else 1
        work = layers * self._chunk * self.adapter.entry_bytes(False)
        return fixed + work + self._entries(int(self.budget.amount) + text + new + _SPARE_TEXT, False)

    def media(self, videos: int, pictures: int) -> int:
        """Maximum bytes of a request's media, before they are decoded."""
        video = self.limits.size + _PIXEL_FORMS * self.limits.frames_bytes
        picture = self.limits.size + _PIXEL_FORMS * 3 * self.limits.kept
        return videos * video + pictures * picture

    @property
    def pushed_video(self) -> int:
        """Maximum bytes of a video pushed into a session, which is processed one chunk at a time."""
        return self.limits.size + self.limits.frames_bytes

    def decoded(self, size: int) -> int:
        """Bytes of decoded media, including the processor's output.

        Args:
            size: bytes of their pixels.
        """
        return _PIXEL_FORMS * size

    def session(self, session: VideoSession) -> int:
        """Maximum bytes of a session: cache, text, and queued frames of the largest size."""
        side = math.isqrt(self.limits.kept)
        text = self._entries(self.session_text, session.positions == "compact")
        return session.planned_bytes(side, side) + self.adapter.uncompressed_bytes(self.session_text) + text

    def check_text(self, session: VideoSession, new: int) -> None:
        """Check that a session's text stays within its memory.

        Args:
            session: session about to be asked.
            new: tokens of question and answer.

        Raises:
            RequestError: the text would exceed it.
        """
        held = session.stats.text_entries
        if held + new > self.session_text:
            raise RequestError(
                409,
                f"The session holds {held} text entries, and question and answer may take {new} of at most "
                f"{self.session_text}: ask with keep=false, open sessions with keep_turns, or allow more "
                "(--session-text).",
                code="conversation_full",
            )


def room_for(text: int) -> int:
    """Round a number of text entries up to a power of two, so that rows of a batch reserve the same number."""
    return 1 << max(_LEAST_ROOM, (text - 1).bit_length())


def free_memory(model: Any) -> int:
    """Return the memory of a server without `--memory`: the weights and half of the free memory on their device."""
    weights = sum(part.nbytes for group in (model.parameters(), model.buffers()) for part in group)
    device = device_of(model)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return weights + int(_FREE_SHARE * free)
