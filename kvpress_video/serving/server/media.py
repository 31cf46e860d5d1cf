"""Read the videos and pictures of requests, within limits, in separate processes."""

from __future__ import annotations

import base64
import binascii
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from ...errors import VideoError
from ...video.fork_server import ForkServer
from ...video.selection import USUAL_FPS
from ...video.video import Video
from .addresses import HostRules
from .failures import RequestError
from .fetching import fetch
from .pictures import PictureDecoder

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class MediaLimits:
    """Limits on the media of one request.

    Attributes:
        items: number of videos and pictures of a request.
        size: bytes of all files of a request.
        pixels: pixels of a picture before decoding.
        kept: pixels above which a frame or picture is scaled down.
        frames: frames sampled from a video.
        frames_bytes: bytes of a video's decoded frames.
        duration: seconds of a whole video.
        fetching: seconds for a download.
        decoding: seconds for decoding.
        memory: bytes of address space of a decoding process.
        at_once: videos decoded at the same time.
        sources: live streams read at the same time.
        downloads: requests whose files are being downloaded or wait for decoding, at the same time.
    """

    items: int = 8
    size: int = 64 << 20
    pixels: int = 64_000_000
    kept: int = 1 << 20
    frames: int = 768
    frames_bytes: int = 256 << 20
    duration: float = 4 * 3600.0
    fetching: float = 30.0
    decoding: float = 60.0
    memory: int = 2 << 30
    at_once: int = 4
    sources: int = 8
    downloads: int = 16


class MediaReader:
    """Reads media from URLs, or from paths below allowed folders."""

    def __init__(self, limits: MediaLimits, rules: HostRules, folders: tuple[Path, ...] = ()) -> None:
        """Create it without reading anything.

        Args:
            limits: limits on media.
            rules: rules for hosts.
            folders: folders whose files may be read by path or file URL.
        """
        self.limits, self._rules = limits, rules
        self._folders = tuple(folder.resolve() for folder in folders)
        self._pictures = PictureDecoder(limits.pixels, limits.kept, limits.memory, limits.decoding)
        self._videos = ForkServer()
        self._turns = threading.Semaphore(limits.at_once)

    def begin(self) -> None:
        """Start the process from which decoding processes are forked."""
        self._videos.start()

    def close(self) -> None:
        """End the decoding processes."""
        self._pictures.close()
        self._videos.close()

    def content(self, url: str) -> bytes:
        """Read the file at a URL.

        Raises:
            RequestError: the URL is refused, or the file is missing, too large or too slow.
        """
        scheme = url.partition(":")[0].lower()
        if scheme == "data":
            return self._sized(_inline(url))
        if scheme in ("http", "https"):
            return fetch(url, self._rules, self.limits.size, self.limits.fetching)
        return self._file(url)

    def decode_picture(self, content: bytes) -> Picture:
        """Decode a picture: (height, width, 3) uint8.

        Raises:
            RequestError: it is damaged, too large or not a picture.
        """
        return self._pictures.decode(self._sized(content))

    def decode_video(
        self, content: bytes, fps: float | None = None, start: float | None = None, end: float | None = None
    ) -> Video:
        """Decode a video.

        Args:
            content: the file.
            fps: frames to sample per second, 2 by default; all frames if the video has fewer.
            start, end: the part to read, in seconds.

        Raises:
            RequestError: it is damaged, too large or not a video.
        """
        limits = self.limits
        try:
            with self._turns:
                found = self._videos.read(
                    self._sized(content),
                    memory=limits.memory,
                    seconds=limits.decoding,
                    fps=USUAL_FPS if fps is None else fps,
                    start=start,
                    end=end,
                    at_most=True,
                    max_pixels=limits.kept,
                    max_frames=limits.frames,
                    max_bytes=limits.frames_bytes,
                )
        except VideoError as error:
            raise RequestError(400, str(error), code="invalid_video") from error
        if found.duration > limits.duration:
            raise RequestError(
                400,
                f"The video is {found.duration:.0f} s long; {limits.duration:.0f} s are allowed.",
                code="invalid_video",
            )
        return found

    def _file(self, name: str) -> bytes:
        """Read a file below an allowed folder, without revealing which files exist elsewhere."""
        try:
            path = Path(unquote(urlsplit(name).path) if name.lower().startswith("file:") else name).resolve()
            allowed = any(path.is_relative_to(folder) for folder in self._folders) and path.is_file()
            content = _read(path, self.limits.size) if allowed else None
        except (OSError, ValueError) as error:
            raise _no_file() from error
        if content is None:
            raise _no_file()
        return self._sized(content)

    def _sized(self, content: bytes) -> bytes:
        if len(content) > self.limits.size:
            raise RequestError(400, f"The file is larger than {self.limits.size:,} bytes.", code="media_too_large")
        return content


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)


def _no_file() -> RequestError:
    return RequestError(
        400,
        "Media are given by http, https or data URLs, or as files of folders that the server allows by name.",
        code="invalid_url",
    )


def _inline(url: str) -> bytes:
    """Decode a data URL."""
    head, comma, content = url.partition(",")
    try:
        if not comma or not head.lower().endswith(";base64") or not content:
            raise ValueError
        return base64.b64decode(content, validate=True)
    except (ValueError, binascii.Error) as error:
        raise RequestError(
            400, "A data URL is data:video/mp4;base64,… with its content in base64.", code="invalid_url"
        ) from error
