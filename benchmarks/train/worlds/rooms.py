"""The world of rooms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...rooms.clips import draw_scene, make_clips, video_frames
from ...rooms.difficulty import LEVELS
from ...rooms.questions import ANSWERS, KINDS, NAMES, PLAN, TEMPLATES, ask
from ...rooms.render import TILES, render
from ...rooms.scene import Scenes, cells_in_view, sample_scenes
from ...rooms.signs import LETTERS
from ...world.files import Clip
from ...world.shapes import COLOURS, SHAPES
from ..vision import MERGED, TOKENS
from .base import Drawn, TrainingWorld
from .flashes import with_places

LEVEL = "standard"


class RoomsWorld(TrainingWorld):
    """Clips of rooms at the standard level."""

    name = "rooms"
    templates = TEMPLATES
    names = NAMES
    answers = ANSWERS
    families: ClassVar[Mapping[str, str]] = {kind: family for kind, (family, _) in KINDS.items()}
    readings = (len(SHAPES) + 1, len(COLOURS) + 1, len(TILES) + 1, len(LETTERS) + 1, MERGED, MERGED)
    spaced = False
    stages = (8, 16, 32, 64, 128, 256, 512)
    mix: ClassVar[Mapping[int, int]] = {8: 2, 16: 4, 32: 10, 64: 20, 128: 16, 256: 8, 512: 6}

    def plan(self, timed: bool) -> tuple[str, ...]:
        return PLAN

    def draw(self, moving: Tensor, frames: int, timed: bool, generator: torch.Generator) -> Drawn:
        level = LEVELS[LEVEL]
        scenes = sample_scenes(moving, frames, generator, level)
        asked = ask(scenes, generator)
        video = render(scenes, level, generator)[:, :, None]
        return Drawn(video, asked.template, asked.name, asked.answer, _targets(scenes))

    def held_out(self, count: int, frames: int, seed: int, timed: bool, folder: Path) -> list[Clip]:
        return make_clips(count, frames, seed=seed, level=LEVEL, folder=folder)

    def video_frames(self, clip: Clip) -> Tensor:
        scenes, _, generator = draw_scene(clip.seed, clip.frames, clip.camera, LEVELS[LEVEL])
        return video_frames(scenes, LEVELS[LEVEL], generator)


def _targets(scenes: Scenes) -> Tensor:
    """Return shape, colour, tile and letter (0: none), row and column of each token, `(B, T, 16, 6)`."""
    batch, frames = scenes.visit.shape
    device = scenes.visit.device
    found = torch.zeros(batch, frames + 1, TOKENS, 4, dtype=torch.long, device=device)
    rows = torch.arange(batch, device=device)[:, None]
    times = torch.arange(frames, device=device)

    def put(cell: Tensor, *shown: Tensor, at: Tensor = times) -> None:
        found[rows, at, cell] = torch.stack([part.expand_as(cell) for part in shown], -1)

    def here(fact: Tensor) -> Tensor:
        """Return a property of each room (B, R) by frame, counted from 1."""
        return 1 + fact.gather(1, scenes.room)

    none = torch.zeros_like(scenes.room)
    put(cells_in_view(scenes, scenes.sign_cell), none, here(scenes.sign_colour), none, here(scenes.sign_letter))
    put(
        cells_in_view(scenes, scenes.resident_cell),
        here(scenes.resident_shape),
        here(scenes.resident_colour),
        none,
        none,
    )
    put(scenes.hopper_cell, 1 + scenes.hopper_shape[:, None], 1 + scenes.hopper_colour[:, None], none, none)
    stamps = scenes.stamps
    absent = torch.zeros_like(stamps.cell)
    put(stamps.cell, 1 + stamps.shape, 1 + stamps.colour, 1 + stamps.tile, absent, at=stamps.frame)
    return with_places(found[:, :frames])
