"""Scenes of several rooms: visits, the contents of each room, movers that cross the view, and shapes on tiles.

As in the world of flashes, a room is a torus of 4 × 4 cells exactly as large as the view, and a *place* is a cell of
the view. Residents, signs and screens belong to their room; everything else is placed in the view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..world.scene import CELLS, SIDE, Dice, camera_path, cell_of, centre_of, draw_moments, free_cells, swing
from ..world.shapes import COLOURS, SHAPES
from .difficulty import Difficulty
from .photographs import TEXTURES
from .signs import LETTERS
from .tables import table

SHORTEST = 8
"""Minimum number of frames of a clip."""
STOPS = 4
"""Number of cells that the hopper hops between."""
DURATIONS = (2, 4, 8, 16)
"""Possible durations of a brown tile in frames; the clip is at least twice as long."""
VISITOR = 3
"""Duration in frames of a striped tile, in the first half of a clip and at its end."""
WHITE, BLACK, BROWN, STRIPED = range(4)
"""Kinds of tiles."""
SAME, OTHER, CHANGED = range(3)
"""Shape on the striped tile at the end: the same as before, another, or the same in another colour."""


@dataclass(frozen=True)
class Stamps:
    """E shapes on tiles in each of B clips, each in one frame; the frame is T for an absent shape."""

    frame: Tensor  # (B, E)
    cell: Tensor  # (B, E) of the view
    tile: Tensor  # (B, E)
    shape: Tensor  # (B, E)
    colour: Tensor  # (B, E)


@dataclass(frozen=True)
class Scenes:
    """A batch of B clips of T frames in R rooms, as tensors on one device; positions are pixels (x, y)."""

    moving: Tensor  # (B,) bool: whether the camera moves
    visit: Tensor  # (B, T) index of the visit
    room: Tensor  # (B, T) room in view; 0 is the first to be seen, 1 the second
    offset: Tensor  # (B, T, 2) whole pixels: the point of the room at the view's origin
    light: Tensor  # (B, T) brightness
    texture: Tensor  # (B, R) of the walls
    tint: Tensor  # (B, R, 3) factors of red, green and blue
    resident_shape: Tensor  # (B, R)
    resident_colour: Tensor  # (B, R)
    resident_cell: Tensor  # (B, R) cell of the room
    sign_letter: Tensor  # (B, R)
    sign_colour: Tensor  # (B, R)
    sign_cell: Tensor  # (B, R)
    screen_cell: Tensor  # (B,) in every room
    screen_texture: Tensor  # (B, T)
    hopper_shape: Tensor  # (B,)
    hopper_colour: Tensor  # (B,)
    hopper_cell: Tensor  # (B, T) cell of the view
    shake: Tensor  # (B, T, 2) of the hopper
    mover_texture: Tensor  # (B, M)
    mover_at: Tensor  # (B, T, M, 2)
    flash_count: Tensor  # (B,)
    flash_frame: Tensor  # (B, F) ascending; T for an absent flash
    flash_shape: Tensor  # (B, F)
    flash_colour: Tensor  # (B, F)
    flash_cell: Tensor  # (B, F)
    duration: Tensor  # (B,) of the brown tile: index into DURATIONS
    visitor: Tensor  # (B,) SAME, OTHER or CHANGED
    stamps: Stamps  # flashes first

    @property
    def frames(self) -> int:
        return self.visit.shape[1]

    def seen(self) -> Tensor:
        """Return whether each room is ever seen, `(B, R)` bool."""
        rooms = torch.arange(self.texture.shape[1], device=self.room.device)
        return (self.room[..., None] == rooms).any(1)

    def in_view(self, cell: Tensor) -> Tensor:
        """Return the centres in the view, `(B, T, 2)`, of cells `(B, R)` of the room in each frame."""
        at = centre_of(cell.gather(1, self.room))
        return (at - self.offset).remainder(SIDE)


def sample_scenes(moving: Tensor, frames: int, generator: torch.Generator, level: Difficulty) -> Scenes:
    """Draw one clip of `frames` frames for each element of `moving` (B,) bool, on the generator's device."""
    dice = Dice(generator)
    count, rooms = len(moving), level.rooms
    most = level.flashes[1]
    visit, room = _visits(dice, count, frames, level)
    shapes = dice.order(len(SHAPES), count)
    cells = dice.order(CELLS * CELLS, count)
    stops, (shown_cell, first_cell, last_cell) = (
        cells[:, 2 * rooms + 1 : 2 * rooms + 1 + STOPS],
        cells[:, -3:].unbind(1),
    )
    hops = (dice.uniform(0, 1, count, frames) < 0.2).cumsum(1) % STOPS
    hopper_cell = stops.gather(1, hops)

    flash_count = dice.integer(*level.flashes, count)
    moments = draw_moments(dice, flash_count + level.decoys, most + level.decoys, frames, frames)
    flash_frame, decoy_frame = _shared_moments(dice, moments, flash_count, most, frames)
    taken = torch.stack([hopper_cell, *(cell[:, None].expand(-1, frames) for cell in cells[:, -3:].unbind(1))], -1)
    flash = Stamps(
        flash_frame,
        free_cells(dice, taken, flash_frame),
        torch.full_like(flash_frame, WHITE),
        shapes[:, rooms + 1 : rooms + 1 + most],
        dice.integer(0, len(COLOURS) - 1, count, most),
    )
    decoy = _decoys(dice, decoy_frame, taken, flash, flash_count, level)
    duration, shown = _brown_tile(dice, shown_cell, frames)
    visitor, striped = _visitor(dice, first_cell, last_cell, frames)
    base = dice.integer(0, SIDE - 1, count, int(level.visits), 2)
    path = camera_path(dice, moving, frames)[0].round().long()
    framing = base.gather(1, visit[..., None].expand(-1, -1, 2)) * moving[:, None, None]

    return Scenes(
        moving=moving,
        visit=visit,
        room=room,
        offset=(path + framing).remainder(SIDE),
        light=_light(dice, visit, level),
        texture=dice.integer(0, TEXTURES - 1, count, rooms),
        tint=dice.uniform(0.8, 1.2, count, rooms, 3),
        resident_shape=shapes[:, :rooms],
        resident_colour=dice.integer(0, len(COLOURS) - 1, count, rooms),
        resident_cell=cells[:, :rooms],
        sign_letter=dice.integer(0, len(LETTERS) - 1, count, rooms),
        sign_colour=dice.order(len(COLOURS), count)[:, :rooms],
        sign_cell=cells[:, rooms : 2 * rooms],
        screen_cell=cells[:, 2 * rooms],
        screen_texture=_screen(dice, count, frames, level.screen),
        hopper_shape=shapes[:, rooms],
        hopper_colour=dice.integer(0, len(COLOURS) - 1, count),
        hopper_cell=hopper_cell,
        shake=(dice.uniform(-1.5, 1.5, count, frames, 2) * moving[:, None, None]).round(),
        mover_texture=dice.integer(0, TEXTURES - 1, count, level.movers),
        mover_at=_movers(dice, count, frames, level.movers),
        flash_count=flash_count,
        flash_frame=flash.frame,
        flash_shape=flash.shape,
        flash_colour=flash.colour,
        flash_cell=flash.cell,
        duration=duration,
        visitor=visitor,
        stamps=_joined(flash, decoy, shown, striped),
    )


def _visits(dice: Dice, count: int, frames: int, level: Difficulty) -> tuple[Tensor, Tensor]:
    """Draw the visit and the room of each frame, `(B, T)` each; consecutive visits show different rooms."""
    most = max(2, min(frames // level.visit, level.visits))
    visits = dice.integer(2, most, count)
    length = dice.uniform(1, 2, count, most) * (torch.arange(most, device=dice.device) < visits[:, None])
    ends = (length.cumsum(1) / length.sum(1, keepdim=True) * frames).round()[:, :-1]
    visit = (torch.arange(frames, device=dice.device)[None, :, None] >= ends[:, None]).sum(-1)
    steps = dice.integer(1, level.rooms - 1, count, most)
    steps[:, 0], steps[:, 1] = 0, 1
    return visit, (steps.cumsum(1) % level.rooms).gather(1, visit)


def _shared_moments(dice: Dice, moments: Tensor, number: Tensor, most: int, frames: int) -> tuple[Tensor, Tensor]:
    """Draw distinct moments, padded with `frames`, for `number` (B,) of up to `most` flashes, and for decoys."""
    present = moments < frames
    order = torch.where(present, dice.uniform(0, 1, *moments.shape), 2.0).argsort(1)
    dealt = moments.gather(1, order)
    rank = torch.arange(moments.shape[1], device=moments.device)
    mine = rank < number[:, None]
    flashes = torch.where(mine, dealt, frames).sort(1).values[:, :most]
    decoys = torch.where(mine, frames, dealt).sort(1).values[:, : moments.shape[1] - most]
    return flashes, decoys


def _decoys(dice: Dice, frame: Tensor, taken: Tensor, flash: Stamps, flash_count: Tensor, level: Difficulty) -> Stamps:
    """Draw shapes on black tiles, some of which equal those of flashes."""
    like = flash.shape.gather(1, dice.integer(0, 59, *frame.shape) % flash_count[:, None])
    other = dice.integer(0, len(SHAPES) - 1, *frame.shape)
    shape = torch.where(dice.uniform(0, 1, *frame.shape) < level.lookalikes, like, other)
    colour = dice.integer(0, len(COLOURS) - 1, *frame.shape)
    return Stamps(frame, free_cells(dice, taken, frame), torch.full_like(frame, BLACK), shape, colour)


def _brown_tile(dice: Dice, cell: Tensor, frames: int) -> tuple[Tensor, Stamps]:
    """Draw a shape on a brown tile for consecutive frames: the index of its duration `(B,)`, and its stamps."""
    count = len(cell)
    allowed = sum(2 * duration <= frames for duration in DURATIONS)
    duration = dice.integer(0, allowed - 1, count)
    length = table(DURATIONS, dice.device)[duration]
    start = (dice.uniform(0, 1, count) * (frames - length + 1)).long()
    ages = torch.arange(DURATIONS[allowed - 1], device=dice.device)
    frame = torch.where(ages < length[:, None], start[:, None] + ages, frames)
    shape, colour = dice.integer(0, len(SHAPES) - 1, count), dice.integer(0, len(COLOURS) - 1, count)
    return duration, _repeated(frame, cell, BROWN, shape, colour)


def _visitor(dice: Dice, first_cell: Tensor, last_cell: Tensor, frames: int) -> tuple[Tensor, Stamps]:
    """Draw shapes on a striped tile in the first half and at the end: their comparison `(B,)`, and their stamps."""
    count, device = len(first_cell), dice.device
    kind = dice.integer(SAME, CHANGED, count)
    shape, colour = dice.integer(0, len(SHAPES) - 1, count), dice.integer(0, len(COLOURS) - 1, count)
    another = (colour + dice.integer(1, len(COLOURS) - 1, count)) % len(COLOURS)
    different = (shape + dice.integer(1, len(SHAPES) - 1, count)) % len(SHAPES)
    before = torch.where(kind == OTHER, different, shape)
    keeps = (kind == SAME) | (kind == OTHER) & (dice.uniform(0, 1, count) < 0.5)
    start = (dice.uniform(0, 1, count) * (frames // 2 - VISITOR + 1)).long()
    ages = torch.arange(VISITOR, device=device)
    first = _repeated(start[:, None] + ages, first_cell, STRIPED, before, torch.where(keeps, colour, another))
    last = _repeated((frames - VISITOR + ages).expand(count, -1), last_cell, STRIPED, shape, colour)
    return kind, _joined(first, last)


def _repeated(frame: Tensor, cell: Tensor, tile: int, shape: Tensor, colour: Tensor) -> Stamps:
    """Repeat one stamp in several frames `(B, E)`."""
    cell, shape, colour = (part[:, None].expand_as(frame) for part in (cell, shape, colour))
    return Stamps(frame, cell, torch.full_like(frame, tile), shape, colour)


def _joined(*parts: Stamps) -> Stamps:
    names = ("frame", "cell", "tile", "shape", "colour")
    return Stamps(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))


def _light(dice: Dice, visit: Tensor, level: Difficulty) -> Tensor:
    """Draw the brightness of each frame: a slow swing, a flickering lamp, and visits with dimmed light."""
    count, frames = visit.shape
    slow = 1 + 0.08 * torch.sin(swing(dice, count, frames, 20, 60))
    lamp = dice.uniform(0.97, 1.03, count, frames)
    dimmed = dice.uniform(0, 1, count, level.visits) < level.dimmed
    return slow * lamp * (1 - (1 - level.darkness) * dimmed.gather(1, visit))


def _screen(dice: Dice, count: int, frames: int, often: float) -> Tensor:
    """Draw the picture on the screen in each frame, `(B, T)`."""
    switched = (dice.uniform(0, 1, count, frames) < often).cumsum(1)
    pictures = dice.integer(0, TEXTURES - 1, count, frames + 1)
    return pictures.gather(1, switched)


def _movers(dice: Dice, count: int, frames: int, movers: int) -> Tensor:
    """Draw paths `(B, T, M, 2)` in whole pixels: constant speed with a sway, wrapping at the edges of the view."""
    time = torch.arange(frames, device=dice.device)[None, :, None, None]
    start, speed = dice.uniform(0, SIDE, count, 1, movers, 2), dice.uniform(-4, 4, count, 1, movers, 2)
    rate = 2 * math.pi / dice.uniform(8, 24, count, 1, movers, 2)
    sway = 6 * torch.sin(rate * time + dice.uniform(0, 6, count, 1, movers, 2))
    return (start + speed * time + sway).round().long().remainder(SIDE)


def cells_in_view(scenes: Scenes, cell: Tensor) -> Tensor:
    """Return the cells of the view `(B, T)` in which cells `(B, R)` of the rooms appear."""
    return cell_of(scenes.in_view(cell))
