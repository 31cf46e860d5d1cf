"""Each method against its formula, written out entry by entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch

from kvpress_video.compressor.entries import Context, Entries, Grid, Places, Queries, segment_entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, ROPE, first_frames, footage, later, thinned
from kvpress_video.errors import BudgetError, MissingInputError

KEEPS = [3, 12, 30, 36, 61]
INF = math.inf


class Head:
    """One head's entries as plain lists."""

    def __init__(self, entries: Entries, row: int, head: int) -> None:
        self.grid = entries.grid
        self.keys = entries.keys[row, head].double().tolist()
        self.values = entries.values[row, head].double().tolist()
        self.frame = entries.frame[row, head].tolist()
        self.patch = entries.patch[row, head].tolist()
        self.importance = entries.importance[row, head].double().tolist()
        self.n = len(self.keys)

    @cached_property
    def directions(self) -> list[list[float]]:
        return [[x / (norm(key) + 1e-9) for x in key] for key in self.keys]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def norm(vector: list[float]) -> float:
    return math.sqrt(dot(vector, vector))


def mean(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def best(scores: list[float], keep: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:keep])


def expect(entries: Entries, keep: int, rule: Callable[[Head, int], list[int]]) -> list[list[list[int]]]:
    rows, heads = entries.keys.shape[:2]
    return [[rule(Head(entries, row, head), keep) for head in range(heads)] for row in range(rows)]


def kept(method: str, cached: Entries, keep: int, **settings: Any) -> list[list[list[int]]]:
    return make_method(method, **settings).select(cached, keep).tolist()


at_first_and_later = pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 8, 40)],
    ids=["first pass", "later pass", "later pass, uneven"],
)  # fmt: skip


# TaR, VaN, InfiniPot-V


def tar(head: Head, keep: int, ratio: float = 0.25) -> list[int]:
    recent = max(1, int(head.n / head.grid.patches * ratio))
    scores = []
    for i, own in enumerate(head.directions):
        alike = [
            dot(own, head.directions[j])
            for j in range(head.n)
            if head.patch[j] == head.patch[i] and head.frame[j] >= head.grid.frames - recent
        ]
        scores.append(-sum(alike) / len(alike) if alike else 0.0)
    past = head.n - min(recent * head.grid.patches, 2 * keep // 3)
    stays = [i >= past and head.frame[i] >= head.grid.frames - recent for i in range(head.n)]
    return best([INF if stays[i] else scores[i] for i in range(head.n)], keep)


@at_first_and_later
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
def test_tar(entries: Entries, keep: int, ratio: float) -> None:
    assert kept("tar", entries, keep, recent_ratio=ratio) == expect(entries, keep, lambda h, k: tar(h, k, ratio))


def neighbours(layer: int, layers: int, grid: Grid) -> tuple[int, int, int] | None:
    """Half widths of the pooling window over (frames, rows, columns)."""
    quarter = layer // max(1, layers // 4)
    if quarter > 1:
        return None
    side = min((7, 5)[quarter], *grid)
    side -= 1 - side % 2
    return (side // 2 if quarter == 0 else 0, side // 2, side // 2)


def van_scores(head: Head, layer: int, layers: int) -> list[float]:
    """Over the neighbours that are still cached, times the share of the window that lies inside the video."""
    rows, columns = head.grid[1:]
    where = [(head.frame[i], head.patch[i] // columns, head.patch[i] % columns) for i in range(head.n)]
    lengths = dict(zip(where, map(norm, head.values), strict=True))
    every = [(t, r, c) for t in range(head.grid.frames) for r in range(rows) for c in range(columns)]
    half = neighbours(layer, layers, head.grid)
    quarter = layer // max(1, layers // 4)
    scores = []
    for place in where:
        if half is not None:
            window = [
                (place[0] + a, place[1] + b, place[2] + c)
                for a in range(-half[0], half[0] + 1)
                for b in range(-half[1], half[1] + 1)
                for c in range(-half[2], half[2] + 1)
            ]
        elif quarter == 2:
            flat = every.index(place)
            window = [every[i] if i in range(len(every)) else (-1, 0, 0) for i in (flat - 1, flat, flat + 1)]
        else:
            window = [place]
        present = [lengths[slot] for slot in window if slot in lengths]
        inside = sum(all(0 <= a < b for a, b in zip(slot, head.grid, strict=True)) for slot in window)
        scores.append(sum(present) / len(present) * inside / len(window))
    return scores


@at_first_and_later
@pytest.mark.parametrize(("layer", "layers"), [(0, 8), (1, 8), (2, 8), (4, 8), (6, 8), (4, 5), (0, 2), (1, 2)])
def test_van_pooled(entries: Entries, layer: int, layers: int) -> None:
    entries = replace(entries, context=replace(entries.context, layer=layer, layers=layers))
    scores = make_method("van", pooling=True).scores(entries)
    expected = [
        [van_scores(Head(entries, row, head), layer, layers) for head in range(2)] for row in range(len(scores))
    ]
    torch.testing.assert_close(scores, torch.tensor(expected))


@pytest.mark.parametrize("grid", [Grid(6, 4, 4), Grid(2, 3, 4), Grid(5, 7, 6)], ids=str)
@pytest.mark.parametrize("layer", [0, 1])
def test_pooling_windows_fit_the_grid(grid: Grid, layer: int) -> None:
    scores = make_method("van", pooling=True).scores(footage(grid, layer=layer, layers=4))
    expected = [van_scores(Head(footage(grid), 0, head), layer, 4) for head in range(2)]
    torch.testing.assert_close(scores[0], torch.tensor(expected))


TAUS = (0.15, 0.2, 0.25)


def by_variation(entries: Entries, row: int) -> list[list[float]]:
    """‖V‖ over the neighbours that are still cached, in the window that the variation of the row's norms asks for."""
    heads = [Head(entries, row, head) for head in range(entries.keys.shape[1])]
    every = [norm(value) for head in heads for value in head.values]
    centre = sum(every) / len(every)
    spread = math.sqrt(sum((length - centre) ** 2 for length in every) / len(every)) / centre
    side = next((size for size, tau in zip((7, 5, 3), TAUS, strict=True) if spread < tau), 1)
    rows, columns = heads[0].grid[1:]
    half = min(side, *(width - 1 + width % 2 for width in (rows, columns))) // 2
    scores = []
    for head in heads:
        where = [(head.frame[i], head.patch[i] // columns, head.patch[i] % columns) for i in range(head.n)]
        lengths = dict(zip(where, map(norm, head.values), strict=True))
        mine = []
        for t, r, c in where:
            window = [(t, r + a, c + b) for a in range(-half, half + 1) for b in range(-half, half + 1)]
            held = [lengths[slot] for slot in window if slot in lengths]
            inside = sum(0 <= a < rows and 0 <= b < columns for _, a, b in window)
            mine.append(sum(held) / len(held) * inside / len(window))
        scores.append(mine)
    return scores


@at_first_and_later
@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.0, 3.0)], ids=["small", "large variation"])
def test_van_pooled_by_variation(entries: Entries, scale: tuple[float, float]) -> None:
    """The window shrinks as the norms of a row vary more; rows choose for themselves."""
    draw = torch.Generator().manual_seed(5)
    stretch = 1 + torch.rand(entries.values.shape[0], 1, len(entries), 1, generator=draw) * torch.tensor(scale[1] - 1)
    values = torch.nn.functional.normalize(entries.values, dim=-1) * stretch
    values[:1] *= 1 + 0.3 * torch.rand(values[:1].shape[:3], generator=draw)[..., None]
    entries = replace(entries, values=values)
    scores = make_method("van", pooling="variation", thresholds=TAUS).scores(entries)
    expected = [by_variation(entries, row) for row in range(len(scores))]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_thresholds_come_with_the_model() -> None:
    entries = footage()
    method = make_method("infinipot-v:paper")
    with pytest.raises(MissingInputError, match="kvpress-video probe variation"):
        method.select(entries, 30)
    calibrated = replace(entries, context=replace(entries.context, calibration={"van_thresholds": TAUS}))
    asked = make_method("infinipot-v:paper", thresholds=TAUS)
    assert torch.equal(method.select(calibrated, 30), asked.select(entries, 30))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_papers_rule_of_pooling_is_not_the_released_one(layer: int) -> None:
    entries = footage(layer=layer)
    paper = make_method("van", pooling="variation", thresholds=(0.0, 0.0, 0.0)).select(entries, 30)
    assert not torch.equal(paper, make_method("van", pooling=True).select(entries, 30))


@at_first_and_later
def test_van(entries: Entries) -> None:
    assert kept("van", entries, 30) == expect(entries, 30, lambda h, k: best([norm(v) for v in h.values], k))


@pytest.mark.parametrize("frames", [3, 4])
def test_official_pooling_reads_survivors_as_whole_frames(frames: int) -> None:
    survivors = thinned(footage(), 7, 12 * (frames - 3))
    again = segment_entries(survivors.keys, survivors.values, Grid(frames, 3, 4), Context(layer=0, layers=4))
    official, tracked = (make_method("van", pooling=True, entries=how) for how in ("official", "tracked"))
    torch.testing.assert_close(official.scores(survivors), tracked.scores(again))


@at_first_and_later
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_infinipot_v(entries: Entries, keep: int, share: float) -> None:
    def rule(head: Head, keep: int) -> list[int]:
        by_tar = tar(head, keep - round((1 - share) * keep), 0.125)
        return best([INF if i in by_tar else norm(head.values[i]) for i in range(head.n)], keep)

    assert kept("infinipot-v", entries, keep, tar_ratio=share) == expect(entries, keep, rule)


@pytest.mark.parametrize("method", ["tar", "infinipot-v:tar_ratio=0.8"])
def test_official_and_tracked_agree_on_the_first_pass_if_recent_frames_leave_a_third(method: str) -> None:
    """ρ = .25 of 10 frames protects two of 12 patches: 24 entries of a share of 36 and more."""
    entries = footage(batch=2)
    for keep in (45, 60, 100):
        assert kept(method, entries, keep, entries="official") == kept(method, entries, keep, entries="tracked")


@pytest.mark.parametrize(
    ("keep", "whole_frames"), [(11, 0), (12, 1), (35, 1), (36, 1), (48, 2), (59, 2), (60, 5), (61, 5)]
)
def test_as_released_recent_frames_shrink_to_whole_ones_in_half_of_a_small_budget(keep: int, whole_frames: int) -> None:
    """ρ = .5 of 10 frames protects five of them, if the budget holds five."""
    chosen = kept("tar", footage(), keep, recent_ratio=0.5, entries="official")[0][0]
    assert set(range(120 - 12 * whole_frames, 120)) <= set(chosen)
    one_more = set(range(120 - 12 * (whole_frames + 1), 120))
    assert not one_more <= set(chosen)


def test_a_patch_without_a_recent_entry_scores_nothing() -> None:
    """A budget that shrinks without new frames: patch 5 has left the last frame."""
    entries = footage()
    left = torch.tensor([i for i in range(120) if i != 9 * 12 + 5])
    cached = replace(entries.gather(left.expand(1, 2, -1)), context=entries.context)
    scores = make_method("tar", recent_ratio=0.1).scores(cached)
    assert torch.equal(scores == 0, cached.patch == 5)


# Novelty, standby, both


def novelty(head: Head, reference: str) -> list[float]:
    def centre(patch: int) -> list[float]:
        return mean(
            [d for d, p in zip(head.directions, head.patch, strict=True) if reference == "global" or p == patch]
        )

    centres = [centre(patch) for patch in range(head.grid.patches)]
    return [-dot(d, centres[p]) / norm(centres[p]) for d, p in zip(head.directions, head.patch, strict=True)]


def with_last_frame(head: Head, scores: list[float], order: list[float], keep: int, share: float) -> list[int]:
    last = [i for i in range(head.n) if head.frame[i] == head.grid.frames - 1]
    first_in_line = sorted(last, key=lambda i: -order[i])[: int(share * keep)]
    return best([INF if i in first_in_line else scores[i] for i in range(head.n)], keep)


@at_first_and_later
@pytest.mark.parametrize("reference", ["patch", "global"])
@pytest.mark.parametrize(("keep", "share"), [(3, 0.25), (30, 0.25), (52, 0.25), (30, 0.0), (20, 1.0)])
def test_novelty(entries: Entries, reference: str, keep: int, share: float) -> None:
    def rule(head: Head, keep: int) -> list[int]:
        scores = novelty(head, reference)
        return with_last_frame(head, scores, scores, keep, share)

    assert kept("novelty", entries, keep, reference=reference, last_frame=share) == expect(entries, keep, rule)


def z(scores: list[float]) -> list[float]:
    centre = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - centre) ** 2 for score in scores) / len(scores))
    return [(score - centre) / deviation for score in scores]


@at_first_and_later
@pytest.mark.parametrize("reference", ["patch", "global"])
@pytest.mark.parametrize("keep", [3, 30, 52])
def test_standby_novelty(entries: Entries, reference: str, keep: int) -> None:
    def rule(head: Head, keep: int) -> list[int]:
        important, new = z([math.log(weight) for weight in head.importance]), z(novelty(head, reference))
        both = [a + b for a, b in zip(important, new, strict=True)]
        return with_last_frame(head, both, head.importance, keep, 0.25)

    assert kept("standby-novelty", entries, keep, reference=reference) == expect(entries, keep, rule)


def test_importance_of_zero_is_no_nan() -> None:
    entries = footage()
    places = entries.places.clone()
    places[..., ::5, Places.IMPORTANCE] = 0
    assert make_method("standby-novelty").scores(replace(entries, places=places)).isfinite().all()


def test_nothing_new_scores_by_importance_alone() -> None:
    """A still picture: z of equal novelty is zero, not noise over zero."""
    entries = footage()
    still = replace(entries, keys=torch.ones_like(entries.keys))
    assert kept("standby-novelty", still, 30, last_frame=0.0) == kept("standby", still, 30)


@at_first_and_later
def test_standby(entries: Entries) -> None:
    assert kept("standby", entries, 30) == expect(entries, 30, lambda head, keep: best(head.importance, keep))


@at_first_and_later
def test_key_norm(entries: Entries) -> None:
    assert kept("key-norm", entries, 30) == expect(entries, 30, lambda h, keep: best([-norm(k) for k in h.keys], keep))


# SnapKV


@pytest.mark.parametrize("kernel", [1, 5])
def test_snapkv(kernel: int) -> None:
    """Against softmax over everything that a query may see: text before, the video, text after, itself."""
    heads, shared, window, before, after, dim = 2, 3, 4, 5, 6, 8
    grid = Grid(3, 2, 3)
    length = before + grid.tokens + after
    draw = torch.Generator().manual_seed(3)
    keys = torch.randn(heads, length, dim, generator=draw)
    queries = torch.randn(heads * shared, window, dim, generator=draw)
    index = torch.tensor([before + 4, before + 11, length - 2, length - 1])  # two of them inside the video
    logits = torch.stack([queries[q] @ keys[q // shared].T for q in range(heads * shared)])
    logits = logits.masked_fill(torch.arange(length) > index[:, None], -INF)
    attention = logits.softmax(-1)[..., before : before + grid.tokens]
    expected = torch.zeros(heads, grid.tokens)
    for head in range(heads):
        raw = attention[head * shared : (head + 1) * shared].mean(dim=(0, 1)).tolist()
        for i in range(grid.tokens):
            near = [raw[j] for j in range(i - kernel // 2, i + kernel // 2 + 1) if 0 <= j < grid.tokens]
            expected[head, i] = sum(near) / kernel
    captured = Queries(queries[None], logits.logsumexp(-1)[None], index[None])
    video = keys[None, :, before : before + grid.tokens]
    entries = segment_entries(video, video, grid, Context(queries=captured))
    entries = replace(entries, tags=entries.tags + torch.tensor([before, 0, 0, 0, 0, 0], dtype=torch.int32))
    torch.testing.assert_close(make_method("snapkv", kernel=kernel).scores(entries)[0], expected)


# Baselines


@pytest.mark.parametrize(("keep", "frames", "oldest"), [
    (12, [5], 12), (24, [2, 7], 12), (36, [1, 5, 8], 12), (60, [1, 3, 5, 7, 9], 12), (30, [1, 5, 8], 6),
    (7, [5], 7), (108, [0, 1, 2, 3, 5, 6, 7, 8, 9], 12),
])  # fmt: skip
def test_uniform(keep: int, frames: list[int], oldest: int) -> None:
    """The middle frame of each equal stretch, whole but for the end of the oldest."""
    expected = [12 * frame + patch for frame in frames for patch in range(12)]
    assert kept("uniform", footage(), keep) == [[expected[:oldest] + expected[12:]] * 2]


def stream(method: str, entries: Entries, keep: int, step: int) -> Entries:
    """Remaining entries if `step` frames arrive at a time."""
    made, cached = make_method(method), first_frames(entries, 0)
    for frames in range(step, entries.grid.frames + 1, step):
        cached = later(cached, first_frames(entries, frames), frames - step)
        if keep < len(cached):
            cached = made.compress(cached, keep)
    return cached


@pytest.mark.parametrize("step", [1, 4, 16])
@pytest.mark.parametrize("keep", [40, 42])
def test_uniform_stays_even_in_a_stream(step: int, keep: int) -> None:
    left = stream("uniform", footage(Grid(192, 1, 2)), keep, step)
    frames = left.frame[0, 0].unique()
    assert len(frames) in (keep // 2, keep // 2 + 1)
    counts = torch.histc(frames.float(), 4, 0, 192)
    assert counts.min() >= 3
    assert counts.max() <= 8


def test_uniform_of_frames_that_are_all_old() -> None:
    """Frames 1, 5 and 8 are wanted, 0 to 3 are left: 3 stands in for two, so the one before it is drawn on."""
    left = first_frames(footage(), 4)
    chosen = kept("uniform", replace(left, context=footage().context), 36)[0][0]
    assert chosen == list(range(12, 48))


@pytest.mark.parametrize("step", [1, 3])
def test_random_sample_of_a_stream_is_the_sample_of_the_whole(step: int) -> None:
    entries = footage(Grid(18, 2, 3), batch=2)
    assert torch.equal(stream("random", entries, 20, step).index, make_method("random").compress(entries, 20).index)


def test_random_is_uniform_and_differs_by_everything() -> None:
    entries = footage(Grid(200, 10, 10), heads=3)
    scores = make_method("random").scores(entries)
    assert scores.min() >= 0
    assert scores.max() < 1
    counts = torch.histc(scores, 20, 0, 1)
    assert (counts - counts.mean()).square().sum() / counts.mean() < 43.8  # chi-squared, 19 degrees of freedom, .1%
    others = [scores[0, 0], scores[0, 1], make_method("random", seed=1).scores(entries)[0, 0]]
    others.append(make_method("random").scores(replace(entries, context=replace(entries.context, layer=1)))[0, 0])
    correlation = torch.corrcoef(torch.stack(others)) - torch.eye(len(others))
    assert correlation.abs().max() < 0.03
    frames = scores[0, 0].view(200, 100)
    assert torch.corrcoef(frames[:, :2].T)[0, 1].abs() < 0.25


def test_recent_and_sink_window() -> None:
    assert kept("recent", footage(), 5) == [[[115, 116, 117, 118, 119]] * 2]
    assert kept("sink-window", footage(), 7) == [[[0, 1, 2, 3, 117, 118, 119]] * 2]
    assert kept("sink-window", footage(), 4, sinks=1) == [[[0, 117, 118, 119]] * 2]
    left = stream("sink-window", footage(), 14, 2)
    assert left.index.tolist() == [[[0, 1, 2, 3, *range(110, 120)]] * 2]


# Detachable


def detachable(head: Head, keep: int, window: int, scores: list[float]) -> list[int]:
    """The window's whole frames, then one more entry of each old frame at a time, the better ones first."""
    chosen = list(range(head.n - window // head.grid.patches * head.grid.patches, head.n))
    turns: dict[int, list[int]] = {}
    for frame in sorted(set(head.frame)):
        mine = [i for i in range(head.n) if head.frame[i] == frame and i not in chosen]
        for turn, i in enumerate(sorted(mine, key=lambda i: -scores[i])):
            turns.setdefault(turn, []).append(i)
    for turn in sorted(turns):
        chosen += sorted(turns[turn], key=lambda i: -scores[i])[: keep - len(chosen)]
    return sorted(chosen)


@at_first_and_later
@pytest.mark.parametrize(
    ("keep", "window"), [(24, 0.5), (30, 0.5), (32, 0.4), (61, 0.5), (61, 0.2), (36, 1.0), (50, 27)]
)
def test_detachable(entries: Entries, keep: int, window: float | int) -> None:
    def rule(head: Head, keep: int) -> list[int]:
        inside = window if isinstance(window, int) else int(window * keep)
        return detachable(head, keep, inside, [norm(value) for value in head.values])

    assert kept("detachable", entries, keep, window=window, scorer="van") == expect(entries, keep, rule)


def test_bank_gives_old_frames_equal_quotas() -> None:
    chosen = make_method("detachable", scorer="van").select(footage(), 2 * 12 + 3 * 8)[0, 0]
    assert torch.bincount(chosen // 12).tolist() == [3] * 8 + [12] * 2


def test_a_frame_that_leaves_the_window_migrates() -> None:
    left = stream("detachable", footage(Grid(40, 3, 4)), 48, 1)
    counts = torch.bincount(left.frame[0, 0], minlength=40)
    assert counts[-2:].tolist() == [12, 12]
    assert counts[:-2].max() <= 3
    assert counts[:10].sum() > 0


@pytest.mark.parametrize(("settings", "keep", "smallest"), [
    ({"window": 0.5}, 23, 24), ({"window": 0.3}, 39, 40), ({"window": 0.1}, 100, 120), ({"window": 30}, 11, 12),
])  # fmt: skip
def test_window_below_one_frame_names_the_smallest_budget(settings: dict[str, Any], keep: int, smallest: int) -> None:
    method = make_method("detachable", scorer="van", **settings)
    with pytest.raises(BudgetError, match=f"a frame of 12: ask for a budget of {smallest} entries or more"):
        method.select(footage(), keep)
    if smallest < GRID.tokens:
        method.select(footage(), smallest)
    with pytest.raises(BudgetError):
        method.select(footage(), smallest - 1)


def test_window_in_entries_below_one_frame() -> None:
    with pytest.raises(BudgetError, match="ask for window=12 or more"):
        make_method("detachable", scorer="van", window=7).select(footage(), 60)


def test_window_and_bank_are_capacities() -> None:
    method = make_method("detachable", scorer="van", window=30, bank=20)
    for keep in (50, 40):
        chosen = method.select(footage(), keep)[0, 0]
        assert torch.bincount(chosen // 12)[-2:].tolist() == [12, 12]
    with pytest.raises(BudgetError, match="ask for 50 or less"):
        method.select(footage(), 51)


@pytest.mark.parametrize(("keep", "most"), [(25, 1), (40, 3), (48, 3), (49, 4), (56, 4), (57, 5), (119, 12)])
def test_per_frame_caps_what_an_old_frame_leaves_in_a_full_bank(keep: int, most: int) -> None:
    """Eight older frames leave 24 entries, what the bank holds beyond is filled up evenly."""
    method = make_method("detachable", scorer="van", window=24, per_frame=3)
    counts = torch.bincount(method.select(footage(), keep)[0, 0] // 12, minlength=10).tolist()
    assert counts[-2:] == [12, 12]
    assert max(counts[:8]) == most
    assert sum(counts) == keep


# Per-layer budgets


@pytest.mark.parametrize(
    ("shares", "layers"), [((1.5, 0.5), 4), ((1.5, 0.5), 7), ((3, 2, 1), 28), ((0.1, 0.2, 0.7), 3)]
)
@pytest.mark.parametrize("keep", [10, 33, 6144])
def test_layers_share_exactly(shares: tuple[float, ...], layers: int, keep: int) -> None:
    method = make_method("per-layer", shares=shares)
    budgets = [method.layer_budget(keep, layer, layers) for layer in range(layers)]
    assert sum(budgets) == keep * layers
    weight = [shares[layer * len(shares) // layers] for layer in range(layers)]
    assert all(abs(b - keep * layers * w / sum(weight)) < 1 for b, w in zip(budgets, weight, strict=True))


def test_per_layer_is_its_base_in_each_layer() -> None:
    base, method = make_method("average-pooling"), make_method("per-layer", base="average-pooling")
    entries = footage()
    assert torch.equal(base.compress(entries, 24).keys, method.compress(entries, 24).keys)
    assert entries.context.rope is ROPE
    assert make_method("per-layer", base="tar").select(entries, 30).tolist() == kept("tar", entries, 30)


def test_layers_left_without_entries() -> None:
    with pytest.raises(BudgetError, match="leaves none for layer"):
        [make_method("per-layer", shares=(100, 1)).layer_budget(2, layer, 8) for layer in range(8)]
    with pytest.raises(BudgetError, match="3 shares for 2 layers"):
        make_method("per-layer", shares=(1, 1, 1)).layer_budget(2, 0, 2)
