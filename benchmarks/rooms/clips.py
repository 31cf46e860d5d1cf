"""Draw clips of rooms and write them to disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from ..world.clips import CAMERAS, HELD_OUT_SEED, LONGEST
from ..world.files import FPS, Clip, Index, write_mp4
from ..world.questions import Question
from .difficulty import LEVELS, Difficulty
from .questions import ask
from .render import render_clean, with_noise
from .scene import SHORTEST, Scenes, sample_scenes

INDEX = Index("rooms.json", version=1)


def draw_scene(
    seed: int, frames: int, camera: str, level: Difficulty
) -> tuple[Scenes, tuple[Question, ...], torch.Generator]:
    """Draw the scene of a seed; return it with its questions and the generator for its noise."""
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(torch.tensor([camera == "moving"]), frames, generator, level)
    return scenes, ask(scenes, generator).questions(0), generator


def video_frames(scenes: Scenes, level: Difficulty, generator: torch.Generator) -> torch.Tensor:
    """Render two video frames with different noise for each frame of a scene: uint8 `(2 · T, 3, 112, 112)`."""
    twice = render_clean(scenes, level).repeat_interleave(2, dim=1)
    return with_noise(twice, level, generator)[0].byte()


def make_clip(
    path: Path, frames: int = 64, camera: str = "still", seed: int = HELD_OUT_SEED, level: str = "standard"
) -> Clip:
    """Render the scene of `seed` to an mp4 file at `path`: 112 × 112 pixels, `2 · frames` video frames, two per second.

    Raises:
        ValueError: `frames`, `camera`, `seed` or `level` is not what clips can have.
        BenchmarkError: scikit-image's photographs are missing.
    """
    _check(frames, seed, level)
    if camera not in CAMERAS:
        raise ValueError(f"camera is {camera!r}: a clip's camera is 'still' or 'moving'")
    settings = LEVELS[level]
    scenes, questions, generator = draw_scene(seed, frames, camera, settings)
    video = video_frames(scenes, settings, generator)
    best, worst = settings.crf
    crf = int(torch.randint(best, worst + 1, (), generator=generator))
    write_mp4(Path(path), video, crf)
    return Clip(Path(path), camera, seed, frames, FPS, questions)


def make_clips(
    count: int,
    frames: int = 64,
    camera: str = "both",
    seed: int = HELD_OUT_SEED,
    level: str = "standard",
    *,
    folder: Path,
) -> list[Clip]:
    """Make `count` clips with seeds `seed`, `seed + 1`, … in `folder`, with one `rooms.json`.

    `camera` is "still", "moving", or "both", alternating. Matching files are reused, new ones are written atomically.

    Raises:
        ValueError: an argument is not what clips can have.
        BenchmarkError: scikit-image's photographs are missing.
    """
    _check(frames, seed, level)
    if count < 1:
        raise ValueError(f"count is {count}: make at least one clip")
    if camera not in (*CAMERAS, "both"):
        raise ValueError(f"camera is {camera!r}: choose 'still', 'moving' or 'both'")
    wanted = []
    for number in range(count):
        which = CAMERAS[number % 2] if camera == "both" else camera
        make = partial(make_clip, frames=frames, camera=which, seed=seed + number, level=level)
        wanted.append((f"rooms-{level}-{which}-{frames}-{seed + number}.mp4", make))
    return INDEX.collect(wanted, folder)


def _check(frames: int, seed: int, level: str) -> None:
    if not SHORTEST <= frames <= LONGEST:
        raise ValueError(f"frames is {frames}: a clip of rooms has {SHORTEST} to {LONGEST} frames")
    if seed < 0:
        raise ValueError(f"seed is {seed}: seeds are not negative, and held-out ones start at {HELD_OUT_SEED}")
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}: choose {', '.join(LEVELS)}")
