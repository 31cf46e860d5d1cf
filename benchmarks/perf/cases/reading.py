"""Video reading: `read_video` and `read_in_groups`, compared with decord and plain PyAV on one generated file.

Frames are sampled evenly over the video, and streamed from first to last. Memory is that of a separate process, which
reads the first frames and then waits. decord takes part if it is installed.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

import kvpress_video as kv
from kvpress_video.video import read_in_groups

from ..results.measurement import Figure, Goal
from ..setup.scales import Bed
from ..setup.timing import BusyClock, WallClock, interleaved, measured

SAMPLED, GROUP = 64, 32
OURS, DECORD, PYAV = "read_video", "decord", "PyAV"
_WIDTH, _HEIGHT, _FPS = 768, 576, 25
_BLOCK = 16  # pixels that share a colour
_IDLE_SECONDS = 3.0
_ROUNDS = 3  # at most: a stream takes seconds


class Reader(NamedTuple):
    """A reader to compare.

    Attributes:
        sample: reads `SAMPLED` evenly spaced frames of a file, (n, height, width, 3); takes its path and frame count.
        stream: reads every frame in order, `GROUP` at a time; takes the same.
    """

    sample: Callable[[Path, int], Any]
    stream: Callable[[Path, int], Iterator[Any]]


class Spent(NamedTuple):
    """Seconds elapsed, and seconds of CPU time over all threads."""

    seconds: float
    cpu_seconds: float


def _ours_sample(path: Path, count: int) -> Any:
    return kv.read_video(path, frames=SAMPLED).frames


def _ours_stream(path: Path, count: int) -> Iterator[Any]:
    return (video.frames for video in read_in_groups(path, size=GROUP)[1])


def _decord_sample(path: Path, count: int) -> Any:
    from decord import VideoReader

    return VideoReader(str(path)).get_batch(_spaced(count)).asnumpy()


def _decord_stream(path: Path, count: int) -> Iterator[Any]:
    from decord import VideoReader

    reader = VideoReader(str(path))
    for start in range(0, count, GROUP):
        yield reader.get_batch(range(start, min(start + GROUP, count))).asnumpy()


def _pyav_sample(path: Path, count: int) -> Any:
    wanted = set(_spaced(count))
    return np.stack([frame.to_ndarray(format="rgb24") for i, frame in enumerate(_decoded(path)) if i in wanted])


def _pyav_stream(path: Path, count: int) -> Iterator[Any]:
    frames = (frame.to_ndarray(format="rgb24") for frame in _decoded(path))
    while group := list(islice(frames, GROUP)):
        yield np.stack(group)


READERS = {
    OURS: Reader(_ours_sample, _ours_stream),
    DECORD: Reader(_decord_sample, _decord_stream),
    PYAV: Reader(_pyav_sample, _pyav_stream),
}


def run(bed: Bed) -> Iterator[Figure]:
    """Measure time and idle memory of each reader."""
    readers = {name: reader for name, reader in READERS.items() if name != DECORD or importlib.util.find_spec(DECORD)}
    count = bed.scale.video_seconds * _FPS
    rounds = min(bed.scale.rounds, _ROUNDS)
    raw = {"frames": count, "width": _WIDTH, "height": _HEIGHT, "fps": _FPS, "rounds": rounds, "av": version("av")}
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "video.mp4", count)
        for what, read, warm_up in (("sample 64 frames", _sample, 1), ("stream every frame", _stream, 0)):
            works = {name: partial(_timed, partial(read, reader, path, count), bed) for name, reader in readers.items()}
            yield from _times(what, interleaved(works, rounds, warm_up), raw)
        for name in readers:
            growth = idle_growth(name, path, count)
            yield Figure(
                "reading", f"{name}, {count:,} frames", f"memory growth in {_IDLE_SECONDS:g} s after the first frames",
                growth / 2**20, "MiB", Goal(8) if name == OURS else None, raw={**raw, "bytes": growth},
            )  # fmt: skip


def _times(what: str, spent: Mapping[str, list[Spent]], raw: Mapping[str, Any]) -> Iterator[Figure]:
    for name, taken in spent.items():
        case = f"{name}, {raw['frames']:,} frames"
        known = {**raw, "seconds": [one.seconds for one in taken], "cpu_seconds": [one.cpu_seconds for one in taken]}
        yield Figure("reading", case, f"time to {what}", median(known["seconds"]), "s", raw=known)
        if name == DECORD or DECORD not in spent:
            continue
        pairs = list(zip(taken, spent[DECORD], strict=True))
        yield Figure(
            "reading", case, f"time to {what} ÷ decord's", median(one.seconds / other.seconds for one, other in pairs),
            "×", Goal(1) if name == OURS else None, raw=known,
        )  # fmt: skip
        yield Figure(
            "reading", case, f"CPU time to {what} ÷ decord's",
            median(one.cpu_seconds / other.cpu_seconds for one, other in pairs), "×", raw=known,
        )  # fmt: skip


def _timed(work: Callable[[], Any], bed: Bed) -> Spent:
    cpu = BusyClock(torch.device("cpu"))
    cpu.start()
    elapsed = measured(work, WallClock(bed.device))
    return Spent(elapsed, cpu.stop())


def _sample(reader: Reader, path: Path, count: int) -> None:
    reader.sample(path, count)


def _stream(reader: Reader, path: Path, count: int) -> None:
    for _ in reader.stream(path, count):
        pass


def idle_growth(name: str, path: Path, count: int) -> int:
    """Return the memory growth of a process that reads the first frames and then waits, in bytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_idle, name, path, count).result()


def _idle(name: str, path: Path, count: int) -> int:
    process, groups = psutil.Process(), READERS[name].stream(path, count)
    next(groups)
    before = process.memory_info().rss
    time.sleep(_IDLE_SECONDS)
    return int(process.memory_info().rss - before)


def _spaced(count: int) -> list[int]:
    taken = min(SAMPLED, count)
    return [number * count // taken for number in range(taken)]


def _decoded(path: Path) -> Iterator[Any]:
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        yield from file.decode(stream)


def write_video(path: Path, count: int) -> Path:
    """Write an H.264 file of a camera panning over coloured blocks."""
    import av

    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (2 * _HEIGHT // _BLOCK, 2 * _WIDTH // _BLOCK, 3), dtype=np.uint8)
    scene = blocks.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=_FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for number in range(count):
            top, left = _pan(number, _HEIGHT), _pan(2 * number, _WIDTH)
            picture = np.ascontiguousarray(scene[top : top + _HEIGHT, left : left + _WIDTH])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def _pan(step: int, span: int) -> int:
    """Return the position of a camera that moves back and forth over `span` pixels."""
    return span - abs(step % (2 * span) - span)
