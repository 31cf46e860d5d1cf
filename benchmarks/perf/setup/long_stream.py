"""A session on a long stream, measured at several lengths for `stream` and `answer`.

A frame is one temporal step of the model: two pictures, half a second apart. They are noise, a few in rotation: time
and memory do not depend on their content.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import kvpress_video as kv
from kvpress_video.utils.timing import DeviceTimer

from .scales import Bed
from .timing import interleaved, wait

METHOD = "infinipot-v"
QUESTION = "what is in view now?"
PARTS = ("processor", "vision tower", "text model", "compression")
_ROTATION = 8  # frames
_UNCOUNTED = {  # by torch, without a formula of ours
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3])
}
_SECONDS = 60


@dataclass(frozen=True)
class Point:
    """A stream at one of its lengths.

    Attributes:
        minutes: length of the stream so far, 60 frames each.
        frames, seconds: frames since the point before, and seconds of pushing them.
        parts: seconds so far by the names in `PARTS`, and `"all"`.
        stats: the session's statistics.
        resident: resident memory of the process, in bytes.
        allocated: peak memory of torch on the GPU since the stream began, weights left out, in bytes; 0 on a CPU.
        first_token: seconds from a question to the first token of its answer (median).
    """

    minutes: int
    frames: int
    seconds: float
    parts: dict[str, float]
    stats: kv.SessionStats
    resident: int
    allocated: int
    first_token: float


class LongStream:
    """A stream of a scale's sizes, continued on demand.

    Attributes:
        bed: device, scale and model.
        points: the lengths reached so far.
        chunk: frames of one chunk.
        layers: number of layers whose caches are compressed.
        entry_bytes: bytes of keys and values of an entry in one layer, all heads.
        token_bytes: bytes of the weights read for every token of an answer.
        question: tokens of a question, chat template included.
        operations: multiplications and additions, each counted, per frame while the budget is full.
    """

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.points: list[Point] = []
        self.question = 0
        model, processor = bed.model()
        self._weights = torch.cuda.memory_allocated(bed.device) if bed.device.type == "cuda" else 0
        self._frames = noise(bed, model.config.vision_config, _ROTATION)
        self._session: Any = kv.VideoSession(model, processor, METHOD, bed.scale.budget)
        adapter = self._session.stream.adapter
        config = adapter.text_model.config
        self.chunk = chunk_of(bed)
        self.layers = len(adapter.attentions)
        self.entry_bytes = 2 * config.num_key_value_heads * adapter.head_dim * bed.scale.dtype.itemsize
        self.token_bytes = sum(map(_bytes, (adapter.text_model.layers, adapter.text_model.norm, model.lm_head)))
        self.operations = self._warm_up()
        self._session = kv.VideoSession(model, processor, METHOD, bed.scale.budget)
        self._spent = _Spent(self._session, bed.device)
        self._pushed, self._seconds = 0, 0.0
        gc.collect()
        if bed.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bed.device)

    def until(self, minutes: int) -> Point:
        """Continue to one of the scale's lengths; model and session are freed at the longest."""
        for length in self.bed.scale.minutes[len(self.points) :]:
            if length > minutes:
                break
            self.points.append(self._go_on(length))
        if len(self.points) == len(self.bed.scale.minutes) and hasattr(self, "_session"):
            del self._session, self._spent, self._frames
            gc.collect()
        return next(point for point in self.points if point.minutes == minutes)

    def _push(self, frames: int, first: int = 0) -> None:
        for number in range(first, first + frames):
            self._session.push(self._frames[number % _ROTATION])
        self._session.flush()

    def _warm_up(self) -> float:
        """Fill a session's budget, ask it, and count the operations per frame after that."""
        rows, columns = self.bed.scale.patches
        self._push(self.bed.scale.budget // (rows * columns) + 1)
        self._first_token()
        with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            self._push(self.chunk)
        return counter.get_total_flops() / self.chunk

    def _go_on(self, minutes: int) -> Point:
        frames, device = _SECONDS * minutes - self._pushed, self.bed.device
        wait(device)
        started = time.perf_counter()
        self._push(frames, self._pushed)
        wait(device)
        seconds = time.perf_counter() - started
        self._pushed, self._seconds = self._pushed + frames, self._seconds + seconds
        gc.collect()
        resident = psutil.Process().memory_info().rss
        allocated = torch.cuda.max_memory_allocated(device) - self._weights if device.type == "cuda" else 0
        parts = {**self._spent.so_far(), "all": self._seconds}
        stats = self._session.stats
        first_token = median(interleaved({"ask": self._first_token}, self.bed.scale.rounds)["ask"])
        self._spent.forget()
        return Point(minutes, frames, seconds, parts, stats, resident, allocated, first_token)

    def _first_token(self) -> float:
        """Seconds from a question to the first token of its answer; the session is left as it was."""
        listener = _Listener()
        wait(self.bed.device)
        asked = time.perf_counter()
        self._session.ask(QUESTION, max_new_tokens=1, keep=False, streamer=listener)
        self.question = listener.heard[0][1]
        return listener.heard[1][0] - asked


@lru_cache(maxsize=1)
def long_stream(bed: Bed) -> LongStream:
    """The stream of a bed, shared by the cases."""
    return LongStream(bed)


class _Listener:
    """A streamer that records arrival times and numbers of tokens, those of the question first."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, int]] = []

    def put(self, tokens: Any) -> None:
        self.heard.append((time.perf_counter(), tokens.numel()))

    def end(self) -> None:
        pass


class _Spent:
    """Seconds of a session's pushes by part: CUDA events on a GPU, elapsed time for the processor and on a CPU."""

    def __init__(self, session: kv.VideoSession, device: torch.device) -> None:
        self._watches = {
            "processor": DeviceTimer(torch.device("cpu")),
            **{name: DeviceTimer(device) for name in PARTS[1:3]},
        }
        compressing: Any = session.stream._hooks.timer
        compressing.clear = lambda: None  # taken at the end, not after every pass
        self._compressing = compressing
        adapter, processor = session.stream.adapter, session.processor
        processor.video_processor = self._timed("processor", processor.video_processor)
        adapter.inner.visual.forward = self._timed("vision tower", adapter.inner.visual.forward)
        adapter.text_model.forward = self._timed("text model", adapter.text_model.forward)
        self._so_far = dict.fromkeys(PARTS, 0.0)

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._watches[name].timing(name):
                return call(*args, **kwargs)

        return run

    def forget(self) -> None:
        """Discard the time since `so_far`."""
        for watch in (*self._watches.values(), self._compressing):
            DeviceTimer.clear(watch)

    def so_far(self) -> dict[str, float]:
        """Seconds by part."""
        for name, watch in self._watches.items():
            self._so_far[name] += watch.take(name)
        compressing = self._compressing.take("compress")
        self._so_far["compression"] += compressing
        self._so_far["text model"] -= compressing  # it runs inside the text model
        return dict(self._so_far)


def chunk_of(bed: Bed) -> int:
    """Frames of one chunk of a session: those that fit into a third of its budget."""
    rows, columns = bed.scale.patches
    return max(1, bed.scale.budget // 3 // (rows * columns))


def noise(bed: Bed, vision: Any, frames: int) -> Any:
    """Frames of a stream, (frames, 2, height, width, 3) uint8."""
    rows, columns = (side * vision.spatial_merge_size * vision.patch_size for side in bed.scale.patches)
    shape = (frames, vision.temporal_patch_size, rows, columns, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _bytes(module: nn.Module) -> int:
    return sum(part.nbytes for part in module.parameters())
