"""Folders of clips: mp4 files with one index of their questions, made once and reused."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from kvpress_video.utils.files import atomic_write, check_target, make_folder

from .questions import Question

FPS = 2
"""Video frames per second. Two video frames show the same moment and form one frame of the model, so one per second."""
PATIENCE = 2.0
"""Seconds before a progress bar appears."""


@dataclass(frozen=True)
class Clip:
    """A video file and its questions; `frames` counts the model's frames, half as many as the video's."""

    path: Path
    camera: str
    seed: int
    frames: int
    fps: int
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Index:
    """Index file of a folder of clips.

    Attributes:
        file: name of the file.
        version: version of the generator; records of other versions are ignored.
    """

    file: str
    version: int

    def read(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Read the records by clip name; return none if the index is damaged or has another version."""
        with suppress(FileNotFoundError, ValueError, AttributeError, KeyError, RecursionError):
            index = json.loads((folder / self.file).read_text())
            if index.get("world") == self.version:
                return dict(index["clips"].items())
        return {}

    def collect(self, wanted: Sequence[tuple[str, Callable[[Path], Clip]]], folder: Path) -> list[Clip]:
        """Return the clips with these names; make missing and changed ones, and write them atomically."""
        folder = Path(folder)
        make_folder(folder)
        check_target(folder / self.file)
        known = self.read(folder)
        clips: list[Clip] = []
        started = time.monotonic()
        console = Console(stderr=True)
        progress = Progress(console=console, transient=True, auto_refresh=False, disable=console.is_jupyter)
        try:
            for name, make in wanted:
                clip = _reusable(folder / name, known.get(name))
                if clip is None:
                    clip = make(folder / name)
                    known[name] = _record(clip)
                clips.append(clip)
                if time.monotonic() - started > PATIENCE:
                    _show(progress, len(clips), len(wanted))
        finally:
            if progress.tasks:
                progress.stop()
            with atomic_write(folder / self.file) as scratch:
                scratch.write_text(json.dumps({"world": self.version, "clips": known}, indent=1) + "\n")
        return clips

    def load(self, folder: Path) -> list[Clip]:
        """Load the clips that `collect` wrote to `folder`.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: clips are missing or changed, or the index lists none.
        """
        folder = Path(folder)
        if not (folder / self.file).is_file():
            raise FileNotFoundError(
                f"no {self.file} in {folder}: make clips there first, with make_clips(..., folder=...)"
            )
        known = self.read(folder)
        if not known:
            raise ValueError(f"{folder / self.file} lists no clips of this world's version: make them again")
        clips = [_reusable(folder / name, record) for name, record in known.items()]
        broken = [name for name, clip in zip(known, clips, strict=True) if clip is None]
        if broken:
            raise ValueError(
                f"{len(broken)} clips in {folder} are missing or changed, {broken[0]} first: make them again"
            )
        return [clip for clip in clips if clip is not None]


def _show(progress: Progress, done: int, total: int) -> None:
    """Start the progress bar if necessary, and advance it."""
    if not progress.tasks:
        progress.start()
        progress.add_task("Rendering clips", total=total)
    progress.update(progress.tasks[0].id, completed=done, refresh=True)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(clip: Clip) -> dict[str, Any]:
    return {**asdict(clip), "path": clip.path.name, "sha256": _digest(clip.path)}


def _reusable(path: Path, record: dict[str, Any] | None) -> Clip | None:
    """Return the clip at `path` if its record is complete and its file is unchanged, else None."""
    if record is None or not path.is_file():
        return None
    try:
        if _digest(path) != record["sha256"]:
            return None
        questions = tuple(Question(**question) for question in record["questions"])
        return Clip(path, record["camera"], record["seed"], record["frames"], record["fps"], questions)
    except (KeyError, TypeError):
        return None


def write_mp4(path: Path, frames: torch.Tensor, crf: int = 14) -> None:
    """Encode uint8 `frames` (N, 3, H, W): H.264 at a constant rate factor if the build has it, else MPEG-4.

    x264's macroblock tree is off so that equal frames give equal files.
    """
    import av

    codec, options = ("libx264", {"crf": str(crf), "preset": "fast", "x264-params": "mbtree=0:threads=1"})
    if codec not in av.codecs_available:
        codec, options = ("mpeg4", {"qmin": "1", "qmax": "3", "b": "4M"})
    with atomic_write(path) as scratch, av.open(str(scratch), "w", format="mp4") as file:
        stream: Any = file.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
