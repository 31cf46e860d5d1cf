"""Methods for streams against their rules, written out frame by frame, over many passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import zoo
from generation import SETTINGS, answer, model_of, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Context, Entries, Grid, Places, segment_entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import GRID, ROPE, first_frames, footage, later, thinned
from kvpress_video.errors import BudgetError, KVPressVideoError, MissingInputError, UnknownNameError

Vector = list[float]
LONG = Grid(30, 3, 4)
FAMILIES = [family for family in ("qwen2_5_vl", "llava_next_video") if family in zoo.FAMILIES]


def passes(method: Compressor, entries: Entries, keep: int, step: int) -> Iterator[tuple[Entries, Entries]]:
    """Entries before and after each pass, if `step` frames arrive at a time."""
    cached = first_frames(entries, 0)
    for seen in range(step, entries.grid.frames + 1, step):
        cached = later(cached, first_frames(entries, seen), seen - step)
        if keep < len(cached):
            found, cached = cached, method.compress(cached, keep)
            assert len(cached) == keep
            yield found, cached


def streamed(method: Compressor, entries: Entries, keep: int, step: int) -> Entries:
    return list(passes(method, entries, keep, step))[-1][1]


def dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def unit(vector: Vector) -> Vector:
    return [x / math.sqrt(dot(vector, vector)) for x in vector]


def weighted(vectors: list[Vector], weights: Vector) -> Vector:
    return [dot(list(column), weights) / sum(weights) for column in zip(*vectors, strict=True)]


def turned(key: Vector, position: Vector, sign: int) -> Vector:
    """A key rotated to a position (sign 1) or back from it (-1), pair by pair."""
    half = len(ROPE.frequencies)
    out = list(key)
    for i, (frequency, axis) in enumerate(zip(ROPE.frequencies.tolist(), ROPE.axes.tolist(), strict=True)):
        pair = complex(key[i], key[i + half]) * complex(
            math.cos(position[axis] * frequency), sign * math.sin(position[axis] * frequency)
        )
        out[i], out[i + half] = pair.real, pair.imag
    return out


class Head:
    """One head's entries as plain lists."""

    def __init__(self, entries: Entries, row: int, head: int) -> None:
        self.keys, self.values = entries.keys[row, head].double().tolist(), entries.values[row, head].double().tolist()
        self.frame, self.index = entries.frame[row, head].tolist(), entries.index[row, head].tolist()
        self.places = entries.places[row, head].double().tolist()
        self.n, self.grid = len(self.keys), entries.grid
        queries = entries.context.queries
        assert queries is not None
        shared = queries.states.shape[1] // entries.keys.shape[1]
        mine = slice(head * shared, (head + 1) * shared)
        self.drawn = [0.0] * self.n
        states, normaliser = (
            queries.states[row, mine].double().tolist(),
            queries.normaliser[row, mine].double().tolist(),
        )
        looks = len(states) * len(states[0])
        for query_head, norms in zip(states, normaliser, strict=True):
            for query, norm, place in zip(query_head, norms, queries.index[row].tolist(), strict=True):
                for i in range(self.n):
                    if self.index[i] <= place:
                        self.drawn[i] += math.exp(dot(query, self.keys[i]) - norm) / looks

    def content(self, i: int) -> Vector:
        return turned(self.keys[i], self.places[i][:3], -1)

    def merge(self, members: list[int], weights: Vector) -> tuple[Vector, Vector, Vector]:
        """Key, value and places of a mean."""
        place = weighted([self.places[i] for i in members], weights)
        key = turned(weighted([self.content(i) for i in members], weights), place[:3], 1)
        return key, weighted([self.values[i] for i in members], weights), place


def best(scores: Vector, keep: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:keep])


def each_head(entries: Entries) -> Iterator[tuple[int, int, Head]]:
    for row in range(entries.keys.shape[0]):
        for head in range(entries.keys.shape[1]):
            yield row, head, Head(entries, row, head)


def close(one: Tensor, other: Any) -> None:
    torch.testing.assert_close(one, torch.tensor(other, dtype=one.dtype), rtol=1e-4, atol=1e-5)


def same_rows(kept: Entries, entries: Entries, but: Tensor | None = None) -> None:
    """Kept entries equal the inputs bit for bit, except for merged entries marked by `but` (batch, kv_heads, n)."""
    original = entries.gather(torch.searchsorted(entries.index.contiguous(), kept.index.contiguous()))
    as_it_was = torch.ones_like(kept.index, dtype=torch.bool) if but is None else ~but
    for mine, theirs in ((kept.keys, original.keys), (kept.values, original.values), (kept.places, original.places)):
        assert torch.equal(mine[as_it_was], theirs[as_it_was])
    assert torch.equal(kept.tags, original.tags)


# Memory bank


def memory_bank(entries: Entries, row: int, keep: int, order: str = "oldest", compare: str = "neighbours") -> list[int]:
    """Frames in, one at a time; entries of a whole video out."""
    heads, patches = [Head(entries, row, head) for head in range(entries.keys.shape[1])], entries.grid.patches
    bank: list[int] = []
    features: dict[int, list[Vector]] = {}
    last = 0
    backwards = order == "newest" and keep >= patches
    for frame in reversed(range(entries.grid.frames)) if backwards else range(entries.grid.frames):
        mine = range(frame * patches, (frame + 1) * patches)
        features[frame] = [unit(weighted([unit(head.content(i)) for i in mine], [1.0] * patches)) for head in heads]
        bank.insert(0 if backwards else len(bank), frame)
        if len(bank) <= keep // patches:
            continue
        newer = [bank[i + 1 :] if compare == "all" else bank[i + 1 : i + 2] for i in range(len(bank) - 1)]
        alike = [
            max(sum(map(dot, features[a], features[b])) for b in others) for a, others in zip(bank, newer, strict=False)
        ]
        last = bank.pop(alike.index(max(alike)) if alike else 0)
    whole = [frame * patches + patch for frame in bank for patch in range(patches)]
    return sorted([*whole, *range(last * patches, last * patches + keep % patches)])


@pytest.mark.parametrize("keep", [0, 5, 11, 12, 17, 24, 36, 41, 100, 119, 120])
def test_memory_bank(keep: int) -> None:
    entries = footage(batch=2)
    chosen = make_method("memory-bank").select(entries, keep)
    assert chosen.tolist() == [[memory_bank(entries, row, keep)] * 2 for row in range(2)]


@pytest.mark.parametrize("keep", [0, 5, 12, 36, 41, 119])
@pytest.mark.parametrize(
    "settings", [{"order": "newest"}, {"compare": "all"}, {"order": "newest", "compare": "all"}], ids=str
)
def test_memory_bank_in_other_orders(keep: int, settings: dict[str, str]) -> None:
    entries = footage(batch=2)
    chosen = make_method("memory-bank", **settings).select(entries, keep)
    assert chosen.tolist() == [[memory_bank(entries, row, keep, **settings)] * 2 for row in range(2)]


def changing(*scenes: int, noise: float = 0.05) -> Entries:
    """Embeddings before prefill: each frame shows one of several scenes, with noise."""
    draw = torch.Generator().manual_seed(len(scenes))
    shown = torch.randn(max(scenes) + 1, 12, 8, generator=draw)
    keys = torch.cat([shown[scene] + noise * torch.randn(12, 8, generator=draw) for scene in scenes])[None, None]
    return segment_entries(keys, keys[..., :0], Grid(len(scenes), 3, 4), Context())


@pytest.mark.parametrize("frames", range(2, 10))
@pytest.mark.parametrize("order", ["oldest", "newest"])
@pytest.mark.parametrize("compare", ["neighbours", "all"])
def test_a_change_after_a_static_stretch_is_kept_before_prefill(frames: int, order: str, compare: str) -> None:
    entries = changing(0, 0, 0, 0, 0, 0, 1, 1, 1, 1)
    kept = make_method("memory-bank", order=order, compare=compare).compress(entries, 12 * frames).frame
    assert kept.min() < 6 <= kept.max()
    assert kept.max() == 9


@pytest.mark.parametrize("frames", [2, 3, 5])
@pytest.mark.parametrize("event", [2, 4, 7])
def test_an_event_of_one_frame_is_kept_if_all_pairs_are_compared(frames: int, event: int) -> None:
    entries = changing(*(int(frame == event) for frame in range(10)))
    kept = make_method("memory-bank", order="newest", compare="all").compress(entries, 12 * frames).frame
    assert {event, 9} <= set(kept[0, 0].tolist())


@pytest.mark.parametrize("keep", [7, 12, 17, 36, 41, 100])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 10])
def test_memory_bank_does_not_care_how_many_frames_come_at_once(keep: int, step: int) -> None:
    entries = footage(LONG, batch=2)
    method = make_method("memory-bank")
    left = streamed(method, entries, keep, step)
    assert torch.equal(left.index, method.compress(entries, keep).index)
    same_rows(left, entries)


def test_memory_bank_always_holds_the_newest_frame() -> None:
    for found, left in passes(make_method("memory-bank"), footage(LONG), 30, 1):
        newest = found.grid.frames - 1
        assert int((left.frame[0, 0] == newest).sum()) == 12


def test_memory_bank_of_a_budget_that_shrinks() -> None:
    """Three frames and a part, then two and a part without new frames, then less of the part."""
    entries, method = footage(), make_method("memory-bank")
    left = replace(method.compress(entries, 41), context=entries.context)
    frames = sorted(set(left.frame[0, 0].tolist()))
    whole = [frame for frame in frames if int((left.frame[0, 0] == frame).sum()) == 12]
    assert (len(frames), len(whole)) == (4, 3)
    less = method.compress(left, 38)
    assert torch.bincount(less.frame[0, 0], minlength=10)[whole].tolist() == [12] * 3
    assert len(less) == 38
    alone = torch.cat([torch.arange(12 * frame, 12 * frame + 12) for frame in whole])
    renamed = replace(entries.gather(alone.expand(1, 2, -1)), context=replace(entries.context, grid=Grid(3, 3, 4)))
    expected = [alone.tolist()[i] for i in memory_bank(renamed, 0, 30)]
    assert method.compress(less, 30).index[0, 0].tolist() == expected


def test_memory_bank_looks_at_what_is_in_the_keys_and_not_when() -> None:
    """A frame comes twice, far apart in time; between them it changes a little at a time. The twins go first."""
    draw = torch.Generator().manual_seed(1)
    scene, drift = torch.randn(12, 8, generator=draw), torch.randn(12, 8, generator=draw)
    content = torch.cat([scene, scene, scene + 0.3 * drift, scene + 0.6 * drift])
    entries = footage(Grid(4, 3, 4))
    times = torch.tensor([0.0, 300.0, 301.0, 302.0]).repeat_interleave(12)
    places = entries.places.clone()
    places[..., 0] = times
    keys = ROPE.rotate(content.expand(1, 2, -1, -1), places[..., Places.ORIGINAL])
    cached = replace(entries, keys=keys, places=places)
    assert make_method("memory-bank").compress(cached, 36).frame.unique().tolist() == [1, 2, 3]


def test_memory_bank_before_prefill_compares_embeddings_as_they_are() -> None:
    entries = footage(heads=1)
    bare = replace(entries, context=replace(entries.context, rope=None))
    rotated = replace(entries, keys=ROPE.rotate(entries.keys, entries.present))
    method = make_method("memory-bank")
    assert torch.equal(method.select(bare, 41), method.select(rotated, 41))


def test_memory_bank_refuses_what_another_method_thinned() -> None:
    with pytest.raises(BudgetError, match="whole frames of 12 patches, but parts of several are cached"):
        make_method("memory-bank").select(thinned(footage(), 7, 36), 40)


# HERMES


def hermes(head_scores: list[Vector], layer: int, layers: int) -> Vector:
    """Scores of a layer, from what each head's entries draw."""
    drawn = [sum(column) / len(column) for column in zip(*head_scores, strict=True)]
    n, first, deep = len(drawn), layers // 10, layers * 7 // 10
    if layer < first:
        omega, rate = 1.0, 20.0
    elif layer >= deep:
        omega, rate = 0.0, 1.0
    else:
        omega, rate = (start - fall * (layer - first) / (deep - first) for start, fall in ((0.75, 0.6), (20.0, 19.5)))
    recent = [math.exp(-rate * (n - 1 - i) / (n - 1)) for i in range(n)]

    def spread(scores: Vector) -> Vector:
        return [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]

    return [(1 - omega) * a + omega * r for a, r in zip(spread(drawn), spread(recent), strict=True)]


@pytest.mark.parametrize("layer", range(10))
@pytest.mark.parametrize("keep", [1, 11, 50])
def test_hermes(layer: int, keep: int) -> None:
    for entries in (footage(batch=2, layer=layer, layers=10), later_pass(layer)):
        chosen = make_method("hermes").select(entries, keep)
        for row in range(len(chosen)):
            drawn = [head.drawn for at, _, head in each_head(entries) if at == row]
            assert chosen[row].tolist() == [best(hermes(drawn, layer, 10), keep)] * 2


def later_pass(layer: int) -> Entries:
    """Entries at a second pass: 30 survivors of seven frames, the same in both heads, and three new frames."""
    entries = footage(layer=layer, layers=10)
    return later(make_method("hermes", summary=False).compress(first_frames(entries, 7), 30), entries, 7)


@pytest.mark.parametrize(("layers", "shallow", "deep"), [(28, 2, 19), (36, 3, 25), (4, 0, 2), (10, 1, 7), (1, 0, 0)])
def test_hermes_layers(layers: int, shallow: int, deep: int) -> None:
    """The newest in shallow layers, attention in deep ones, something else in between."""
    method = make_method("hermes", summary=False)
    for layer in range(layers):
        entries = footage(layer=layer, layers=layers)
        chosen = method.select(entries, 40)[0, 0].tolist()
        heads = [head.drawn for _, _, head in each_head(entries)]
        attended = best([a + b for a, b in zip(*heads, strict=True)], 40)
        assert (chosen == list(range(80, 120))) == (layer < shallow)
        assert (chosen == attended) == (layer >= deep)


@pytest.mark.parametrize("keep", [1, 7, 60, 119])
def test_hermes_puts_what_goes_into_one_entry_of_deep_layers(keep: int) -> None:
    entries = footage(batch=2, layer=8, layers=10)
    kept = make_method("hermes").compress(entries, keep)
    for row, at, head in each_head(entries):
        drawn = [other.drawn for r, _, other in each_head(entries) if r == row]
        scores = hermes(drawn, 8, 10)
        order = sorted(range(head.n), key=lambda i: -scores[i])
        merged = order[keep - 1 :]
        slot = sorted(order[:keep]).index(merged[0])
        for mine, expected in zip(
            (kept.keys, kept.values, kept.places), head.merge(merged, [1.0] * len(merged)), strict=True
        ):
            close(mine[row, at, slot], expected)
        others = torch.zeros(2, 2, keep, dtype=torch.bool)
        others[..., :] = True
        others[row, :, [i for i in range(keep) if i != slot]] = False
        same_rows(kept, entries, but=others)


@pytest.mark.parametrize(("layer", "settings"), [(0, {}), (6, {}), (9, {"summary": False})])
def test_hermes_keeps_entries_as_they_are(layer: int, settings: dict[str, Any]) -> None:
    entries = footage(layer=layer, layers=10)
    for _, left in passes(make_method("hermes", **settings), entries, 40, 2):
        same_rows(left, entries)


def test_hermes_drops_nothing_it_need_not() -> None:
    entries = footage(layer=9, layers=10)
    same_rows(make_method("hermes").compress(entries, 120), entries)


# StreamMem


def streammem(head: Head, keep: int, share: float) -> tuple[list[int], dict[int, list[int]]]:
    """Slots that stay, and for each that holds a prototype the members of its frame."""
    patches = head.grid.patches
    frames = [[i for i in range(head.n) if head.frame[i] == frame] for frame in range(head.grid.frames)]
    whole = [frame for frame in frames if len(frame) == patches]
    whole.sort(key=lambda frame: -sum(head.drawn[i] for i in frame))
    slots = {min(frame, key=lambda i: head.drawn[i]): frame for frame in whole[: int(share * keep)]}
    return best([math.inf if i in slots else head.drawn[i] for i in range(head.n)], keep), slots


@pytest.mark.parametrize("entries", [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 10, 60)],
                         ids=["first pass", "later pass", "no complete frame"])  # fmt: skip
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 5, 11, 30, 59])
def test_streammem(entries: Entries, share: float, keep: int) -> None:
    method = make_method("streammem", prototypes=share)
    chosen, kept = method.select(entries, keep), method.compress(entries, keep)
    merged = torch.zeros(chosen.shape, dtype=torch.bool)
    for row, at, head in each_head(entries):
        expected, slots = streammem(head, keep, share)
        assert chosen[row, at].tolist() == expected
        for place, slot in enumerate(expected):
            if slot in slots:
                merged[row, at, place] = True
                means = head.merge(slots[slot], [head.drawn[i] + 1e-30 for i in slots[slot]])
                for mine, theirs in zip((kept.keys, kept.values, kept.places), means, strict=True):
                    close(mine[row, at, place], theirs)
    assert merged.any() == (int(share * keep) > 0 and entries.frame.eq(9).sum() == 24 * len(chosen))
    same_rows(kept, entries, but=merged)


@pytest.mark.parametrize("step", [1, 3])
def test_streammem_keeps_old_prototypes_as_they_are(step: int) -> None:
    """A prototype is made of each complete frame; the frames that an earlier pass thinned are never merged again."""
    thinned_before = False
    for found, left in passes(make_method("streammem"), footage(LONG), 40, step):
        place = torch.searchsorted(found.index.contiguous(), left.index.contiguous())
        changed = (found.gather(place).keys != left.keys).any(dim=-1)
        for head in range(2):
            complete = (torch.bincount(found.frame[0, head], minlength=30) == 12).nonzero().flatten().tolist()
            assert left.frame[0, head][changed[0, head]].tolist() == complete
            assert complete[-step:] == list(range(found.grid.frames - step, found.grid.frames))
            thinned_before |= len(complete) < found.grid.frames
    assert thinned_before


def test_streammem_drops_nothing_it_need_not() -> None:
    same_rows(make_method("streammem").compress(footage(), 120), footage())


def test_streammem_of_an_image_smaller_than_its_budget_share() -> None:
    image = footage(Grid(1, 3, 4))
    kept = make_method("streammem").compress(image, 5)
    expected, slots = streammem(Head(image, 0, 0), 5, 0.5)
    assert len(slots) == 1
    assert kept.index[0, 0].tolist() == expected


# Detachable


def window_and_bank(
    head: Head, keep: int, window: int, per_frame: int, score: Callable[[int], float], thin: Callable[[int], float]
) -> list[int]:
    """Of each older frame its best; the thinner's best of these, or more of every frame while there is room."""
    inside = list(range(head.n - window, head.n))
    room, older = keep - window, range(head.n - window)
    by_frame: dict[int, list[int]] = {}
    for i in sorted(older, key=lambda i: -score(i)):
        by_frame.setdefault(head.frame[i], []).append(i)
    bank = [i for frame in by_frame.values() for i in frame[:per_frame]]
    if len(bank) > room:
        return sorted(sorted(sorted(bank), key=lambda i: -thin(i))[:room]) + inside
    for turn in range(per_frame, head.grid.patches):
        bank += sorted((frame[turn] for frame in by_frame.values() if len(frame) > turn), key=lambda i: -score(i))
    return sorted(bank[:room]) + inside


@pytest.mark.sampled
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("per_frame", [1, 2, 5, 20])
@pytest.mark.parametrize(("keep", "window"), [(48, 0.5), (57, 0.5), (40, 36), (100, 0.2)])
@pytest.mark.parametrize("thinner", [None, "key-norm"])
def test_detachable_in_a_stream(step: int, per_frame: int, keep: int, window: float, thinner: str | None) -> None:
    """Pass by pass: migration, a bank that fills up with the rest of older frames, a full one that is thinned."""
    entries = footage(LONG, batch=2)
    method = make_method("detachable", scorer="van", window=window, per_frame=per_frame, thinner=thinner)
    inside = int(window * keep if window < 1 else window) // 12 * 12
    for found, left in passes(method, entries, keep, step):
        assert torch.equal(found.gather(method.select(found, keep)).index, left.index)
        same_rows(left, entries)
        for row, at, head in each_head(found):
            norms = {True: [-dot(key, key) for key in head.keys], False: [dot(v, v) for v in head.values]}
            thin = norms[thinner is not None]
            expected = window_and_bank(head, keep, inside, per_frame, norms[False].__getitem__, thin.__getitem__)
            assert left.index[row, at].tolist() == [head.index[i] for i in expected]


def test_a_bank_fills_up_and_is_thinned_from_then_on() -> None:
    """36 entries for older frames that leave two each: room for more until the eighteenth, thinned after it."""
    method = make_method("detachable", scorer="van", window=24, per_frame=2)
    for found, left in passes(method, footage(Grid(60, 3, 4)), 60, 1):
        older = found.grid.frames - 2
        counts = torch.bincount(left.frame[0, 0], minlength=found.grid.frames)[:older]
        assert (int(counts.max()) > 2) == (older < 18)
        assert (int(counts.min()) < 2) == (older > 18)


@pytest.mark.parametrize("step", [1, 4])
def test_equal_shares_in_a_stream(step: int) -> None:
    for found, left in passes(make_method("detachable", scorer="van", window=24), footage(LONG), 60, step):
        counts = torch.bincount(left.frame[0, 0], minlength=found.grid.frames)
        assert counts[-2:].tolist() == [12, 12]
        assert counts[:-2].max() <= max(2, -(-36 // (found.grid.frames - 2 - step)))


def test_any_method_thins_the_bank_as_a_segment_of_its_own() -> None:
    """Eight older frames leave four entries each; the thinner sees the last of them as the present."""
    entries = footage()
    for thinner in ("infinipot-v", "tar", "uniform", "novelty", "random", "snapkv", "hermes"):
        made = make_method(thinner)
        method = make_method("detachable", scorer="van", window=24, per_frame=4, thinner=thinner)
        norms = entries.values.norm(dim=-1)[..., :96].unflatten(2, (8, 12))
        best_of_frame = norms.topk(4, dim=-1).indices + 12 * torch.arange(8)[:, None]
        bank = entries.gather(best_of_frame.flatten(2).sort(dim=-1).values)
        bank = replace(bank, context=replace(entries.context, grid=Grid(8, 3, 4)))
        kept = method.compress(entries, 24 + 20)
        assert torch.equal(kept.index[..., :20], made.compress(bank, 20).index)
        assert torch.equal(kept.index[..., 20:], entries.index[..., 96:])
        assert kept.context is entries.context


def test_a_thinner_that_merges_merges_the_bank_alone() -> None:
    entries = footage(LONG)
    method = make_method("detachable", scorer="van", window=24, per_frame=4, thinner="average-pooling")
    for found, left in passes(method, entries, 44, 2):
        assert torch.equal(left.keys[:, :, 20:], found.keys[:, :, -24:])
    assert not torch.isin(left.keys[0, 0, :20, 0], entries.keys[0, 0, :, 0]).all()


def test_a_thinner_that_needs_whole_frames_says_so() -> None:
    method = make_method("detachable", scorer="van", window=24, per_frame=4, thinner="memory-bank")
    with pytest.raises(BudgetError, match="parts of several"):
        method.compress(footage(), 44)


@pytest.mark.parametrize("settings", [{}, {"per_frame": 2}, {"per_frame": 7, "thinner": "random"}, {"bank": 60}])
def test_detachable_fills_budgets_that_change(settings: dict[str, Any]) -> None:
    """Every pass asks for another number, and gets it."""
    entries, method = footage(LONG), make_method("detachable", scorer="van", window=0.5, **settings)
    cached, seen = first_frames(entries, 0), 0
    for step, keep in ((4, 40), (1, 41), (5, 80), (2, 30), (6, 33), (1, 99), (7, 60), (4, 24)):
        cached = later(cached, first_frames(entries, seen + step), seen)
        seen += step
        if keep < len(cached):
            cached = method.compress(cached, keep)
            assert len(cached) == keep
            same_rows(cached, entries)
    assert seen == LONG.frames


def test_detachable_keeps_all_there_is() -> None:
    for settings in ({}, {"per_frame": 3}, {"per_frame": 3, "thinner": "van"}):
        same_rows(make_method("detachable", scorer="key-norm", **settings).compress(footage(), 120), footage())


@pytest.mark.parametrize(("scorer", "thinner", "needs", "observer"), [
    ("van", "standby", {"vision_attention"}, "standby"), ("standby:n=4", "van", {"vision_attention"}, "standby:n=4"),
    ("standby:n=4", "standby-novelty", {"vision_attention"}, "standby:n=4"), ("van", "novelty", set(), "van"),
    ("snapkv", "average-pooling", {"queries", "rope"}, "snapkv"), ("van", "average-pooling", {"rope"}, "van"),
    ("van", "streammem", {"probe", "rope"}, "streammem"), ("hermes", "streammem", {"probe", "rope"}, "hermes"),
    ("per-layer:base=standby", "van", None, None),
])  # fmt: skip
def test_detachable_asks_for_what_both_parts_need(
    scorer: str, thinner: str, needs: set[str] | None, observer: str
) -> None:
    if needs is None:
        with pytest.raises(UnknownNameError, match="PerLayer as scorer cannot make layers differ"):
            make_method("detachable", scorer=scorer, thinner=thinner, per_frame=2)
        return
    method = make_method("detachable", scorer=scorer, thinner=thinner, per_frame=2)
    assert method.needs == needs
    assert method.observer == make_method(observer)


def test_detachable_describes_both_parts() -> None:
    described = make_method("detachable", scorer="van", thinner="standby:n=4", per_frame=2).describe()
    assert described["scorer"] == "VaN"
    assert described["thinner"] == "Standby"
    assert described["thinner_settings"] == {"n": 4, "tokens": None}
    assert make_method("detachable", scorer="van").describe()["thinner"] is None


# Recent


@pytest.mark.parametrize("step", [1, 3, 30])
@pytest.mark.parametrize("keep", [5, 24, 30])
def test_recent_frames(step: int, keep: int) -> None:
    """N frames exactly where the budget is N frames; else the last patches of the one before."""
    left = streamed(make_method("recent"), footage(LONG), keep, step)
    counts = torch.bincount(left.frame[0, 0], minlength=30).tolist()
    assert counts[30 - keep // 12 :] == [12] * (keep // 12)
    assert left.index[0, 0].tolist() == list(range(360 - keep, 360))


# Errors


@pytest.mark.parametrize(("name", "settings", "error", "message"), [
    ("detachable", {"scorer": "van", "thinner": "key-norm"}, BudgetError, "Give per_frame too"),
    ("detachable", {"scorer": "van", "thinner": "novlty", "per_frame": 2}, UnknownNameError, "Did you mean 'novelty'"),
    ("detachable", {"scorer": "van", "thinner": "per-layer", "per_frame": 2}, UnknownNameError, "PerLayer as thinner"),
    ("detachable", {"scorer": "standby", "thinner": "snapkv", "per_frame": 2}, UnknownNameError,
     "Standby needs vision_attention and the thinner SnapKV queries"),
    ("detachable", {"scorer": "memory-bank"}, UnknownNameError, "MemoryBank cannot fill a bank"),
    ("detachable", {"scorer": "detachable"}, UnknownNameError, "Detachable cannot fill a bank"),
    ("hermes", {"probe": 0}, BudgetError, "at least one token, got 0"),
    ("hermes", {"shallow": 0.8}, BudgetError, "together at most 1, got 0.8 and 0.3"),
    ("hermes", {"deep": -0.1}, BudgetError, "got 0.1 and -0.1"),
    ("hermes", {"recency": (0.5, 1.5)}, BudgetError, "two weights between 0 and 1"),
    ("hermes", {"forgetting": (20.0,)}, BudgetError, "two rates above zero"),
    ("hermes", {"forgetting": (20.0, 0.0)}, BudgetError, "two rates above zero"),
    ("streammem", {"probe": 0}, BudgetError, "at least one token, got 0"),
    ("streammem", {"prototypes": 1.5}, BudgetError, "between 0 and 1, got 1.5"),
])  # fmt: skip
def test_wrong_settings(name: str, settings: dict[str, Any], error: type[KVPressVideoError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_method(name, **settings)


@pytest.mark.parametrize("name", ["hermes", "streammem"])
def test_queries_that_were_not_captured(name: str) -> None:
    entries = footage(GRID)
    with pytest.raises(MissingInputError, match=f"'{name}' needs captured queries"):
        make_method(name).compress(replace(entries, context=replace(entries.context, queries=None)), 60)


# In a model


@pytest.mark.sampled
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "method", ["memory-bank", "hermes", "streammem", "detachable:scorer=van,window=0.6,per_frame=2"]
)
@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_chunks_of_any_size_fill_the_budget_in_a_model(family: str, method: str, positions: Any) -> None:
    """One frame at a time or several: exact budgets and finite answers."""
    model, frame = model_of(family), math.prod(zoo.grid(family))
    keep = 5 * frame // 2
    inputs = zoo.inputs(model, [video_prompt(family, 12)])
    for frames in (1, 2, 5):
        with kv.compress(model, method, keep, chunk=frames * frame, positions=positions) as run:
            found = answer(model, inputs, new=2)
        assert set(run.report.entries) == {keep}
        assert found.logits.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_a_memory_bank_holds_the_same_frames_however_they_come(family: str) -> None:
    """In the first layer: deeper ones see, through the attention before them, what the chunks left there."""
    model, frame = model_of(family), math.prod(zoo.grid(family))
    inputs = zoo.inputs(model, [video_prompt(family, 12)])
    kept = []
    for frames in (1, 2, 3, 12):
        with kv.compress(model, "memory-bank", 5 * frame // 2, chunk=frames * frame) as run:
            answer(model, inputs, new=1)
        kept.append(run.kept[0])
    assert all(torch.equal(kept[0], other) for other in kept[1:])


@pytest.mark.parametrize("method", ["hermes", "streammem"])
def test_what_is_merged_tells_in_the_answer(method: str) -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    with kv.compress(model, method, 30):
        merged = answer(model, inputs, new=2)
    with kv.compress(model, method, 30, **SETTINGS[method]):
        plain = answer(model, inputs, new=2)
    assert not torch.allclose(merged.logits, plain.logits, atol=1e-4)
