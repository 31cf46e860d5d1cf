"""Pooling windows partition the grid, and a merged entry is the mean of what it stands for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from kvpress_video.methods.average_pooling import groups
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, pad

from kvpress_video.compressor.entries import Entries, Grid, Places, segment_entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, ROPE, footage, thinned
from kvpress_video.errors import BudgetError

GRIDS = [Grid(10, 3, 4), Grid(1, 7, 5), Grid(5, 1, 6), Grid(3, 6, 1), Grid(7, 1, 1), Grid(4, 5, 5)]


def boxes(group: Tensor, grid: Grid) -> list[list[tuple[int, int, int]]]:
    """The patches of each window."""
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(int(group.max()) + 1)]
    for token, window in enumerate(group.tolist()):
        frame, patch = divmod(token, grid.patches)
        found[window].append((frame, *divmod(patch, grid.columns)))
    return found


@pytest.mark.parametrize("temporal", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_windows_are_boxes_that_partition_the_grid(grid: Grid, temporal: int) -> None:
    for keep in range(1, grid.tokens + 1):
        windows = boxes(groups(grid, keep, temporal), grid)
        assert len(windows) == keep
        assert all(windows)
        for window in windows:
            sides = [max(axis) - min(axis) + 1 for axis in zip(*window, strict=True)]
            assert math.prod(sides) == len(window)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("temporal", [1, 2])
def test_centres_ascend_and_lie_in_their_windows(grid: Grid, temporal: int) -> None:
    for keep in range(1, grid.tokens + 1):
        centres = make_method("average-pooling", temporal=temporal).select(footage(grid), keep)[0, 0]
        assert groups(grid, keep, temporal)[centres].tolist() == list(range(keep))
        assert (centres.diff() > 0).all()


@pytest.mark.parametrize("temporal", [1, 3])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_everything_kept_is_the_identity(grid: Grid, temporal: int) -> None:
    assert groups(grid, grid.tokens, temporal).tolist() == list(range(grid.tokens))


@pytest.mark.parametrize(("grid", "keep", "temporal", "pooled"), [
    (Grid(6, 4, 4), 24, 1, (6, 2, 2)), (Grid(6, 4, 6), 36, 1, (6, 2, 3)), (Grid(6, 4, 4), 12, 2, (3, 2, 2)),
    (Grid(6, 4, 4), 3, 1, (3, 1, 1)), (Grid(6, 4, 4), 48, 2, (3, 4, 4)), (Grid(2, 6, 6), 8, 1, (2, 2, 2)),
])  # fmt: skip
def test_sides_that_divide_give_adaptive_average_pooling(
    grid: Grid, keep: int, temporal: int, pooled: tuple[int, int, int]
) -> None:
    entries = footage(grid)
    plain = replace(entries, context=replace(entries.context, rope=None))
    merged = make_method("average-pooling", temporal=temporal).compress(plain, keep)
    volume = entries.keys[0].transpose(1, 2).unflatten(2, grid)
    expected = adaptive_avg_pool3d(volume, pooled).flatten(2).transpose(1, 2)
    torch.testing.assert_close(merged.keys[0], expected)


@pytest.mark.parametrize("keep", [13, 29, 75, 111])
def test_frames_get_nearly_equal_counts(keep: int) -> None:
    counts = [len(set(frame.tolist())) for frame in groups(GRID, keep).view(GRID.frames, -1)]
    assert max(counts) - min(counts) == 1
    assert sum(counts) == keep


def test_fewer_windows_than_frames_merge_adjacent_frames() -> None:
    assert groups(GRID, 4).view(10, 12)[:, 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert (groups(GRID, 4).view(10, 12).diff(dim=1) == 0).all()


def test_temporal_gives_way_to_a_budget_with_room_for_more() -> None:
    assert len(set(groups(GRID, 118, 2).tolist())) == 118


@pytest.mark.parametrize("keep", [0, 121])
def test_impossible_counts(keep: int) -> None:
    with pytest.raises(BudgetError, match="ask for 1 to 120"):
        groups(GRID, keep)


def turned(states: Tensor, position: Tensor) -> Tensor:
    """Rotation by position, in complex numbers: (n, 8) and (n, 3)."""
    pairs = torch.complex(states[:, :4].double(), states[:, 4:].double())
    angle = position.double()[:, ROPE.axes] * ROPE.frequencies.double()
    pairs = pairs * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def windows_of(entries: Entries, keep: int) -> list[list[int]]:
    """Members of each window, complete grid or not."""
    if entries.complete:
        group = groups(entries.grid, keep).tolist()
    else:
        group = [place * keep // len(entries) for place in range(len(entries))]
    return [[place for place, window in enumerate(group) if window == number] for number in range(keep)]


@pytest.mark.parametrize("moved", [False, True], ids=["positions kept", "positions compacted"])
@pytest.mark.parametrize("entries", [footage(), thinned(footage(), 7, 40)], ids=["first pass", "later pass"])
def test_merged_entries_are_means(entries: Entries, moved: bool) -> None:
    """Keys that share one content at any position merge into that content, at the mean of the positions."""
    if moved:
        places = pad(entries.places, (0, Places.COMPACT_WIDTH - Places.WIDTH))
        places[..., Places.PRESENT] = entries.position * 0.5 + 3
        entries = replace(entries, places=places)
    assert moved != torch.equal(entries.present, entries.position)
    content = entries.keys[0, 0]
    at = entries.present[0, 0]
    cached = replace(entries, keys=torch.stack([turned(content, at).float()] * 2)[None])
    merged = make_method("average-pooling").compress(cached, 25)
    for number, members in enumerate(windows_of(entries, 25)):
        place = at[members].double().mean(dim=0, keepdim=True)
        expected = turned(content[members].double().mean(dim=0, keepdim=True), place)
        torch.testing.assert_close(merged.keys[0, 0, number].double(), expected[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(merged.present[0, 0, number].double(), place[0])
        for name in ("values", "position", "importance"):
            found, mean = getattr(merged, name)[0, 1, number], getattr(entries, name)[0, 1, members].mean(dim=0)
            torch.testing.assert_close(found, mean)
        assert merged.index[0, 0, number] in entries.index[0, 0, members]


def test_rotated_keys_averaged_as_they_are_would_differ() -> None:
    entries = footage()
    plain = replace(entries, context=replace(entries.context, rope=None))
    pooling = make_method("average-pooling")
    assert (pooling.compress(entries, 24).keys - pooling.compress(plain, 24).keys).abs().max() > 0.1


def test_one_window_keeps_the_central_tags() -> None:
    grid = Grid(3, 3, 5)
    entries = segment_entries(torch.randn(1, 1, 45, 8), torch.randn(1, 1, 45, 8), grid, footage().context)
    merged = make_method("average-pooling").compress(entries, 3)
    assert merged.tags[0, 0, :, 3:].tolist() == [[frame, 1, 2] for frame in range(3)]
    assert merged.places[0, 0, :, Places.ORIGINAL].tolist() == [[frame, 1, 2] for frame in range(3)]
    assert merged.importance.isnan().all()
