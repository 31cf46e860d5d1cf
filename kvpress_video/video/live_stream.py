"""Read a live stream (RTSP or HLS) frame by frame, in a separate process that a malicious stream may crash.

The process runs `serve`. It reads one line of JSON, then writes one line of JSON and the pixels of each sampled frame,
and a last line with the reason of the end. It ends once its standard input closes, as it does when its parent ends.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from time import monotonic
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from ..errors import VideoError
from .decoding import scaled_size
from .isolation import limit_memory, program
from .source import MAX_PIXELS

PROTOCOLS = {
    "rtsp": "rtsp,rtp,tcp,udp",
    "rtsps": "rtsps,rtsp,rtp,srtp,tls,tcp,udp",
    "http": "http,tcp,crypto",
    "https": "https,http,tls,tcp,crypto",
}
"""Protocols that FFmpeg may use for a URL and the targets of its playlist, by scheme; never files."""

_HEADER = 1 << 16
"""Maximum length of a line of JSON, in bytes."""
_JUMP = 10.0
"""Seconds between two frames above which the clock of a stream counts as reset."""


class LiveStream:
    """A live stream being read. As a context manager, it kills the process at the end.

    The process decodes as fast as frames are consumed. No frame is dropped, so a consumer slower than the stream falls
    behind, and the sender may end the stream.
    """

    def __init__(
        self,
        url: str,
        fps: float = 2.0,
        *,
        max_pixels: int | None = None,
        memory: int = 2 << 30,
        patience: float = 30.0,
    ) -> None:
        """Start reading.

        Args:
            url: rtsp, rtsps, http or https URL, such as an HLS playlist.
            fps: frames to sample per second; all frames of a slower stream.
            max_pixels: pixels per frame above which frames are scaled down; None keeps their size.
            memory: maximum address space of the process in bytes.
            patience: seconds to wait for a connection, and then for each packet.

        Raises:
            VideoError: the URL has another scheme, or `fps` is not above zero.
        """
        scheme = urlsplit(url).scheme.lower()
        if scheme not in PROTOCOLS:
            raise VideoError(f"A live stream is given by an {', '.join(PROTOCOLS)} URL, not by {scheme!r:.20}.")
        if not 0 < fps < math.inf:
            raise VideoError(f"fps must be a number above zero, got {fps!r}.")
        asked = {"url": url, "fps": fps, "max_pixels": max_pixels, "memory": memory, "patience": patience}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(program(__name__, "serve"), stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, which the first frame finds
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.kill()
        with self._process:  # closes its pipes, and waits for its end
            pass

    def kill(self) -> None:
        """Kill the process, from any thread. A frame in transfer is lost."""
        self._process.kill()

    def frame(self) -> tuple[float, NDArray[np.uint8]] | None:
        """Wait for the next frame: its seconds since the first one, and (height, width, 3) uint8; None at the end.

        Raises:
            VideoError: the stream cannot be opened or decoded, or its process died.
        """
        pipe = self._process.stdout
        assert pipe is not None
        try:
            head = json.loads(pipe.readline(_HEADER))
            error, shape = head.get("error"), tuple(map(int, head.get("shape", ())))
            time = float(head.get("time", 0.0))
        except (ValueError, TypeError, AttributeError) as failure:
            raise VideoError(
                "The process that read the stream ended: the stream is damaged, or made to be."
            ) from failure
        if error is not None:
            raise VideoError(f"The stream cannot be read: {error}")
        if not shape:
            return None
        if len(shape) != 3 or shape[2] != 3 or not 0 < math.prod(shape) <= 3 * MAX_PIXELS:
            raise VideoError("The process that read the stream sent no frame.")
        frame = np.empty(shape, np.uint8)
        if pipe.readinto(frame.data.cast("B")) != frame.nbytes:  # type: ignore[attr-defined]
            raise VideoError("The process that read the stream ended within a frame.")
        return time, frame


class Pace:
    """Selects frames, and gives them increasing times.

    After a reset of the stream's clock, the next frame follows the previous one at the usual distance.
    """

    def __init__(self, fps: float) -> None:
        """Select a frame every 1/fps seconds."""
        self._step = 1 / fps
        self._shift: float | None = None
        self._last, self._due = 0.0, 0.0

    def __call__(self, time: float) -> float | None:
        """Return the time of a frame in seconds since the first, or None to skip it.

        Args:
            time: time on the stream's clock, in seconds.
        """
        if self._shift is None:
            self._shift = -time
        elif not 0 <= time + self._shift - self._last <= _JUMP:
            self._shift = self._last + self._step - time
        self._last = now = time + self._shift
        if now < self._due:
            return None
        self._due += self._step
        if self._due <= now:  # a gap in the stream is not filled
            self._due = now + self._step
        return now


def serve() -> None:
    """Main loop of the reading process: answer one request on standard input, and end with the stream."""
    import av

    reply = sys.stdout.buffer
    asked = json.loads(sys.stdin.buffer.readline())
    Thread(target=_end_with_parent, daemon=True).start()
    limit_memory(asked["memory"])
    end: dict[str, Any] = {"end": True}
    try:
        for time, frame in _taken(asked):
            _send(reply, {"time": time, "shape": frame.shape}, frame)
    except av.error.ExitError:
        end = {"error": _nothing_came(asked["patience"])}
    except av.error.FFmpegError as error:
        end = {"error": error.strerror or type(error).__name__}
    except (VideoError, MemoryError) as error:
        end = {"error": str(error) or "its frames take more memory than allowed"}
    _send(reply, end)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _send(pipe: IO[bytes], head: dict[str, Any], frame: NDArray[np.uint8] | None = None) -> None:
    with suppress(BrokenPipeError):
        pipe.write(json.dumps(head).encode() + b"\n")
        if frame is not None:
            pipe.write(np.ascontiguousarray(frame).data)
        pipe.flush()


def _taken(asked: dict[str, Any]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    import av
    from av.video.reformatter import Interpolation, VideoReformatter

    url, most = asked["url"], str(MAX_PIXELS)
    options = {
        "protocol_whitelist": PROTOCOLS[urlsplit(url).scheme.lower()],
        "max_pixels": most,
        "rtsp_transport": "tcp",
    }
    pace, size, scale = Pace(asked["fps"]), None, VideoReformatter()
    with av.open(url, options=options, timeout=asked["patience"]) as container:
        if not container.streams.video:
            raise VideoError("it has no video.")
        stream = container.streams.video[0]
        stream.codec_context.options = {"max_pixels": most}
        for frame in _decoded(container, stream, asked["patience"]):
            if (time := pace(frame.time)) is None:
                continue
            height, width = size = size or scaled_size(frame.height, frame.width, asked["max_pixels"])
            rgb: Any = scale.reformat(frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC).to_ndarray()
            yield time, rgb
        if size is None:
            raise VideoError("it ended before a frame with a time.")


def _decoded(container: Any, stream: Any, patience: float) -> Iterator[Any]:
    """Decode the frames that have times. Damaged packets are skipped, as long as frames come.

    Raises:
        VideoError: none came for `patience` seconds.
    """
    from av.error import InvalidDataError

    latest = monotonic()
    for packet in container.demux(stream):
        with suppress(InvalidDataError):
            for frame in packet.decode():
                if frame.time is not None:
                    yield frame
                    latest = monotonic()  # the consumer's time does not count
        if monotonic() - latest > patience:
            raise VideoError(_nothing_came(patience))


def _nothing_came(patience: float) -> str:
    return f"no frame of it came for {patience:g} seconds."
