"""Render batches of clips of rooms on any device, by pasting small patches into views of walls."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..world.render import MARK, RIM_COLOUR, viewfinder
from ..world.scene import CELL, SIDE, centre_of
from ..world.shapes import ATLAS, REACH, atlas, palette
from .difficulty import Difficulty
from .photographs import textures
from .scene import BLACK, BROWN, STRIPED, WHITE, Scenes
from .signs import BORDER, SIGN, letters
from .tables import table

RADIUS = 10.0
"""Radius of every shape, in pixels."""
TILE = 25
"""Side of a tile in pixels."""
SCREEN = 24
MOVER = 20
"""Side of a screen, and diameter of a mover, in pixels."""
TILES = {WHITE: (225.0,) * 3, BLACK: (25.0,) * 3, BROWN: (110.0, 70.0, 40.0), STRIPED: (225.0,) * 3}
STRIPE, STRIPE_COLOUR = 4, (90.0,) * 3
"""Height and colour of the dark stripes of a striped tile."""
PAPER, INK = 215.0, 25.0


def render(scenes: Scenes, level: Difficulty, generator: torch.Generator) -> Tensor:
    """Render a noisy picture for each frame: `(B, T, 3, 112, 112)` float in 0 … 255."""
    return with_noise(render_clean(scenes, level), level, generator)


def with_noise(clean: Tensor, level: Difficulty, generator: torch.Generator) -> Tensor:
    """Add sensor noise to pictures `(B, T, 3, 112, 112)`, with a different strength for each clip."""
    count, frames = clean.shape[:2]
    device = clean.device
    low, high = level.noise
    strength = low + (high - low) * torch.rand(count, 1, 1, 1, 1, generator=generator, device=device)
    grain = torch.randn(count, frames, 1, SIDE, SIDE, generator=generator, device=device)
    return (clean + strength * grain).round_().clamp_(0, 255)


def render_clean(scenes: Scenes, level: Difficulty) -> Tensor:
    """Render the frames without noise, `(B, T, 3, 112, 112)`."""
    frames = scenes.frames
    canvas = _Canvas(_walls(scenes, level), frames)
    for mover in range(scenes.mover_at.shape[2]):
        picture = textures(canvas.device)[scenes.mover_texture[:, mover], :MOVER, :MOVER].float()
        picture = picture[:, None].expand(-1, frames, -1, -1, -1)
        canvas.paste(scenes.mover_at[:, :, mover], picture, _disc(canvas.device))
    screen = textures(canvas.device)[scenes.screen_texture, :SCREEN, :SCREEN].float()
    canvas.paste(scenes.in_view(scenes.screen_cell[:, None].expand_as(scenes.texture)), screen)
    canvas.paste(scenes.in_view(scenes.sign_cell), _signs(scenes, level))
    for shape, colour, at in (
        (scenes.resident_shape.gather(1, scenes.room), scenes.resident_colour.gather(1, scenes.room), None),
        (scenes.hopper_shape[:, None], scenes.hopper_colour[:, None], centre_of(scenes.hopper_cell) + scenes.shake),
    ):
        cover, ink = _shapes(shape.expand(-1, frames), colour.expand(-1, frames))
        canvas.paste(scenes.in_view(scenes.resident_cell) if at is None else at, ink, cover)
    stamps = scenes.stamps
    canvas.paste(centre_of(stamps.cell), _stamped(scenes), frame=stamps.frame)
    video = canvas.frames() * scenes.light[:, :, None, None, None]
    marks, marked = viewfinder(canvas.device)
    return torch.where(marked, marks, video.permute(0, 1, 4, 2, 3))


class _Canvas:
    """Pictures `(B, T, S, S, 3)` to paste patches into, wrapping at the edges, and one picture to discard."""

    def __init__(self, walls: Tensor, frames: int) -> None:
        self.device = walls.device
        self._count, self._frames = len(walls), frames
        self._pixels = torch.cat([walls.flatten(0, 3), walls.new_zeros(SIDE * SIDE, 3)])

    def paste(self, at: Tensor, patch: Tensor, cover: Tensor | None = None, frame: Tensor | None = None) -> None:
        """Paste one patch into each frame, or patch e of each clip into its `frame` (B, E); T is the discarded picture.

        Args:
            at: centres in pixels, (B, E, 2).
            patch: colours, (B, E, h, w, 3).
            cover: opacity of the patch, 0 … 1, broadcast to (B, E, h, w); opaque by default.
            frame: (B, E); patches of one frame must not overlap.
        """
        count, number, height, width = patch.shape[:4]
        if frame is None:
            frame = torch.arange(self._frames, device=self.device).expand(count, -1)
        picture = frame + self._frames * torch.arange(count, device=self.device)[:, None]
        picture = torch.where(frame < self._frames, picture, self._count * self._frames)
        corner = at.long() - table((width // 2, height // 2), self.device)
        column = (corner[..., 0, None] + torch.arange(width, device=self.device)).remainder(SIDE)
        row = (corner[..., 1, None] + torch.arange(height, device=self.device)).remainder(SIDE)
        pixel = (picture[..., None, None] * SIDE + row[..., None]) * SIDE + column[:, :, None]
        pixel, patch = pixel.flatten(), patch.reshape(-1, 3)
        if cover is not None:
            share = cover.expand(count, number, height, width).reshape(-1, 1)
            patch = torch.lerp(self._pixels[pixel], patch, share)
        self._pixels[pixel] = patch

    def frames(self) -> Tensor:
        return self._pixels[: -SIDE * SIDE].view(self._count, self._frames, SIDE, SIDE, 3)


def _walls(scenes: Scenes, level: Difficulty) -> Tensor:
    """Render the empty room of each frame, `(B, T, S, S, 3)`."""
    count, rooms = scenes.texture.shape
    device = scenes.texture.device
    walls = textures(device)[scenes.texture].float()
    middle = walls.mean(dim=(2, 3, 4), keepdim=True)
    walls = (walls - middle) * level.contrast + middle.clamp(70, 150)
    walls = (walls * scenes.tint[:, :, None, None]).clamp_(0, 255).flatten(0, 3)
    axis = torch.arange(SIDE, device=device)
    column, row = ((axis + scenes.offset[..., place, None]).remainder(SIDE) for place in (0, 1))
    picture = scenes.room + rooms * torch.arange(count, device=device)[:, None]
    pixel = (picture[..., None, None] * SIDE + row[..., None]) * SIDE + column[:, :, None]
    return walls[pixel]


def _signs(scenes: Scenes, level: Difficulty) -> Tensor:
    """Render the sign in the room of each frame, `(B, T, SIGN, SIGN, 3)`."""
    device = scenes.room.device
    paint = palette(device)[scenes.sign_colour]
    ink = letters(level.glyph, device)[scenes.sign_letter]
    paper = PAPER + (INK - PAPER) * ink.view(*ink.shape[:2], SIGN, SIGN, 1)
    axis = torch.arange(SIGN, device=device)
    edge = (axis < BORDER) | (axis >= SIGN - BORDER)
    signs = torch.where((edge[:, None] | edge)[..., None], paint[:, :, None, None], paper)
    rows = torch.arange(len(signs), device=device)[:, None]
    return signs[rows, scenes.room]


def _stamped(scenes: Scenes) -> Tensor:
    """Render the tiles with their shapes, `(B, E, TILE, TILE, 3)`."""
    stamps = scenes.stamps
    device = stamps.tile.device
    plain = table(tuple(TILES[kind] for kind in sorted(TILES)), device)[stamps.tile]
    dark = (torch.arange(TILE, device=device) // STRIPE % 2 == 1)[:, None, None]
    striped = (stamps.tile == STRIPED)[..., None, None, None] & dark
    tile = torch.where(striped, table(STRIPE_COLOUR, device), plain[:, :, None, None])
    cover, ink = _shapes(stamps.shape, stamps.colour)
    return torch.lerp(tile, ink, cover[..., None])


def _shapes(shape: Tensor, colour: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coverage of tiles by shapes `(B, E, TILE, TILE)`, and their colours `(B, E, TILE, TILE, 3)`."""
    device = shape.device
    axis = (torch.arange(TILE, device=device) + 0.5 - TILE / 2) / RADIUS
    sample = ((axis / REACH + 1) * (ATLAS / 2)).long().clamp(0, ATLAS - 1)
    masks = atlas(device).view(-1, ATLAS, ATLAS, 2)[:, sample[:, None], sample]
    cover, fill = masks[shape].unbind(-1)
    paint = palette(device)[colour][:, :, None, None]
    return cover, RIM_COLOUR + (paint - RIM_COLOUR) * fill[..., None]


@cache
def _disc(device: torch.device) -> Tensor:
    """Return the coverage of a mover's square, `(MOVER, MOVER)`."""
    axis = torch.arange(MOVER, device=device) + 0.5 - MOVER / 2
    return ((axis[:, None].square() + axis.square()) < (MOVER / 2) ** 2).float()


assert TILE <= CELL - MARK // 2
