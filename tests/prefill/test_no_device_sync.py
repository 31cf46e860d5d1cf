"""A pass reads nothing back from the device: every method, and what is around it, works on tensors that hold no values.

What is copied to a device shows on a device alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from generation import METHODS, SETTINGS

from kvpress_video.cache.allocation import Share
from kvpress_video.cache.eviction import plan_eviction
from kvpress_video.cache.forward_pass import ForwardPass, RowState, text_tags
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Context, Entries, Grid, Places, Queries, Tags, segment_entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.compressor.rope import Rope

GRID, TEXT, HEADS, WIDTH = Grid(6, 3, 4), 5, 2, 16
NOWHERE = torch.device("meta")


def rope() -> Rope:
    return Rope(torch.ones(WIDTH // 2, device=NOWHERE), torch.zeros(WIDTH // 2, dtype=torch.long))


def queries(length: int) -> Queries:
    states = torch.empty(1, 2 * HEADS, length, WIDTH, device=NOWHERE)
    index = torch.empty(1, length, dtype=torch.long, device=NOWHERE)
    return Queries(states, states[..., 0], index, torch.empty(1, length, 3, device=NOWHERE))


def filled(starts: dict[int, int], width: int = Places.WIDTH, labels: dict[int, int] | None = None) -> CompressedLayer:
    """A layer of text, a video and more text, some of it labels of its frames, whose tensors hold nothing."""
    length = GRID.tokens
    states = torch.empty(1, HEADS, 2 * TEXT + length, WIDTH, device=NOWHERE)
    video = segment_entries(*(states[:, :1, TEXT : TEXT + length],) * 2, GRID, Context())
    text = text_tags(torch.empty(1, TEXT, dtype=torch.long, device=NOWHERE))
    tags = torch.cat([text, video.tags[:, 0], text], dim=1)
    places = torch.empty(1, 2 * TEXT + length, width, device=NOWHERE)
    counts = {0: length}
    layer = CompressedLayer()
    named = {0: labels} if labels else {}
    row = RowState(0, counts, counts, {0: GRID}, starts, named, {0: sum(labels.values())} if labels else {})
    layer.begin_pass(ForwardPass.of(tags, places, tags.shape[1], [row], compress=True))
    layer.update(states, states)
    return layer


def compress(layer: CompressedLayer, method: Compressor, keep: int, labels: dict[int, int] | None = None) -> None:
    """As a later layer is; what all layers have in common is looked at in the first."""
    weight = torch.empty(HEADS, 2, WIDTH, 16, device=NOWHERE)
    context = Context(layer=1, layers=4, rope=rope(), queries=queries(4), output_weight=weight)
    layer.keep(plan_eviction(layer.entries(context), layer.rows, [{0: Share(keep, labels or {})}], method))


@pytest.mark.parametrize("starts", [{0: TEXT}, {}], ids=["in one piece", "between text"])
@pytest.mark.parametrize("method", METHODS)
def test_compressing_a_layer_asks_the_device_nothing(method: str, starts: dict[int, int]) -> None:
    made, layer = make_method(method, **SETTINGS.get(method, {})), filled(starts)
    for keep in (36, 24):  # the second time of what the first has left
        compress(layer, made, keep)
        assert layer.keys.device == NOWHERE
        assert layer.physical == 2 * TEXT + keep


@pytest.mark.parametrize("method", METHODS)
def test_evicting_labels_asks_the_device_nothing(method: str) -> None:
    labels = dict.fromkeys(range(TEXT), 1)
    made, layer = make_method(method, **SETTINGS.get(method, {})), filled({}, labels=labels)
    compress(layer, made, 36, dict.fromkeys(range(1, TEXT), 1))
    assert layer.physical == 2 * TEXT + 36 - 1
    compress(layer, made, 24)
    assert layer.physical == TEXT + 24


def test_a_method_that_asks_is_noticed() -> None:
    class Asking(Compressor):
        def select(self, entries: Entries, keep: int) -> Any:
            return torch.arange(keep) + int(entries.tags[..., Tags.FRAME].min())

    with pytest.raises(RuntimeError, match="meta"):
        compress(filled({0: TEXT}), Asking(), 36)


def test_moving_keys_asks_nothing() -> None:
    layer = filled({0: TEXT}, Places.COMPACT_WIDTH)
    layer.move(layer.entries(Context()).places[..., Places.TARGET], rope())
    assert layer.keys.device == NOWHERE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_rows_that_are_not_alike_are_compressed_without_waiting(method: str) -> None:
    made = make_method(method, **SETTINGS.get(method, {}))
    states = torch.randn(2, HEADS, GRID.tokens, WIDTH, device="cuda")
    importance = torch.rand(GRID.tokens, device="cuda")
    rotation = Rope(torch.ones(WIDTH // 2, device="cuda"), torch.zeros(WIDTH // 2, dtype=torch.long, device="cuda"))
    asked = Queries(torch.randn(2, 2 * HEADS, 4, WIDTH, device="cuda"), torch.zeros(2, 2 * HEADS, 4, device="cuda"),
                    torch.full((2, 4), GRID.tokens, device="cuda"), torch.zeros(2, 4, 3, device="cuda"))  # fmt: skip
    weight = torch.randn(HEADS, 2, WIDTH, 16, device="cuda")
    context = Context(layer=1, layers=4, rope=rotation, queries=asked, output_weight=weight)
    entries = segment_entries(states, states, GRID, context, importance)
    counts = {0: GRID.tokens}
    rows = [RowState(0, counts, counts, {0: GRID}, {0: 0}) for _ in range(2)]
    keep = [{0: Share(36)}, {0: Share(48)}]
    plan_eviction(entries, rows, keep, made)  # what is made once, such as windows, is there now
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        left = plan_eviction(entries, rows, keep, made)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert left.slots.shape[2] == 48
