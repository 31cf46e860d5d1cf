"""Render batches of scenes on any device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .scene import CELL, CELLS, SIDE, STAYING, Scenes, centre_of
from .shapes import ATLAS, REACH, atlas, palette

TILE = 12.5
"""Half the side of the white tile behind a flash, in pixels."""
WHITE = 225.0
RIM_COLOUR = 20.0
MARK = 5
"""Side of one viewfinder mark in pixels."""
MARKS = ((20, 20, 20), (230, 60, 60), (60, 230, 60), (235, 235, 235))
"""Colours of the viewfinder marks for rows (left mark of a cell) and columns (right mark) 0 … 3."""


def render(scenes: Scenes, noise: float, generator: torch.Generator) -> Tensor:
    """Render two noisy video frames for each frame of each scene: `(B, T, 2, 3, 112, 112)` float in 0 … 255."""
    clean = render_clean(scenes)[:, :, None].expand(-1, -1, 2, -1, -1, -1)
    grain = torch.randn(*clean.shape[:3], 1, SIDE, SIDE, generator=generator, device=clean.device)
    return (clean + noise * grain).round_().clamp_(0, 255)


def render_clean(scenes: Scenes) -> Tensor:
    """Render the frames without noise, `(B, T, 3, 112, 112)`."""
    view = _pixels(scenes.offset.device)
    looked_at = _scene_coordinates(scenes, view)
    image = _sample(_backdrop(scenes), looked_at)
    for sprite in range(STAYING + 1):
        centre = scenes.sprite_at[:, :, sprite, None, None]
        away = (looked_at - centre + SIDE / 2).remainder(SIDE) - SIDE / 2
        radius = scenes.sprite_radius[:, None, sprite, None, None]
        image = _stamp(image, away / radius[..., None], scenes.sprite_shape[:, sprite], scenes.sprite_colour[:, sprite])
    image = _flash(_glare(image, scenes, view), scenes, view)
    image = image * scenes.gain[:, :, None, None, None]
    marks, marked = viewfinder(image.device)
    return torch.where(marked, marks, image)


def _pixels(device: torch.device) -> Tensor:
    """Return the pixel centres of the view, `(SIDE, SIDE, 2)`, as (x, y)."""
    axis = torch.arange(SIDE, device=device) + 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], dim=-1)


def _scene_coordinates(scenes: Scenes, view: Tensor) -> Tensor:
    """Return the scene point at each pixel, `(B, T, SIDE, SIDE, 2)`, in 0 … SIDE."""
    middle = SIDE / 2
    zoom = scenes.zoom[:, :, None, None, None]
    return ((view - middle) / zoom + middle + scenes.offset[:, :, None, None]).remainder(SIDE)


def _backdrop(scenes: Scenes) -> Tensor:
    """Render the scene without objects, `(B, 3, SIDE, SIDE)`: coloured waves, and one high-contrast poster."""
    pixels = _pixels(scenes.offset.device) / SIDE * (2 * torch.pi)
    angle = torch.einsum("yxc,bwc->bwyx", pixels, scenes.wave_number.float()) + scenes.wave_phase[:, :, None, None]
    waves = torch.einsum("bwyx,bwc->bcyx", torch.cos(angle), scenes.wave_colour)
    image = scenes.base_colour[:, :, None, None] + waves
    away = _pixels(image.device) - centre_of(scenes.poster_cell)[:, None, None]
    poster = (away.abs() < 11).all(-1)[:, None]
    checker = (away / 5.5).floor().sum(-1).remainder(2)[:, None] * 160 + 30
    return torch.where(poster, checker, image)


def _sample(picture: Tensor, at: Tensor) -> Tensor:
    """Read `picture` (B, 3, SIDE, SIDE) at scene points `(B, T, SIDE, SIDE, 2)`: `(B, T, 3, SIDE, SIDE)`."""
    batch, frames = at.shape[:2]
    x, y = at.long().clamp(max=SIDE - 1).unbind(-1)
    index = (y * SIDE + x).reshape(batch, 1, -1).expand(-1, 3, -1)
    read = picture.flatten(2).gather(2, index)
    return read.view(batch, 3, frames, SIDE, SIDE).transpose(1, 2)


def _stamp(image: Tensor, away: Tensor, shape: Tensor, colour: Tensor) -> Tensor:
    """Draw shapes over `image` (B, T, 3, S, S); `away` (B, T, S, S, 2) in radii, `shape`, `colour` (B,) or (B, T)."""
    device = image.device
    shape = shape.view(shape.shape[0], -1, 1, 1)
    column, row = ((away / REACH + 1) * (ATLAS / 2)).long().clamp(0, ATLAS - 1).unbind(-1)
    rimmed, fill = atlas(device)[(shape * ATLAS + row) * ATLAS + column].unbind(-1)
    paint = palette(device)[colour].view(colour.shape[0], -1, 3, 1, 1)
    ink = RIM_COLOUR + (paint - RIM_COLOUR) * fill[:, :, None]
    return torch.lerp(image, ink, rimmed[:, :, None])


def _at_frame(moments: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return the index of the event in each frame, `(B, T)`, and whether there is one, `(B, T)`."""
    match = moments[:, None] == torch.arange(frames, device=moments.device)[None, :, None]
    return match.int().argmax(-1), match.any(-1)


def _flash(image: Tensor, scenes: Scenes, view: Tensor) -> Tensor:
    event, happens = _at_frame(scenes.flash_frame, scenes.frames)
    centre = (centre_of(scenes.flash_cell) + scenes.flash_shift).gather(1, event[..., None].expand(-1, -1, 2))
    away = view - centre[:, :, None, None]
    tile = (away.abs() < TILE).all(-1)[:, :, None]
    flash = torch.full_like(image, WHITE)
    flash = _stamp(flash, away / 10.0, scenes.flash_shape.gather(1, event), scenes.flash_colour.gather(1, event))
    return torch.where(tile & happens[:, :, None, None, None], flash, image)


def _glare(image: Tensor, scenes: Scenes, view: Tensor) -> Tensor:
    event, happens = _at_frame(scenes.glare_frame, scenes.frames)
    rows = torch.arange(len(event), device=event.device)[:, None]
    centre = centre_of(scenes.glare_cell).gather(1, event[..., None].expand(-1, -1, 2))
    tile = ((view - centre[:, :, None, None]).abs() < TILE).all(-1)[:, :, None]
    pattern = scenes.glare_pattern[rows, event].repeat_interleave(CELL // CELLS, 3).repeat_interleave(CELL // CELLS, 4)
    return torch.where(tile & happens[:, :, None, None, None], pattern.repeat(1, 1, 1, CELLS, CELLS), image)


@cache
def viewfinder(device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw the viewfinder (3, S, S) and its mask (S, S): marks in the lower corners of each cell encode its place."""
    colours = torch.tensor(MARKS, dtype=torch.float32, device=device)
    picture = torch.zeros(3, CELLS, CELL, CELLS, CELL, device=device)
    mask = torch.zeros(CELL, CELL, dtype=torch.bool, device=device)
    low = slice(CELL - MARK, CELL)
    picture[:, :, low, :, :MARK] = colours.T[:, :, None, None, None]
    picture[:, :, low, :, CELL - MARK :] = colours.T[:, None, None, :, None]
    mask[low, :MARK] = mask[low, CELL - MARK :] = True
    return picture.view(3, SIDE, SIDE), mask.repeat(CELLS, CELLS)
