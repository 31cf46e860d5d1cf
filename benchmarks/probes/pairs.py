"""Minimal pairs: two clips that differ in one thing, and a question about the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import kvpress_video as kv

from ..world.clips import FPS, NOISE, draw_scene
from ..world.questions import KINDS
from ..world.render import render
from ..world.scene import CELLS, SIDE, STAYING, Scenes, centre_of
from ..world.shapes import COLOURS, NUMBERS, PLACES, SHAPES

_COLOURS = tuple(COLOURS)


@dataclass(frozen=True)
class Pair:
    """A question and two videos with different answers to it.

    Attributes:
        family: family of the question, as in the world.
        question: question about both videos.
        videos: videos of equal length that differ only in the subject of the question.
        answers: the right one for each video.
    """

    family: str
    question: str
    videos: tuple[kv.Video, kv.Video]
    answers: tuple[str, str]


def pairs(seed: int, frames: int) -> Iterator[Pair]:
    """Iterate over one pair of each family, on the scene of a seed with a still camera."""
    scenes, _, _ = draw_scene(seed, frames, "still")
    original = _video(scenes, seed)
    for change in (_flash_colour, _first, _count, _colour, _place):
        kind, shape, changed, answers = change(scenes)
        family, (question, *_) = KINDS[kind]
        yield Pair(family, question.format(shape=shape), (original, _video(changed, seed)), answers)


Change = Callable[[Scenes], tuple[str, str, Scenes, tuple[str, str]]]
"""Returns the kind of question, the shape that it names, the changed scene and both answers."""


def _video(scenes: Scenes, seed: int) -> kv.Video:
    """Render a scene; scenes of one seed have the same noise."""
    frames = render(scenes, NOISE, torch.Generator().manual_seed(seed))[0].flatten(0, 1).byte()
    return kv.Video.from_frames(frames.permute(0, 2, 3, 1).contiguous().numpy(), FPS)


def _other_colour(colour: int) -> int:
    return (colour + len(_COLOURS) // 2) % len(_COLOURS)


def _set(states: Tensor, place: int, value: int) -> Tensor:
    """Copy states (1, n) with another value in one place."""
    changed = states.clone()
    changed[0, place] = value
    return changed


def _flash_colour(scenes: Scenes) -> tuple[str, str, Scenes, tuple[str, str]]:
    old = int(scenes.flash_colour[0, 0])
    new = _other_colour(old)
    changed = replace(scenes, flash_colour=_set(scenes.flash_colour, 0, new))
    return "flash colour", SHAPES[scenes.flash_shape[0, 0]], changed, (_COLOURS[old], _COLOURS[new])


def _first(scenes: Scenes) -> tuple[str, str, Scenes, tuple[str, str]]:
    old = int(scenes.flash_shape[0, 0])
    used = {*scenes.flash_shape[0].tolist(), *scenes.sprite_shape[0].tolist()}
    new = next(shape for shape in range(len(SHAPES)) if shape not in used)
    changed = replace(scenes, flash_shape=_set(scenes.flash_shape, 0, new))
    return "first", "", changed, (SHAPES[old], SHAPES[new])


def _count(scenes: Scenes) -> tuple[str, str, Scenes, tuple[str, str]]:
    """Take the last flash away."""
    count = int(scenes.flash_count[0])
    gone = _set(scenes.flash_frame, count - 1, scenes.frames)
    changed = replace(scenes, flash_frame=gone, flash_count=scenes.flash_count - 1)
    return "count", "", changed, (NUMBERS[count - 1], NUMBERS[count - 2])


def _colour(scenes: Scenes) -> tuple[str, str, Scenes, tuple[str, str]]:
    old = int(scenes.sprite_colour[0, 0])
    new = _other_colour(old)
    changed = replace(scenes, sprite_colour=_set(scenes.sprite_colour, 0, new))
    return "colour", SHAPES[scenes.sprite_shape[0, 0]], changed, (_COLOURS[old], _COLOURS[new])


def _place(scenes: Scenes) -> tuple[str, str, Scenes, tuple[str, str]]:
    """Let the mover end in a cell where nothing else ever is, from its last hop on."""
    cells = scenes.sprite_cell()[0]
    old = int(cells[-1, STAYING])
    taken = {*cells.flatten().tolist(), *scenes.flash_cell[0].tolist(), *scenes.glare_cell[0].tolist()}
    new = next(cell for cell in range(CELLS * CELLS) if cell not in taken)
    since = int((cells[:, STAYING] != old).nonzero().max()) + 1 if bool((cells[:, STAYING] != old).any()) else 0
    at = scenes.sprite_at.clone()
    step = centre_of(torch.tensor(new)) - centre_of(torch.tensor(old))
    at[0, since:, STAYING] = (at[0, since:, STAYING] + step).remainder(SIDE)
    changed = replace(scenes, sprite_at=at)
    return "place", SHAPES[scenes.sprite_shape[0, STAYING]], changed, (PLACES[old], PLACES[new])
