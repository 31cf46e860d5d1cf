"""Tags of visual tokens, and entries made of bare tensors."""

from __future__ import annotations

import torch

from kvpress_video.compressor import Context, Grid, Kind, Tags, grid_tags, segment_entries

GRID = Grid(3, 2, 4)


def test_tags_name_the_frame_row_and_column_of_every_token() -> None:
    tags = grid_tags(GRID, Kind.VIDEO, segment=2, first_frame=5)
    assert tags.dtype == torch.int32
    expected = [
        [ordinal, Kind.VIDEO, 2, 5 + frame, row, column]
        for ordinal, (frame, row, column) in enumerate(
            (frame, row, column) for frame in range(3) for row in range(2) for column in range(4)
        )
    ]
    assert tags.tolist() == expected


def test_tags_of_some_tokens_are_those_rows_of_all_tags() -> None:
    some = torch.tensor([1, 6, 7, 20])
    assert torch.equal(grid_tags(GRID, Kind.IMAGE, ordinals=some), grid_tags(GRID, Kind.IMAGE)[some])


def test_tags_stay_on_the_device_of_the_ordinals() -> None:
    assert grid_tags(GRID, Kind.VIDEO, ordinals=torch.arange(24, device="meta")).is_meta


def test_entries_of_bare_tensors_are_tagged_and_placed_alike() -> None:
    keys = torch.randn(2, 3, GRID.tokens, 8)
    entries = segment_entries(keys, keys, GRID, Context())
    assert torch.equal(entries.tags, grid_tags(GRID, Kind.VIDEO).expand(2, 3, -1, -1))
    assert torch.equal(entries.position, entries.tags[..., Tags.FRAME :].float())
    assert entries.importance.isnan().all()
