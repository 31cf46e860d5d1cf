"""Pushed frames: whatever holds them, they become RGB bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kvpress_video.errors import VideoError
from kvpress_video.video.frames import as_frames

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), np.uint8)
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_of_every_width(dtype: torch.dtype) -> None:
    """A decoder on a GPU gives frames in the model's type. The error is at most half a step of it, next to 1."""
    given = (torch.from_numpy(PICTURES) / 255).to(dtype)
    for frames in (given, given.permute(0, 3, 1, 2), list(given), given.clone().requires_grad_()):
        found = as_frames(frames)
        assert (found.shape, found.dtype) == (PICTURES.shape, np.uint8)
        error = np.abs(found.astype(int) - PICTURES).max()
        assert error <= 255 * torch.finfo(dtype).eps / 4 + 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_of_numpy(dtype: Any) -> None:
    assert np.abs(as_frames((PICTURES / 255).astype(dtype)).astype(int) - PICTURES).max() <= (dtype is np.float16)


def test_floats_that_numpy_does_not_know() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    found = as_frames((PICTURES / 255).astype(ml_dtypes.bfloat16))
    assert np.abs(found.astype(int) - PICTURES).max() <= 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integers_of_every_width(dtype: torch.dtype) -> None:
    assert (as_frames(torch.from_numpy(PICTURES).to(dtype)) == PICTURES).all()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.full((1, 3, 4, 4), 1.01, dtype=torch.bfloat16), "must lie between 0 and 1: divide by 255"),
        (torch.full((1, 3, 4, 4), torch.nan, dtype=torch.float16), "must lie between 0 and 1"),
        (np.full((4, 4, 3), -1), "must be integers from 0 to 255 or floats from 0 to 1; got int64"),
        (np.zeros((4, 4, 3), bool), "got bool"),
        (np.zeros((4, 4, 3), complex), "got complex128"),
        (np.zeros((4, 4, 4), np.uint8), r"must be \(n, height, width, 3\), at least one of them; got \(4, 4, 4\)"),
        ([], "No frames were given"),
    ],
)
def test_what_is_no_frame(frames: Any, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        as_frames(frames)
