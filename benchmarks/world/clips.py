"""Draw scenes by seed, and render them to mp4 files with their questions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from .files import FPS, Clip, Index, write_mp4
from .questions import Question, ask, ask_when
from .render import render
from .scene import Scenes, sample_scenes

HELD_OUT_SEED = 1_000_000_000
"""First seed of evaluation clips; training uses smaller seeds."""
CAMERAS = ("still", "moving")
INDEX = Index("clips.json", version=2)
NOISE = 3.0
"""Standard deviation of the grey pixel noise, on a scale of 255."""
LONGEST = 4096


def draw_scene(
    seed: int, frames: int, camera: str, flashing: int | None = None
) -> tuple[Scenes, tuple[Question, ...], torch.Generator]:
    """Draw the scene of a seed; return it with its questions and the generator for its noise."""
    generator = torch.Generator().manual_seed(seed)
    scenes = sample_scenes(torch.tensor([camera == "moving"]), frames, generator, flashing)
    return scenes, ask(scenes, generator).questions(0), generator


def when_was_it(clip: Clip) -> Question:
    """Ask when a flash occurred, which only a model that reads the time of each frame can answer."""
    scenes, _, generator = draw_scene(clip.seed, clip.frames, clip.camera)
    [question] = ask_when(scenes, generator).questions(0)
    return question


def make_clip(
    path: Path, frames: int = 32, camera: str = "still", seed: int = HELD_OUT_SEED, flashing: int | None = None
) -> Clip:
    """Render the scene of `seed` to an mp4 file at `path`: 112 × 112 pixels, `2 · frames` video frames, two per second.

    Shapes flash within the first `flashing` frames only, or in any frame if it is None.
    """
    _check(frames, seed, flashing)
    if camera not in CAMERAS:
        raise ValueError(f"camera is {camera!r}: a clip's camera is 'still' or 'moving'")
    scenes, questions, generator = draw_scene(seed, frames, camera, flashing)
    write_mp4(Path(path), render(scenes, NOISE, generator)[0].flatten(0, 1).byte())
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

    `camera` is "still", "moving", or "both", alternating; for `flashing`, see `make_clip`. Matching files are reused,
    new ones are written atomically.
    """
    _check(frames, seed, flashing)
    if count < 1:
        raise ValueError(f"count is {count}: make at least one clip")
    if camera not in (*CAMERAS, "both"):
        raise ValueError(f"camera is {camera!r}: choose 'still', 'moving' or 'both'")
    early = "" if flashing is None else f"-flashing{flashing}"
    wanted = []
    for number in range(count):
        which = CAMERAS[number % 2] if camera == "both" else camera
        make = partial(make_clip, frames=frames, camera=which, seed=seed + number, flashing=flashing)
        wanted.append((f"{which}-{frames}-{seed + number}{early}.mp4", make))
    return INDEX.collect(wanted, folder)


def load_clips(folder: Path) -> list[Clip]:
    """Load the clips that `make_clips` wrote to `folder`."""
    return INDEX.load(folder)


def _check(frames: int, seed: int, flashing: int | None) -> None:
    if not 1 <= frames <= LONGEST:
        raise ValueError(f"frames is {frames}: a clip has 1 to {LONGEST} frames")
    if flashing is not None and not 1 <= flashing <= frames:
        raise ValueError(f"flashing is {flashing}: shapes flash within 1 to {frames} frames of this clip")
    if seed < 0:
        raise ValueError(f"seed is {seed}: seeds are not negative, and held-out ones start at {HELD_OUT_SEED}")
