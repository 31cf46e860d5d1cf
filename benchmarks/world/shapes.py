"""The vocabulary of the world: shapes, colours, numbers and places, and the masks of the shapes."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart", "moon", "arrow")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (30, 160, 50),
    "blue": (45, 70, 225),
    "yellow": (240, 215, 20),
    "purple": (140, 40, 190),
    "orange": (245, 130, 15),
    "pink": (250, 150, 200),
    "cyan": (20, 200, 215),
}
NUMBERS = ("one", "two", "three", "four", "five")
ROWS = ("top", "upper", "lower", "bottom")
COLUMNS = ("far left", "left", "right", "far right")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)

ATLAS = 64
"""Side, in samples, of one mask in the atlas; the mask covers coordinates -1.25 … 1.25 of a shape of radius 1."""
REACH = 1.25
RIM = 0.16
"""Width of the dark rim around every shape, in radii."""


def _inside(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Return whether points `(x, y)` (radius 1, y down) are inside the shape, bool."""
    r = torch.hypot(x, y)
    angle = torch.atan2(x, -y)
    match shape:
        case "circle":
            return r < 0.85
        case "square":
            return (x.abs() < 0.74) & (y.abs() < 0.74)
        case "triangle":
            return (y < 0.75) & (y > 2.0 * x.abs() - 0.95)
        case "diamond":
            return 1.35 * x.abs() + y.abs() < 1.0
        case "star":
            wedge = (angle + math.pi / 5).remainder(2 * math.pi / 5) - math.pi / 5
            return r * (torch.cos(wedge.abs()) + 1.25 * torch.sin(wedge.abs())) < 0.98
        case "cross":
            return (torch.minimum(x.abs(), y.abs()) < 0.27) & (torch.maximum(x.abs(), y.abs()) < 0.9)
        case "ring":
            return (r < 0.95) & (r > 0.52)
        case "heart":
            u, v = x * 1.2, -y * 1.2 + 0.15
            return (u * u + v * v - 0.75).pow(3) - u * u * v.pow(3) < 0
        case "moon":
            return (r < 0.92) & (torch.hypot(x - 0.5, y) > 0.72)
        case "arrow":
            shaft = (x > -0.9) & (x < 0.1) & (y.abs() < 0.25)
            return shaft | ((x >= 0.05) & (y.abs() < 0.95 - x))
    raise ValueError(f"unknown shape {shape!r}: the world draws {', '.join(SHAPES)}")


@cache
def atlas(device: torch.device) -> Tensor:
    """Return the masks of all shapes, `(shapes · ATLAS · ATLAS, 2)`, 0 … 1: coverage with and without the rim."""
    fine = ATLAS * 4
    axis = ((torch.arange(fine, dtype=torch.float64) + 0.5) / fine * 2 - 1) * REACH
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    fill = torch.stack([_inside(shape, x, y) for shape in SHAPES]).float()[:, None]
    reach = round(RIM / (2 * REACH) * fine)
    rimmed = torch.nn.functional.max_pool2d(fill, 2 * reach + 1, stride=1, padding=reach)
    masks = torch.nn.functional.avg_pool2d(torch.cat([rimmed, fill], dim=1), 4)
    return masks.permute(0, 2, 3, 1).reshape(-1, 2).to(device)


@cache
def palette(device: torch.device) -> Tensor:
    """Return the RGB values of the colours, `(colours, 3)` in 0…255."""
    return torch.tensor(list(COLOURS.values()), dtype=torch.float32, device=device)
