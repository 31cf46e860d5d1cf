"""Layers and storage of entries that are offloaded to the host or to disk."""

from __future__ import annotations

import gc
import random
from dataclasses import replace

import pytest
import torch
from offloading import (
    AWAY,
    PARTS,
    LateCopyStream,
    gpu,
)
from torch import Tensor

from kvpress_video.cache import offload as banks
from kvpress_video.cache.forward_pass import RowState, text_tags
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.cache.offload import CopyStream
from kvpress_video.cache.offloaded_layer import BANKS, make_layers
from kvpress_video.compressor.entries import Context, Entries, Grid, Kind, Places, Tags
from kvpress_video.compressor.registry import make_method


def leading(kinds: list[int], share: float, patches: int) -> int:
    """Entries of one head before a window of whole frames, at most `share` of the visual ones."""
    window = int(share * kinds.count(Kind.VIDEO)) // patches * patches
    for slot in range(len(kinds) - 1, -1, -1):
        if not window:
            return slot + 1 if kinds.count(Kind.VIDEO) else len(kinds)
        window -= kinds[slot] == Kind.VIDEO
        if not window:
            return slot
    raise AssertionError("the window is longer than what is held")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_bank_ends_where_the_window_begins(share: float, seed: int) -> None:
    """Text is anywhere, in other places in each head."""
    draw = random.Random(seed)
    heads = []
    for _ in range(3):
        kinds = [int(Kind.VIDEO)] * 24 + [int(Kind.TEXT)] * 9
        draw.shuffle(kinds)
        heads.append(kinds)
    tags = torch.zeros(1, 3, 33, Tags.WIDTH, dtype=torch.int32)
    tags[..., Tags.KIND] = torch.tensor(heads)
    blank = torch.zeros(1, 3, 33, 2)
    entries = Entries(blank, blank, tags, blank, Context(grid=Grid(9, 2, 2)))
    found = make_method("detachable", scorer="van", window=share).banked(entries)
    assert found == min(leading(kinds, share, 4) for kinds in heads)


def test_a_plain_method_banks_all_that_is_held() -> None:
    entries = Entries(*(torch.zeros(1, 1, 7, 2) for _ in range(4)))
    assert make_method("van").banked(entries) == 7


class Naive:
    """A layer as torch.cat would grow it."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.seen = 0

    def update(self, keys: Tensor, values: Tensor) -> None:
        batch, heads, length, _ = keys.shape
        index = self.seen + torch.arange(length)
        tags = text_tags(index.expand(batch, -1))[:, None].expand(-1, heads, -1, -1)
        places = index[None, None, :, None].float().expand(batch, heads, -1, Places.WIDTH)
        new = [keys, values, tags, places]
        self.parts = [torch.cat(pair, dim=2) for pair in zip(self.parts, new, strict=True)] if self.parts else new
        self.seen += length

    def drop_last(self, entries: int) -> None:
        self.parts = [part[:, :, : part.shape[2] - entries] for part in self.parts]


@pytest.mark.parametrize(("reserve", "seed"), [(0, 0), (70, 1), (0, 2), (70, 3), (0, 4)])
@pytest.mark.parametrize("bank", BANKS)
def test_layers_equal_concatenation_under_random_use(bank: str, reserve: int, seed: int, lane: CopyStream) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    share, batch = [1.0], 2
    layers = make_layers(bank, draw.choice([1, 2, 3, 5]), reserve, [RowState()] * 2, lambda e: int(len(e) * share[0]))
    wanted = [Naive() for _ in layers]
    changes = ["recent", "thin", "merge", "drop", "rows", "repeat", "crop", "restore"]
    for step in range(50):
        name = draw.choice(["update"] * 6 + changes) if step else "update"
        share[0] = draw.choice([0.0, 0.4, 0.5, 1.0])
        length, left = draw.choice([1, 1, 6, 30]), draw.choice([0.3, 0.7, 1.0])
        rows = torch.tensor([draw.randrange(batch) for _ in range(draw.choice([1, 2, 3]))])
        for layer, naive in zip(layers, wanted, strict=True):
            if name == "update":
                keys, values = torch.randn(2, batch, 2, length, 8).unbind()
                naive.update(keys, values)
                assert all(map(torch.equal, layer.update(keys, values), naive.parts[:2]))
            elif name in ("recent", "thin", "merge"):
                entries = layer.entries(Context())
                scores = torch.rand(batch, 2, len(entries)) if name == "thin" else entries.index.float()
                keep = max(1, int(len(entries) * left))
                entries = entries.gather(scores.topk(keep, dim=-1).indices.sort(dim=-1).values)
                entries.values[:, :, :: keep if name == "merge" else len(scores[0, 0]) + 1] += 1
                layer.replace(entries, layer.rows)
                naive.parts = [getattr(entries, part).clone() for part in PARTS]
            elif name == "drop":
                layer.drop_last(min(length, layer.physical - 1))
                naive.drop_last(min(length, naive.parts[0].shape[2] - 1))
            elif name == "rows":
                layer.batch_select_indices(rows)
                naive.parts = [part[rows] for part in naive.parts]
            elif name == "repeat":
                layer.batch_repeat_interleave(2), layer.reorder_cache(2 * torch.arange(batch))
            elif name == "crop":
                newest = naive.parts[2][:, :, -2:, Tags.INDEX]
                if newest.shape[2] == 2 and bool((newest == naive.seen - 2 + torch.arange(2)).all()):
                    layer.crop(-2)
                    naive.drop_last(2)
                    naive.seen -= 2
            else:
                naive.parts = [part[rows] for part in naive.parts]
                layer.restore([part.clone() for part in naive.parts], naive.seen, [RowState()] * len(rows))
                layer.guarded = False
            assert (layer.physical, layer.logical) == (naive.parts[0].shape[2], naive.seen)
            assert layer.bytes == sum(part.contiguous().nbytes for part in naive.parts)
            assert layer.reserved_bytes >= layer.bytes
        batch = len(wanted[0].parts[0])
        for layer, naive in zip(layers, wanted, strict=True):
            assert all(torch.equal(getattr(layer, part), part_) for part, part_ in zip(PARTS, naive.parts, strict=True))


def test_what_is_still_on_its_way_is_not_taken_for_what_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The half holds what the layer once held, which comes back while something else is being copied over it."""
    late = LateCopyStream()
    monkeypatch.setattr(banks, "copy_stream", lambda device: late)
    one, other = make_layers("cpu", 2, 0, [RowState()], len)
    for layer in (one, other):
        layer.update(torch.zeros(1, 1, 5, 2), torch.zeros(1, 1, 5, 2))
    held = one.entries(Context())
    first, second = (replace(held, keys=torch.full((1, 1, 5, 2), value)) for value in (1.0, 2.0))
    one.replace(first, one.rows)
    assert torch.equal(one.keys, first.keys)
    one.replace(second, one.rows)
    other.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    one.replace(first, one.rows)
    assert torch.equal(one.keys, first.keys)


@pytest.mark.parametrize("kind", [banks.HostStorage, banks.DiskStorage])
def test_a_bank_moves_entries_still_in_transfer(kind: type[banks.OffloadStorage], lane: CopyStream) -> None:
    bank = kind()
    parts = list(torch.randn(2, 2, 3, 200, 4))
    for start, stop in ((0, 20), (20, 30), (30, 150), (150, 200)):
        bank.append([part[:, :, start:stop] for part in parts])
    bank.map_rows(lambda part: part.flip(0))
    room = [torch.zeros(2, 3, 190, 4) for _ in parts]
    bank.read(10, room)()
    assert all(torch.equal(found, part.flip(0)[:, :, 10:]) for found, part in zip(room, parts, strict=True))


@pytest.mark.parametrize("bank", AWAY)
def test_a_layer_is_empty_again_after_reset(bank: str) -> None:
    (layer,) = make_layers(bank, 1, 0, (), len)
    layer.update(torch.ones(1, 2, 30, 4), torch.ones(1, 2, 30, 4))
    layer.replace(layer.entries(Context()).gather(torch.arange(20).expand(1, 2, -1)), layer.rows)
    assert layer.bank_bytes == 20 * 2 * 4 * 4 * 2
    layer.reset()
    assert (layer.keys, layer.values, layer.logical, layer.physical, layer.bytes) == (None, None, 0, 0, 0)
    keys, _ = layer.update(torch.zeros(3, 1, 2, 5), torch.zeros(3, 1, 2, 5))
    assert torch.equal(keys, torch.zeros(3, 1, 2, 5))


LAYERS, HEADS, WIDTH, WINDOW, OLDER = 16, 2, 64, 1000, 7000


def _filled(bank: str) -> tuple[int, list[CompressedLayer]]:
    """Bytes that a cache of layers takes on the device, and its layers."""
    torch.cuda.synchronize()
    gc.collect()
    before = torch.cuda.memory_allocated()
    layers = make_layers(bank, LAYERS, WINDOW + OLDER, [RowState()], lambda entries: OLDER)
    for layer in layers:
        keys = torch.randn(1, HEADS, WINDOW + OLDER, WIDTH, device="cuda", dtype=torch.bfloat16)
        layer.update(keys, keys)
        every = torch.arange(WINDOW + OLDER, device="cuda").expand(1, HEADS, -1)
        layer.replace(layer.entries(Context()).gather(every), layer.rows)
        del keys, every
    for _ in range(3):
        for layer in layers:
            one = torch.randn(1, HEADS, 1, WIDTH, device="cuda", dtype=torch.bfloat16)
            layer.update(one, one)
            del one
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() - before, layers


@pytest.mark.parametrize("bank", [pytest.param(bank, marks=gpu) for bank in AWAY])
def test_on_cuda_the_device_holds_the_window_and_two_layers(bank: str) -> None:
    entry = 2 * HEADS * WIDTH * 2
    metadata = HEADS * 4 * (Tags.WIDTH + Places.WIDTH) * (WINDOW + OLDER) * 9 // 8
    full, layers = _filled("device")
    assert full >= LAYERS * (WINDOW + OLDER) * entry
    del layers
    away, layers = _filled(bank)
    assert sum(layer.bank_bytes for layer in layers) == LAYERS * OLDER * entry
    room = LAYERS * (WINDOW * entry * 9 // 8 + metadata) + 2 * (WINDOW + OLDER) * entry * 9 // 8
    assert away <= room + 2**20 < full
    held = torch.cuda.memory_allocated()
    del layers
    gc.collect()
    assert torch.cuda.memory_allocated() <= held - away + 2**20
