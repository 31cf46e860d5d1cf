"""Find the video behind a path, a file:// URL, bytes or a binary file, and open it with PyAV."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

from ..errors import VideoError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

MAX_PIXELS = 8192 * 8192
"""Largest decoded frame, in pixels: twice 8K."""

VideoSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, a file:// URL, the bytes of a video file, or a binary file that can be rewound."""

_FILE_URL = re.compile(r"file:(?://(?:localhost)?)?(?=/)", re.IGNORECASE)
_URL = re.compile(r"data:|[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Source:
    """A video that exists and has not been read yet.

    Attributes:
        name: the path, or a description of the data in memory, for messages.
        size: bytes.
        path: the file, None for bytes and file objects.
        file: the file object, None for a path.
    """

    name: str
    size: int
    path: Path | None = None
    file: BinaryIO | None = None

    @contextmanager
    def open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the container and its video stream, from the beginning.

        Raises:
            VideoError: PyAV is missing, the container cannot be read, has no video stream, or the stream has a codec
                without a decoder, or frames that are too large.
        """
        try:
            import av
        except ImportError as error:
            raise VideoError("Reading videos needs PyAV: pip install av.") from error
        given: Any = f"file:{self.path}"
        protocols = "file,crypto,data"
        if self.file is not None:
            self.file.seek(0)
            given, protocols = self.file, "crypto,data"
        limits = {"max_pixels": str(MAX_PIXELS)}
        # Titles may be in any encoding, which PyAV handles from version 19 on.
        titles: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        try:
            container = av.open(given, options={"protocol_whitelist": protocols, **limits}, **titles)
        except av.error.FFmpegError as error:
            if isinstance(error, PermissionError):
                raise VideoError(f"{self.name} cannot be read: permission denied.") from error
            raise VideoError(
                f"{self.name} ({self.size} bytes) cannot be opened as a video: it is cut off, or not a video "
                f"({error.strerror})."
            ) from error
        with container:
            stream = _video_stream(self, container)
            stream.codec_context.options = limits
            try:
                yield container, stream
            except av.error.FFmpegError as error:
                raise self.damaged() from error

    def damaged(self) -> VideoError:
        """Return the error for frames that cannot be decoded."""
        return VideoError(
            f"{self.name} is damaged: not all of its frames can be decoded. Copy or download it again, or read only a "
            "part with start=… and end=…."
        )

    def bytes(self) -> AbstractContextManager[BinaryIO]:
        """Open the file itself, to inspect its structure."""
        if self.file is None:
            assert self.path is not None
            return open(self.path, "rb")
        self.file.seek(0)
        return nullcontext(self.file)


def find_source(video: VideoSource | Source) -> Source:
    """Find a video; a `Source` is returned unchanged.

    Raises:
        VideoError: there is no such file, or it cannot be read as a file: a folder, a pipe, a remote URL, a text file
            object or another type.
    """
    if isinstance(video, Source):
        return video
    if isinstance(video, (bytes, bytearray, memoryview)):
        return Source("The video in memory", memoryview(video).nbytes, file=io.BytesIO(video))
    if hasattr(video, "read"):
        return _file_object(video)
    if not isinstance(video, (str, os.PathLike)):
        raise VideoError(
            f"A video is a path, a file:// URL, bytes or a binary file, not a {type(video).__name__}. "
            "Frames in memory become one with Video.from_frames()."
        )
    text = os.fspath(video)
    local = _FILE_URL.match(text)
    path = Path(unquote(text[local.end() :])) if local else Path(text)
    return Source(str(path), _size(path, text), path)


def _file_object(file: Any) -> Source:
    name = f"The file object {getattr(file, 'name', type(file).__name__)!r}"
    try:
        file.seek(0)
        binary, size = isinstance(file.read(0), bytes), file.seek(0, os.SEEK_END)
    except (OSError, ValueError, AttributeError) as error:
        raise VideoError(f"{name} cannot be rewound ({error}): save the video to a file, or give its bytes.") from error
    if not binary:
        raise VideoError(f"{name} is open as text: open it with mode 'rb'.")
    return Source(name, size, file=file)


def _size(path: Path, given: str) -> int:
    """Return the size of a regular file in bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        if _URL.match(given):
            said = f"{given:.200} is a URL: download the video first, and give the path of the file, or its bytes."
        elif isinstance(error, (FileNotFoundError, NotADirectoryError)):
            said = f"There is no video {path}: check the path."
        else:
            said = f"{given!r:.200} is not the path of a video: {getattr(error, 'strerror', None) or error}."
        raise VideoError(said) from error
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG:
        raise VideoError(f"{path} is {_SPECIAL.get(kind, 'no regular file')}: give the path of a video file.")
    return found.st_size


def _video_stream(source: Source, container: InputContainer) -> VideoStream:
    """Return the stream that a player shows: not a cover picture, and the default one of several."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        held = "no video but a cover picture" if container.streams.video else "no video"
        raise VideoError(f"{source.name} ({container.format.name}) holds {held}: is it an audio file, or cut off?")
    stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
    codec = stream.codec_context
    if codec is None:
        raise VideoError(f"{source.name} has a codec that cannot be decoded here: {_described(container)}.")
    if codec.width * codec.height > MAX_PIXELS:
        raise VideoError(
            f"{source.name} has frames of {codec.width}×{codec.height} pixels, more than {MAX_PIXELS:,} in all: "
            "scale it down first."
        )
    return stream


def _described(container: Any) -> str:
    """Return FFmpeg's description of the video streams, which it only logs."""
    import av

    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        lines = container.dumps_format().splitlines()
    finally:
        av.logging.set_level(level)
    return "; ".join(line.split("Video: ", 1)[1] for line in lines if "Video: " in line) or container.format.name
