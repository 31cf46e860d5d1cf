"""Clips on disk: mp4 files with their questions, made once and reused."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from kvpress_video.utils.files import atomic_write, check_target, make_folder

from .questions import Question, ask, ask_when
from .render import render
from .scene import Scenes, sample_scenes

HELD_OUT_SEED = 1_000_000_000
"""Clips for evaluation have seeds from here on; training draws its scenes from seeds below."""
CAMERAS = ("still", "moving")
FPS = 2
"""Video frames a second. Two video frames show the same moment and make one frame of the model, so one a second."""
WORLD_VERSION = 2
NOISE = 3.0
"""Standard deviation of the (grey) pixel noise, of 255."""
LONGEST = 4096
PATIENCE = 2.0
"""Seconds before a progress bar appears."""


@dataclass(frozen=True)
class Clip:
    """A video file and the questions about it; `frames` are the model's frames, half as many as the video's."""

    path: Path
    camera: str
    seed: int
    frames: int
    fps: int
    questions: tuple[Question, ...]


def draw_scene(
    seed: int, frames: int, camera: str, flashing: int | None = None
) -> tuple[Scenes, tuple[Question, ...], torch.Generator]:
    """The scene of a seed, its questions, and the generator for its noise."""
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(torch.tensor([camera == "moving"]), frames, generator, flashing)
    return scenes, ask(scenes, generator).questions(0), generator


def when_was_it(clip: Clip) -> Question:
    """Ask when one of the flashes of a clip was; only a model that reads the time of each frame can tell."""
    scenes, _, generator = draw_scene(clip.seed, clip.frames, clip.camera)
    [question] = ask_when(scenes, generator).questions(0)
    return question


def make_clip(
    path: Path, frames: int = 32, camera: str = "still", seed: int = HELD_OUT_SEED, flashing: int | None = None
) -> Clip:
    """Render the scene of `seed` to an mp4 file at `path`: 112 × 112 pixels, `2 · frames` video frames, 2 a second.

    Shapes flash within the first `flashing` frames only, or in any when that is None.
    """
    _check(frames, seed, flashing)
    if camera not in CAMERAS:
        raise ValueError(f"camera is {camera!r}: a clip's camera is 'still' or 'moving'")
    scenes, questions, generator = draw_scene(seed, frames, camera, flashing)
    _write_mp4(Path(path), render(scenes, NOISE, generator)[0].flatten(0, 1).byte())
    return Clip(Path(path), camera, seed, frames, FPS, questions)


def make_clips(
    count: int,
    frames: int = 32,
    camera: str = "both",
    seed: int = HELD_OUT_SEED,
    flashing: int | None = None,
    *,
    folder: Path,
) -> list[Clip]:
    """Make `count` clips with seeds `seed`, `seed + 1`, … in `folder`, with one `clips.json`.

    `camera` is "still", "moving", or "both", alternating; `flashing` is that of `make_clip`. Matching files are reused,
    new ones are written atomically.
    """
    _check(frames, seed, flashing)
    if count < 1:
        raise ValueError(f"count is {count}: make at least one clip")
    if camera not in (*CAMERAS, "both"):
        raise ValueError(f"camera is {camera!r}: choose 'still', 'moving' or 'both'")
    folder = Path(folder)
    make_folder(folder)
    check_target(folder / "clips.json")
    known = _read_index(folder)
    clips: list[Clip] = []
    started = time.monotonic()
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, auto_refresh=False, disable=console.is_jupyter)
    try:
        for number in range(count):
            which = CAMERAS[number % 2] if camera == "both" else camera
            early = "" if flashing is None else f"-flashing{flashing}"
            name = f"{which}-{frames}-{seed + number}{early}.mp4"
            clip = _reusable(folder / name, known.get(name))
            if clip is None:
                clip = make_clip(folder / name, frames, which, seed + number, flashing)
                known[name] = _record(clip)
            clips.append(clip)
            if time.monotonic() - started > PATIENCE:
                _show(progress, number + 1, count)
    finally:
        if progress.tasks:
            progress.stop()
        index = {"world": WORLD_VERSION, "clips": known}
        with atomic_write(folder / "clips.json") as scratch:
            scratch.write_text(json.dumps(index, indent=1) + "\n")
    return clips


def load_clips(folder: Path) -> list[Clip]:
    """Load the clips that `make_clips` wrote to `folder`."""
    folder = Path(folder)
    if not (folder / "clips.json").is_file():
        raise FileNotFoundError(f"no clips.json in {folder}: make clips there first, with make_clips(..., folder=...)")
    known = _read_index(folder)
    if not known:
        raise ValueError(f"{folder / 'clips.json'} lists no clips of this world's version: make them again")
    clips = [_reusable(folder / name, record) for name, record in known.items()]
    broken = [name for name, clip in zip(known, clips, strict=True) if clip is None]
    if broken:
        raise ValueError(f"{len(broken)} clips in {folder} are missing or changed, {broken[0]} first: make them again")
    return [clip for clip in clips if clip is not None]


def _show(progress: Progress, done: int, total: int) -> None:
    """Start the progress bar if necessary, and advance it."""
    if not progress.tasks:
        progress.start()
        progress.add_task("Rendering clips", total=total)
    progress.update(progress.tasks[0].id, completed=done, refresh=True)


def _check(frames: int, seed: int, flashing: int | None) -> None:
    if not 1 <= frames <= LONGEST:
        raise ValueError(f"frames is {frames}: a clip has 1 to {LONGEST} frames")
    if flashing is not None and not 1 <= flashing <= frames:
        raise ValueError(f"flashing is {flashing}: shapes flash within 1 to {frames} frames of this clip")
    if seed < 0:
        raise ValueError(f"seed is {seed}: seeds are not negative, and held-out ones start at {HELD_OUT_SEED}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(clip: Clip) -> dict[str, Any]:
    return {**asdict(clip), "path": clip.path.name, "sha256": _digest(clip.path)}


def _reusable(path: Path, record: dict[str, Any] | None) -> Clip | None:
    """The clip at `path` if the index has it whole and its file is unchanged."""
    if record is None or not path.is_file():
        return None
    try:
        if _digest(path) != record["sha256"]:
            return None
        questions = tuple(Question(**question) for question in record["questions"])
        return Clip(path, record["camera"], record["seed"], record["frames"], record["fps"], questions)
    except (KeyError, TypeError):
        return None


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of `clips.json` by file name; empty if it is damaged or has none of this version of the world."""
    with suppress(FileNotFoundError, ValueError, AttributeError, KeyError, RecursionError):
        index = json.loads((folder / "clips.json").read_text())
        if index.get("world") == WORLD_VERSION:
            return dict(index["clips"].items())
    return {}


def _write_mp4(path: Path, frames: torch.Tensor) -> None:
    """Encode uint8 `frames` (N, 3, H, W): H.264 if the build has it, else MPEG-4.

    Equal frames give equal files, which is why x264's macroblock tree is off.
    """
    import av

    codec, options = ("libx264", {"crf": "14", "preset": "fast", "x264-params": "mbtree=0:threads=1"})
    if codec not in av.codecs_available:
        codec, options = ("mpeg4", {"qmin": "1", "qmax": "3", "b": "4M"})
    with atomic_write(path) as scratch, av.open(str(scratch), "w", format="mp4") as file:
        stream: Any = file.add_stream(codec, rate=Fraction(FPS), options=options)
        stream.height, stream.width = frames.shape[-2:]
        stream.pix_fmt = "yuv420p"
        for picture in frames.permute(0, 2, 3, 1).contiguous().numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
