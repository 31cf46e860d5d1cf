"""Textures cut from the photographs in scikit-image's wheel."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kvpress_video.errors import BenchmarkError

from ..world.scene import SIDE

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
CUTS = 24
"""Number of textures cut from each photograph."""
TEXTURES = CUTS * len(PHOTOGRAPHS)


@cache
def textures(device: torch.device) -> Tensor:
    """Return seamless textures, uint8 `(TEXTURES, SIDE, SIDE, 3)`, the same in every process.

    Raises:
        BenchmarkError: scikit-image is not installed, or has other files.
    """
    folder = _folder()
    dice = np.random.default_rng(0)
    made = [_cut(folder / name, dice) for name in PHOTOGRAPHS]
    return torch.from_numpy(np.concatenate(made)).to(device)


def _folder() -> Path:
    """Find the folder of the photographs without importing the package."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        raise BenchmarkError(
            "The rooms take their textures from scikit-image's photographs: pip install 'kvpress-video[rooms]'"
        )
    folder = Path(found.origin).parent / "data"
    missing = [name for name in PHOTOGRAPHS if not (folder / name).is_file()]
    if missing:
        raise BenchmarkError(f"scikit-image has no {', '.join(missing)} in {folder}: install version 0.22 to 0.26")
    return folder


def _cut(photograph: Path, dice: np.random.Generator) -> np.ndarray:
    """Cut squares of 1 to 2.2 times `SIDE`, scale them to `SIDE`, and hide the seam."""
    with Image.open(photograph) as file:
        picture = file.convert("RGB")
    cuts = []
    for _ in range(CUTS):
        size = int(min(SIDE * dice.uniform(1, 2.2), *picture.size))
        left, top = (int(dice.integers(0, room - size + 1)) for room in picture.size)
        square = picture.crop((left, top, left + size, top + size)).resize((SIDE, SIDE), Image.Resampling.BOX)
        cuts.append(_without_seam(np.asarray(square, dtype=np.float32)))
    return np.stack(cuts)


def _without_seam(picture: np.ndarray) -> np.ndarray:
    """Blend a picture (SIDE, SIDE, 3) into itself shifted by half a side, whose seams are in the middle."""
    away = np.abs(np.arange(SIDE) + 0.5 - SIDE / 2) / (SIDE / 2)
    weight = np.clip(4 * (1 - np.maximum(away[:, None], away)), 0, 1)[..., None]
    shifted = np.roll(picture, SIDE // 2, axis=(0, 1))
    return (picture * weight + shifted * (1 - weight)).round().astype(np.uint8)
