"""Read a video in a separate process, which a malicious file may crash.

That process runs `serve`. It reads one line of JSON, and the bytes of a video that has no path; it writes one line of
JSON and the frames. Neither side unpickles data of the other.
"""

from __future__ import annotations

import io
import json
import math
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from inspect import signature
from numbers import Real
from pathlib import Path
from threading import TIMEOUT_MAX, Event, Timer
from typing import IO, Any, Protocol

import numpy as np

from ..errors import VideoError
from ..utils.numbers import is_whole
from ..utils.warnings import warn_caller
from .reader import read_video
from .source import Source, VideoSource, find_source
from .video import Video

_HEADER = 64 << 20
"""Maximum length of a line of JSON, in bytes: five million times and some warnings."""

_NEARLY = 64 << 20
_MOST_MEMORY = 1 << 62
_TOO_MUCH = (
    "{} needs more memory to read than allowed: read fewer frames (fps=…, frames=…), scale them down while they are "
    "read (max_pixels=…), or allow more (memory=…)."
)


class ReadingProcess(Protocol):
    """The part of `subprocess.Popen` that reading one video needs."""

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def kill(self) -> None:
        """Kill the process; do nothing if it has ended."""

    def wait(self) -> int:
        """Wait for the end of the process, and return the exit status, negative for a signal."""


Start = Callable[[], AbstractContextManager[ReadingProcess]]


def read_untrusted(video: VideoSource, *, memory: int = 4 << 30, seconds: float = 120.0, **reading: Any) -> Video:
    """Read frames of an untrusted video, which may exhaust memory, loop, or crash a decoder.

    Starting the process takes about a third of a second. It is not a sandbox: it has the permissions of this process.

    Args:
        video: as in `read_video`.
        memory: limit of the address space in bytes, frames included.
        seconds: time limit for reading.
        **reading: as in `read_video`.

    Raises:
        VideoError: as in `read_video`, or the reading process died, took too much memory or too long; or `memory` or
            `seconds` is invalid.
    """
    return read_in(_new_process, video, memory, seconds, reading)


def read_in(start: Start, video: VideoSource, memory: int, seconds: float, reading: dict[str, Any]) -> Video:
    """Read frames of a video as `read_untrusted` does.

    Args:
        start: starts a process that runs `serve` with its standard input and output on pipes.
        video, memory, seconds, reading: as in `read_untrusted`.
    """
    signature(read_video).bind(video, **reading)
    seconds = _check_limits(memory, seconds)
    source = find_source(video)
    whole = b"" if source.file is None else _content(source)
    path = None if source.path is None else str(source.path.absolute())
    found_at = {"name": source.name, "size": source.size, "path": path}
    wanted = {name: _plain(name, value) for name, value in reading.items()}
    line = json.dumps({"source": found_at, "memory": int(memory), "reading": wanted}).encode() + b"\n"
    with start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        late = Event()

        def end() -> None:
            late.set()
            process.kill()

        clock = Timer(seconds, end)
        clock.start()
        try:
            try:
                process.stdin.write(line + whole)
                process.stdin.close()
            except BrokenPipeError:  # it has died; its output or exit status states the reason
                pass
            found = _received(process.stdout, source, memory)
            if found is None:
                process.stdout.close()
                status = process.wait()
        finally:
            clock.cancel()
            process.kill()
    if found is not None:
        return found
    raise VideoError(_died(source, None if late.is_set() else status, seconds))


def program(module: str, function: str) -> list[str]:
    """Return the command that runs a function of this package in a new process.

    It finds modules only where this process does, and not in the current folder, which may contain an `av.py`.
    """
    call = f"import sys; sys.path[:] = sys.argv[1:]; from {module} import {function}; {function}()"
    return [sys.executable, "-I", "-c", call, *(path for path in sys.path if isinstance(path, str))]


def _new_process() -> AbstractContextManager[ReadingProcess]:
    pipe = subprocess.PIPE
    return subprocess.Popen(program(__name__, "serve"), stdin=pipe, stdout=pipe, start_new_session=True)


def _content(source: Source) -> bytes:
    with source.bytes() as file:
        return file.read()


def _received(pipe: IO[bytes], source: Source, memory: int) -> Video | None:
    """Read the output of the process; None if it is incomplete.

    Raises:
        VideoError: the video cannot be read.
    """
    try:
        head = json.loads(pipe.readline(_HEADER))
        said, error = [str(warning) for warning in head["warnings"]], head.get("error")
        count, height, width, _ = shape = tuple(map(int, head.get("shape", (1, 1, 1, 3))))
        times = np.array(head.get("times", [0.0]), np.float64)
        fps, duration = float(head.get("fps", 1)), float(head.get("duration", 1))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    for warning in said:
        warn_caller(warning)
    if error is not None:
        raise VideoError(str(error))
    if shape != (count, height, width, 3) or min(shape) < 1 or math.prod(shape) > memory or times.shape != (count,):
        return None
    frames = np.empty(shape, np.uint8)
    if pipe.readinto(frames.data.cast("B")) != frames.nbytes:  # type: ignore[attr-defined]
        return None
    return Video(frames, times, fps, duration, source.path)


def _died(source: Source, status: int | None, seconds: float) -> str:
    if status is None:
        return (
            f"{source.name} was not read within {seconds:g} s: read fewer frames (fps=…, frames=…), a part of it "
            "(start=…, end=…), or allow more time (seconds=…)."
        )
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"{source.name} ended the process that read it ({how}): it is damaged, or made to. Do not open it here."


def _check_limits(memory: Any, seconds: Any) -> float:
    """Check both limits; return the seconds."""
    if not is_whole(memory) or not 0 < memory < _MOST_MEMORY:
        raise VideoError(f"memory must be a whole number of bytes above zero, got {memory!r:.80}.")
    if not isinstance(seconds, Real) or not 0 < float(seconds) <= TIMEOUT_MAX:
        raise VideoError(f"seconds must be a number above zero, at most {TIMEOUT_MAX:g}, got {seconds!r:.80}.")
    return float(seconds)


def _plain(name: str, value: Any) -> Any:
    """Convert a number, including numpy's and fractions, to one that JSON supports."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (Real, np.bool_)):
        return value.item() if isinstance(value, np.generic) else float(value)
    raise TypeError(f"{name} must be a number, got {value!r:.80}.")


def serve() -> None:
    """Main function of the reading process: answer one request on standard input, and end."""
    import av  # noqa: F401  (before its address space is counted)

    request, reply = sys.stdin.buffer, sys.stdout.buffer
    asked = json.loads(request.readline())
    most = limit_memory(asked["memory"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        head, frames = _read(asked["source"], request, asked["reading"], most)
    head["warnings"] = [str(warning.message) for warning in said]
    reply.write(json.dumps(head).encode() + b"\n")
    reply.write(frames)
    reply.flush()


def _read(
    found_at: dict[str, Any], content: IO[bytes], reading: dict[str, Any], most: int
) -> tuple[dict[str, Any], Any]:
    name, size, path = found_at["name"], found_at["size"], found_at["path"]
    try:
        source = Source(name, size, Path(path)) if path else Source(name, size, file=io.BytesIO(content.read()))
        found = read_video(source, **reading)
    except (VideoError, MemoryError) as error:
        # A decoder without memory reports a damaged file, or yields nothing.
        exhausted = isinstance(error, MemoryError) or _address_space("VmPeak") > most - _NEARLY
        return {"error": _TOO_MUCH.format(name) if exhausted else str(error)}, b""
    head = {"shape": found.frames.shape, "times": found.times.tolist(), "fps": found.fps, "duration": found.duration}
    return head, found.frames.data


def limit_memory(memory: int) -> int:
    """Limit the address space of this process to its current size plus `memory` bytes, disable core dumps, and return
    the limit.
    """
    import resource

    most = _address_space("VmSize") + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return most


def _address_space(kind: str) -> int:
    """Return the address space of this process in bytes: `"VmSize"` is the current size, `"VmPeak"` the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, kib = line.partition(":")
        if name == kind:
            return int(kib.split()[0]) << 10
    raise VideoError(f"This system does not tell how much memory a process takes ({kind} in /proc/self/status).")
