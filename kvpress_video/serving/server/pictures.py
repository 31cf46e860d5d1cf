"""Decode pictures in a separate process, so that a hostile picture cannot crash the server.

The process runs `serve`, decodes one picture at a time, and is restarted if it dies. For each picture it reads an
eight-byte length and the file, and writes a line of JSON and the pixels.
"""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
import threading
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .failures import RequestError

_FORMATS = ("JPEG", "PNG", "WEBP")
_PROGRAM = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import serve; serve()"
_LINE = 1 << 16


class PictureDecoder:
    """Decodes pictures from any thread, one at a time."""

    def __init__(self, pixels: int, kept: int, memory: int, seconds: float) -> None:
        """Create it; the process starts with the first picture.

        Args:
            pixels: maximum number of pixels of a picture.
            kept: pixels above which a picture is scaled down, with its aspect ratio.
            memory: maximum bytes of address space of the process.
            seconds: time limit for one picture.
        """
        self._limits = {"pixels": pixels, "kept": kept, "memory": memory}
        self._seconds, self._lock = seconds, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, content: bytes) -> NDArray[np.uint8]:
        """Decode a JPEG, PNG or WebP, upright and without its alpha channel: (height, width, 3) uint8.

        Raises:
            RequestError: it has another format, is damaged or too large, or crashed the decoding process.
        """
        with self._lock:
            process = self._running()
            late = threading.Timer(self._seconds, process.kill)
            late.start()
            try:
                found = _exchange(process, content)
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._end()
                raise _refused("The picture crashed the decoding process, or took too long.") from error
            finally:
                late.cancel()
        if isinstance(found, str):
            raise _refused(found)
        return found

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            paths = [path for path in sys.path if isinstance(path, str)]
            command = [sys.executable, "-I", "-c", _PROGRAM, *paths]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _pipe(self._process.stdin).write(json.dumps(self._limits).encode() + b"\n")
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _exchange(process: subprocess.Popen[bytes], content: bytes) -> NDArray[np.uint8] | str:
    """Send a picture; return its pixels, or the reason for refusing it."""
    request, reply = _pipe(process.stdin), _pipe(process.stdout)
    request.write(len(content).to_bytes(8, "big"))
    request.write(content)
    request.flush()
    head = json.loads(reply.readline(_LINE))
    if "error" in head:
        return str(head["error"])
    height, width = (int(side) for side in head["shape"])
    if height < 1 or width < 1:
        raise ValueError("no pixels")
    pixels = np.empty((height, width, 3), np.uint8)
    if reply.readinto(pixels.data.cast("B")) != pixels.nbytes:  # type: ignore[attr-defined]
        raise ValueError("pixels are missing")
    return pixels


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _refused(message: str) -> RequestError:
    return RequestError(400, message, code="invalid_image")


def serve() -> None:
    """Main loop of the decoding process: answer until standard input ends."""
    from PIL import Image

    from ...video.isolation import limit_memory

    Image.init()
    request, reply = sys.stdin.buffer, sys.stdout.buffer
    limits = json.loads(request.readline())
    Image.MAX_IMAGE_PIXELS = None  # sizes are checked before anything is decoded
    limit_memory(limits["memory"])
    while len(length := request.read(8)) == 8:
        content = request.read(int.from_bytes(length, "big"))
        head, pixels = _decoded(content, limits["pixels"], limits["kept"])
        reply.write(json.dumps(head).encode() + b"\n")
        reply.write(pixels)
        reply.flush()


def _decoded(content: bytes, most: int, kept: int) -> tuple[dict[str, Any], Any]:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            width, height = picture.size
            if width * height > most:
                return {"error": f"The picture has {width}×{height} pixels, more than {most:,} in all."}, b""
            rgb = ImageOps.exif_transpose(picture).convert("RGB")
            if width * height > kept:
                scale = math.sqrt(kept / (width * height))
                smaller = [max(1, int(side * scale)) for side in rgb.size]
                rgb = rgb.resize((smaller[0], smaller[1]), Image.Resampling.BICUBIC)
    except MemoryError:
        return {"error": "The picture takes more memory to decode than is allowed."}, b""
    except Exception:  # decoders may raise any exception
        return {"error": "The picture is damaged, or no JPEG, PNG or WebP."}, b""
    return {"shape": [rgb.height, rgb.width]}, np.asarray(rgb, np.uint8).tobytes()
