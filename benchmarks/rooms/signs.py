"""Masks of the letters on signs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LETTERS = ("A", "C", "E", "F", "H", "K", "L", "M", "N", "P", "R", "S", "T", "X", "Y", "Z")
SIGN = 24
"""Side of a sign in pixels."""
BORDER = 3
FINE = 8
"""Samples per pixel and axis for computing coverage."""


@cache
def letters(height: float, device: torch.device) -> Tensor:
    """Return the coverage of a sign by letters of this height in pixels, `(letters, SIGN · SIGN)` in 0 … 1."""
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    drawn = ImageFont.truetype(str(font), round(height * FINE / 0.729))  # capitals are 0.729 em high
    masks = []
    for letter in LETTERS:
        canvas = Image.new("L", (SIGN * FINE, SIGN * FINE))
        ImageDraw.Draw(canvas).text((SIGN * FINE / 2,) * 2, letter, fill=255, font=drawn, anchor="mm")
        masks.append(np.asarray(canvas, dtype=np.float32).reshape(SIGN, FINE, SIGN, FINE).mean(axis=(1, 3)))
    return torch.from_numpy(np.stack(masks) / 255).flatten(1).to(device)
