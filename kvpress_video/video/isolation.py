"""Read a video in a process of its own, which a file may end without ending this one.

Run as a module, this is that process. It reads one line of JSON, and the bytes of a video that has no path; it writes
one line of JSON and the frames. Neither side unpickles what the other wrote.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from inspect import signature
from operator import methodcaller
from pathlib import Path
from threading import Timer
from typing import IO, Any

import numpy as np

from ..errors import VideoError
from ..utils.warnings import warn_caller
from .reader import read_video
from .source import Source, VideoSource, find_source
from .video import Video

_HEADER = 64 << 20
"""Longest line of JSON, in bytes: five million times and some warnings."""

_NEARLY = 64 << 20
_TOO_MUCH = (
    "{} takes more memory to read than is allowed: read fewer frames (fps=…, frames=…), scale them down while they are "
    "read (max_pixels=…), or allow more (memory=…)."
)


def read_untrusted(video: VideoSource, *, memory: int = 4 << 30, seconds: float = 120.0, **reading: Any) -> Video:
    """Read frames of a video that may be made to harm: one that exhausts memory, loops, or crashes a decoder.

    Starting the process takes about a third of a second. It is no sandbox: it may do what this process may.

    Args:
        video: as in `read_video`.
        memory: bytes of address space that reading may take, frames included.
        seconds: most that reading may take.
        **reading: as in `read_video`.

    Raises:
        VideoError: as in `read_video`, or the reading process died, took too much memory or too long.
    """
    signature(read_video).bind(video, **reading)
    source = find_source(video)
    whole = b"" if source.file is None else _content(source)
    path = None if source.path is None else str(source.path.absolute())
    request = {"path": path, "memory": memory, "reading": reading}
    command = [sys.executable, "-m", __spec__.name]
    search = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | search, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        late = Timer(seconds, process.kill)
        late.start()
        try:
            try:
                process.stdin.write(json.dumps(request, default=methodcaller("item")).encode() + b"\n" + whole)
                process.stdin.close()
            except BrokenPipeError:  # it has died; what it wrote, or its exit status, says why
                pass
            found = _received(process.stdout, source, memory)
            if found is None:
                process.stdout.close()
                process.wait()
        finally:
            timely = late.is_alive()
            late.cancel()
            process.kill()
    if found is not None:
        return found
    raise VideoError(_died(source, process.returncode if timely else None, seconds))


def _content(source: Source) -> bytes:
    with source.bytes() as file:
        return file.read()


def _received(pipe: IO[bytes], source: Source, memory: int) -> Video | None:
    """Read what the process wrote; None if it did not write all.

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


def _serve(request: IO[bytes], reply: IO[bytes]) -> None:
    import resource

    import av  # noqa: F401  (before its address space is counted)

    asked = json.loads(request.readline())
    most = _address_space("VmSize") + asked["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    video: VideoSource = io.BytesIO(request.read()) if asked["path"] is None else Path(asked["path"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        head, frames = _read(video, asked["reading"], most)
    head["warnings"] = [str(warning.message) for warning in said]
    reply.write(json.dumps(head).encode() + b"\n")
    reply.write(frames)


def _read(video: VideoSource, reading: dict[str, Any], most: int) -> tuple[dict[str, Any], Any]:
    try:
        found = read_video(video, **reading)
    except (VideoError, MemoryError) as error:
        # A decoder that lacks memory calls the file damaged, or yields nothing.
        exhausted = isinstance(error, MemoryError) or _address_space("VmPeak") > most - _NEARLY
        return {"error": _TOO_MUCH.format(find_source(video).name) if exhausted else str(error)}, b""
    head = {"shape": found.frames.shape, "times": found.times.tolist(), "fps": found.fps, "duration": found.duration}
    return head, found.frames.data


def _address_space(kind: str) -> int:
    """Return the bytes of address space of this process: `"VmSize"` now, `"VmPeak"` at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, kib = line.partition(":")
        if name == kind:
            return int(kib.split()[0]) << 10
    raise VideoError(f"This system does not tell how much memory a process takes ({kind} in /proc/self/status).")


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
