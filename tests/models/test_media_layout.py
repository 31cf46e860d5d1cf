"""Tokens and grids of items of unknown vision towers: read where they can be, and never guessed."""

from __future__ import annotations

import pytest
import torch

from kvpress_video.compressor.entries import Context, Entries, Grid, Kind, UnknownGrid
from kvpress_video.errors import MissingInputError, UnsupportedModelError
from kvpress_video.models.items import features_of
from kvpress_video.models.media_layout import grids, item_grids, token_counts

PIXELS = torch.zeros(2, 3, 28, 42)
THW = torch.tensor([[3, 4, 6], [1, 2, 2]])


@pytest.mark.parametrize(
    ("features", "arguments", "counts"),
    [
        ([torch.zeros(5, 8), torch.zeros(2, 3, 8)], {}, [5, 6]),
        (torch.zeros(2, 7, 8), {}, [7, 7]),
        (torch.zeros(2, 3, 7, 8), {}, [21, 21]),
        (torch.zeros(19, 8), {"image_grid_thw": THW}, [18, 1]),
        (torch.zeros(1, 19, 8), {"image_grid_thw": THW}, [18, 1]),
        (torch.zeros(1, 38, 8), {"image_grid_thw": THW[[0, 0]]}, [19, 19]),  # a newline somewhere
        (torch.zeros(1, 21, 8), {"image_grid_thw": THW}, [21]),
        (torch.zeros(1, 19, 8), {"image_grid_thw": THW[:1]}, [19]),
        (torch.zeros(12, 8), {"pixel_values": PIXELS}, [6, 6]),
        (torch.zeros(13, 8), {"pixel_values": PIXELS}, [13]),
        (torch.zeros(12, 8), {"pixel_values": PIXELS, "image_sizes": torch.tensor([[28, 42], [14, 14]])}, [12]),
    ],
)
def test_tokens_are_counted_item_by_item(features: object, arguments: dict, counts: list[int]) -> None:
    assert token_counts(arguments, features) == counts


def test_features_that_come_with_something_else_are_told_from_a_list_of_items() -> None:
    """As from Ovis 2 of transformers 4.57, which adds the embeddings of the marks around an image."""
    items, marks = torch.zeros(2, 7, 8), torch.zeros(5, 8)
    assert features_of((items, marks)) is items
    assert features_of((marks, marks)) == (marks, marks)


def test_features_of_another_form_are_an_error() -> None:
    with pytest.raises(UnsupportedModelError, match="got dict"):
        token_counts({}, {"features": torch.zeros(2, 8)})


@pytest.mark.parametrize(
    ("kind", "arguments", "counts", "expected"),
    [
        (Kind.VIDEO, {"video_grid_thw": THW}, [18, 1], [(3, 2, 3), (1, 1, 1)]),
        (Kind.VIDEO, {"video_grid_thw": THW}, [36, 1], [None, (1, 1, 1)]),  # half a merged token
        (Kind.IMAGE, {"spatial_shapes": torch.tensor([[4, 6]])}, [6], [(1, 2, 3)]),
        (Kind.IMAGE, {"pixel_values": PIXELS}, [6, 6], [(1, 2, 3)] * 2),
        (Kind.IMAGE, {"pixel_values": PIXELS}, [7, 7], [None] * 2),  # a newline somewhere
        (Kind.IMAGE, {"pixel_values": PIXELS}, [6], [None]),  # two tiles of one image
        (Kind.IMAGE, {"pixel_values": PIXELS[:, :, :, :28]}, [9, 9], [None] * 2),  # learned queries, not patches
        (Kind.IMAGE, {"pixel_values": PIXELS[None, :1]}, [6], [(1, 2, 3)]),
        (Kind.IMAGE, {"pixel_values": PIXELS[None]}, [12], [None]),
        (Kind.VIDEO, {"pixel_values_videos": PIXELS[None]}, [12], [(2, 2, 3)]),
        (Kind.VIDEO, {"pixel_values_videos": PIXELS[None]}, [13], [None]),
        (Kind.IMAGE, {"pixel_values": PIXELS, "high_res_pixel_values": PIXELS}, [6, 6], [None] * 2),
        (Kind.IMAGE, {"pixel_values": PIXELS, "image_sizes": torch.tensor([[14, 42], [28, 14]])}, [3, 2],
         [(1, 1, 3), (1, 2, 1)]),
    ],
)  # fmt: skip
def test_grids_are_read_or_unknown(kind: Kind, arguments: dict, counts: list[int], expected: list) -> None:
    found = grids(kind, arguments, counts, patch_size=14)
    assert [grid.known for grid in found] == [grid is not None for grid in expected]
    assert found == [grid or (1, 1, count) for grid, count in zip(expected, counts, strict=True)]


def test_a_method_that_asks_for_an_unknown_grid_raises_an_error() -> None:
    grid = UnknownGrid(1, 1, 4)
    assert isinstance(grid._replace(frames=1), UnknownGrid)
    parts = [torch.zeros(1, 1, 4, width) for width in (2, 2, 6, 4)]
    with pytest.raises(MissingInputError, match=r"4 tokens.*key-norm"):
        _ = Entries(*parts, Context(grid)).complete
    assert Entries(*parts, Context(Grid(1, 1, 4))).complete


@pytest.mark.parametrize(
    ("arguments", "features", "expected"),
    [
        ({"pixel_values_videos": torch.zeros(4, 3, 28, 42)}, torch.zeros(4, 6, 8), [(4, 2, 3)]),
        ({"pixel_values_videos": torch.zeros(4, 3, 28, 42)}, torch.zeros(2, 6, 8), [(2, 2, 3)]),  # two frames a step
        ({"pixel_values_videos": torch.zeros(4, 3, 28, 42)}, torch.zeros(4, 7, 8), [None]),
        ({"target_sizes_videos": torch.tensor([[4, 6]])}, [torch.zeros(6, 8)] * 3, [(3, 2, 3)]),
        ({"video_grid_thw": THW}, [torch.zeros(18, 8), torch.zeros(1, 8)], [(3, 2, 3), (1, 1, 1)]),
    ],
)
def test_frames_that_are_encoded_alone_are_one_video(arguments: dict, features: object, expected: list) -> None:
    found = item_grids(Kind.VIDEO, arguments, features, patch_size=14)
    assert [tuple(grid) if grid.known else None for grid in found] == expected


def test_frames_of_unequal_size_are_an_error() -> None:
    pixels = {"pixel_values_videos": torch.zeros(2, 3, 28, 42)}
    with pytest.raises(UnsupportedModelError, match="equal size"):
        item_grids(Kind.VIDEO, pixels, [torch.zeros(6, 8), torch.zeros(5, 8)])
