"""The world of flashes, on which the bundled models were trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ...world.clips import NOISE, draw_scene, make_clips, when_was_it
from ...world.files import Clip
from ...world.questions import ANSWERS, KINDS, PLAN, TEMPLATES, ask, ask_when
from ...world.render import render
from ...world.scene import Scenes, sample_scenes
from ...world.shapes import COLOURS, SHAPES
from ..vision import MERGED, TOKENS
from .base import Drawn, TrainingWorld

WHEN = 3
"""Number of "when" questions per clip; with fewer, they are learnt long after all others."""


class Flashes(TrainingWorld):
    """Shapes that flash on white tiles in one torus-shaped scene."""

    name = "world"
    templates = TEMPLATES
    names = SHAPES
    answers = ANSWERS
    families: ClassVar[Mapping[str, str]] = {kind: family for kind, (family, _) in KINDS.items()}
    readings = (len(SHAPES) + 1, len(COLOURS) + 1, 2, MERGED, MERGED)
    spaced = True
    stages = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256)
    mix: ClassVar[Mapping[int, int]] = {
        1: 2,
        2: 1,
        4: 2,
        8: 6,
        16: 10,
        24: 12,
        32: 20,
        48: 12,
        64: 18,
        96: 8,
        128: 8,
        256: 8,
    }

    def plan(self, timed: bool) -> tuple[str, ...]:
        return (*PLAN, *["when"] * WHEN) if timed else PLAN

    def draw(self, moving: Tensor, frames: int, timed: bool, generator: torch.Generator) -> Drawn:
        scenes = sample_scenes(moving, frames, generator)
        asked = ask(scenes, generator)
        if timed:
            asked = asked.joined(ask_when(scenes, generator, WHEN))
        video = render(scenes, NOISE, generator)
        return Drawn(video, asked.template, asked.shape, asked.answer, _targets(scenes))

    def held_out(self, count: int, frames: int, seed: int, timed: bool, folder: Path) -> list[Clip]:
        clips = make_clips(count, frames, seed=seed, folder=folder)
        return [replace(clip, questions=(*clip.questions, when_was_it(clip))) for clip in clips] if timed else clips

    def video_frames(self, clip: Clip) -> Tensor:
        scenes, _, generator = draw_scene(clip.seed, clip.frames, clip.camera)
        return render(scenes, NOISE, generator)[0].flatten(0, 1).byte()


def _targets(scenes: Scenes) -> Tensor:
    """Return shape, colour (0: none), flashing, row and column of each token, `(B, T, 16, 5)`."""
    batch, frames = scenes.offset.shape[:2]
    device = scenes.offset.device
    found = torch.zeros(batch, frames + 1, TOKENS, 3, dtype=torch.long, device=device)
    rows = torch.arange(batch, device=device)[:, None]
    times = torch.arange(frames, device=device)
    cells = scenes.sprite_cell()
    for sprite in range(cells.shape[-1]):
        seen = torch.stack([scenes.sprite_shape[:, sprite] + 1, scenes.sprite_colour[:, sprite] + 1], -1)
        found[rows, times, cells[..., sprite], :2] = seen[:, None].expand(-1, frames, -1)
    lit = torch.stack([scenes.flash_shape + 1, scenes.flash_colour + 1, torch.ones_like(scenes.flash_shape)], -1)
    found[rows, scenes.flash_frame, scenes.flash_cell] = lit
    return with_places(found[:, :frames])


def with_places(targets: Tensor) -> Tensor:
    """Add row and column of each token to targets `(B, T, 16, R)`."""
    cell = torch.arange(TOKENS, device=targets.device)
    place = torch.stack([cell // MERGED, cell % MERGED], -1)
    return torch.cat([targets, place.expand(*targets.shape[:2], -1, -1)], dim=-1)
