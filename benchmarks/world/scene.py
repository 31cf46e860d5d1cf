"""Scenes: two static sprites, one that hops, shapes that flash, and a camera.

The scene is a torus of 4 × 4 cells exactly as large as the view, so that a panning camera never loses an object. A
*place* is a cell of the view. All positions are pixels, (x, y), of the scene or, where noted, of the view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import COLOURS, SHAPES

CELLS = 4
CELL = 28
SIDE = CELLS * CELL
"""Side of the square view in pixels: 4 × 4 merged visual tokens of 28 pixels."""
STAYING = 2
"""Number of static sprites; the sprite after them is the mover."""
STOPS = 4
"""Number of cells that the mover hops between."""
FLASHES = (2, 5)
"""Minimum and maximum number of flashes in a clip (at most one per frame)."""
GLARES = 3
WAVES = 8


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes of T frames, as tensors on one device; the last sprite is the mover."""

    moving: Tensor  # (B,) bool: whether the camera moves
    offset: Tensor  # (B, T, 2) pixels: the scene point seen at the view's origin, at zoom 1
    zoom: Tensor  # (B, T): at least 1, exactly 1 in the last frame
    gain: Tensor  # (B, T): brightness
    sprite_shape: Tensor  # (B, 3)
    sprite_colour: Tensor  # (B, 3)
    sprite_radius: Tensor  # (B, 3) pixels
    sprite_at: Tensor  # (B, T, 3, 2) pixels of the scene
    flash_count: Tensor  # (B,)
    flash_frame: Tensor  # (B, 5) ascending; T for an absent flash
    flash_shape: Tensor  # (B, 5)
    flash_colour: Tensor  # (B, 5)
    flash_cell: Tensor  # (B, 5) cell of the view, row-major
    flash_shift: Tensor  # (B, 5, 2) pixels from the cell's centre
    glare_frame: Tensor  # (B, 3) T where there is none
    glare_cell: Tensor  # (B, 3)
    glare_pattern: Tensor  # (B, 3, 3, 4, 4) RGB in 0…255
    poster_cell: Tensor  # (B,) cell of the scene
    wave_number: Tensor  # (B, WAVES, 2) whole periods across the scene
    wave_phase: Tensor  # (B, WAVES)
    wave_colour: Tensor  # (B, WAVES, 3)
    base_colour: Tensor  # (B, 3)

    @property
    def frames(self) -> int:
        return self.offset.shape[1]

    def sprite_in_view(self) -> Tensor:
        """Return the centres of the sprites in the view, `(B, T, 3, 2)`, in pixels."""
        return in_view(self.sprite_at, self.offset[:, :, None], self.zoom[:, :, None, None])

    def sprite_cell(self) -> Tensor:
        """Return the cells of the view that contain the sprites, `(B, T, 3)`, row-major."""
        return cell_of(self.sprite_in_view())


def in_view(at: Tensor, offset: Tensor, zoom: Tensor) -> Tensor:
    """Return the position in the view, in pixels, of the scene point `at`; arguments broadcast."""
    middle = SIDE / 2
    return ((at - offset).remainder(SIDE) - middle) * zoom + middle


def cell_of(at: Tensor) -> Tensor:
    """Return the row-major cells of points of the view `(..., 2)`."""
    column, row = (at / CELL).floor().long().clamp(0, CELLS - 1).unbind(-1)
    return row * CELLS + column


def centre_of(cell: Tensor) -> Tensor:
    """Return the centres `(..., 2)`, in pixels, of cells `(...)`."""
    return torch.stack([cell % CELLS, cell // CELLS], dim=-1) * CELL + CELL / 2


class Dice:
    """Draws random tensors from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def integer(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw integers from low to high, both inclusive."""
        return torch.randint(low, high + 1, shape, generator=self.generator, device=self.device)

    def order(self, length: int, *shape: int) -> Tensor:
        """Draw permutations of range(length) along a new last dimension."""
        return self.uniform(0, 1, *shape, length).argsort(-1)


def sample_scenes(moving: Tensor, frames: int, generator: torch.Generator, flashing: int | None = None) -> Scenes:
    """Draw one scene of `frames` frames for each element of `moving` (B,) bool, on the generator's device.

    Shapes flash within the first `flashing` frames only, or in any frame if it is None.
    """
    dice = Dice(generator)
    count = moving.shape[0]
    most = FLASHES[1]
    offset, zoom = camera_path(dice, moving, frames)
    shapes = dice.order(len(SHAPES), count)
    cells = dice.order(CELLS * CELLS, count)

    hops = (dice.uniform(0, 1, count, frames) < 0.2).cumsum(1) % STOPS
    stops = cells[:, STAYING : STAYING + STOPS]
    staying = cells[:, None, :STAYING].expand(-1, frames, -1)
    at_cell = torch.cat([staying, stops.gather(1, hops)[..., None]], dim=-1)
    sprite_at = centre_of(at_cell) + dice.uniform(-3, 3, count, 1, STAYING + 1, 2)

    flashing = frames if flashing is None else flashing
    flash_count = dice.integer(*FLASHES, count).clamp(max=flashing)
    flash_frame = draw_moments(dice, flash_count, most, flashing, frames)
    seen = cell_of(in_view(sprite_at, offset[:, :, None], zoom[:, :, None, None]))
    glare_frame = draw_moments(dice, dice.integer(0, GLARES, count).clamp(max=frames), GLARES, frames, frames)

    return Scenes(
        moving=moving,
        offset=offset,
        zoom=zoom,
        gain=1 + 0.08 * torch.sin(swing(dice, count, frames, 20, 60)),
        sprite_shape=shapes[:, : STAYING + 1],
        sprite_colour=dice.integer(0, len(COLOURS) - 1, count, STAYING + 1),
        sprite_radius=dice.uniform(9.5, 11.5, count, STAYING + 1),
        sprite_at=sprite_at,
        flash_count=flash_count,
        flash_frame=flash_frame,
        flash_shape=shapes[:, STAYING + 1 : STAYING + 1 + most],
        flash_colour=dice.integer(0, len(COLOURS) - 1, count, most),
        flash_cell=free_cells(dice, seen, flash_frame),
        flash_shift=dice.uniform(-2, 2, count, most, 2),
        glare_frame=glare_frame,
        glare_cell=free_cells(dice, seen, glare_frame),
        glare_pattern=dice.uniform(20, 200, count, GLARES, 3, CELLS, CELLS),
        poster_cell=cells[:, STAYING + STOPS],
        wave_number=dice.integer(-3, 3, count, WAVES, 2) * torch.arange(1, WAVES + 1, device=dice.device)[:, None] // 3,
        wave_phase=dice.uniform(0, 2 * math.pi, count, WAVES),
        wave_colour=dice.uniform(-22, 22, count, WAVES, 3),
        base_colour=dice.uniform(60, 130, count, 3),
    )


def camera_path(dice: Dice, moving: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Draw offsets `(B, T, 2)` and zoom `(B, T)`: drift, sway and shake that end at the position of a still camera."""
    count = moving.shape[0]
    left = torch.arange(frames - 1, -1, -1, device=dice.device)[None, :, None]
    speed = dice.uniform(1.0, 3.0, count, 1, 2) * (dice.integer(0, 1, count, 1, 2) * 2 - 1)
    sway = dice.uniform(3, 10, count, 1, 2)
    rate = 2 * math.pi / dice.uniform(12, 30, count, 1, 2)
    phase = dice.uniform(0, 2 * math.pi, count, 1, 2)
    shake = dice.uniform(-1.5, 1.5, count, frames, 2)
    path = speed * left + sway * (torch.sin(rate * left + phase) - torch.sin(phase)) + shake
    depth = dice.uniform(0, 0.1, count, 1)
    swell = depth * (1 - torch.cos(2 * math.pi * left[..., 0] / dice.uniform(16, 40, count, 1)))
    return path * moving[:, None, None], 1 + swell * moving[:, None]


def swing(dice: Dice, count: int, frames: int, shortest: float, longest: float) -> Tensor:
    """Draw angles `(count, frames)` that complete a turn in `shortest` … `longest` frames."""
    time = torch.arange(frames, device=dice.device)[None]
    turn = 2 * math.pi / dice.uniform(shortest, longest, count, 1)
    return turn * time + dice.uniform(0, 2 * math.pi, count, 1)


def draw_moments(dice: Dice, number: Tensor, most: int, first: int, frames: int) -> Tensor:
    """Draw `number` (B,) of the `first` frames of each scene, ascending, padded with `frames` to `(B, most)`."""
    order = dice.order(first, number.shape[0])[:, :most]
    moments = torch.full((number.shape[0], most), frames, device=dice.device)
    moments[:, : order.shape[1]] = order
    absent = torch.arange(most, device=dice.device)[None] >= number[:, None]
    return moments.masked_fill(absent, frames).sort(1).values


def free_cells(dice: Dice, seen: Tensor, moments: Tensor) -> Tensor:
    """Draw a cell of the view for each moment `(B, M)`, away from the cells `seen` (B, T, 3) of the sprites."""
    count, most = moments.shape
    at = moments.clamp(max=seen.shape[1] - 1)[..., None].expand(-1, -1, seen.shape[2])
    taken = seen.gather(1, at)
    return dice.uniform(0, 1, count, most, CELLS * CELLS).scatter(2, taken, -1.0).argmax(-1)
