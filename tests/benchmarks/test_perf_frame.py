"""The computed frame: operations and bytes are counted as torch counts them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from kvpress_video.benchmarks.perf import program
from kvpress_video.benchmarks.perf.cases import frame as frame_module
from kvpress_video.benchmarks.perf.cases.frame import H200, frame_operations
from kvpress_video.benchmarks.perf.results.goals import TARGETS
from kvpress_video.benchmarks.perf.results.measurement import Figure, Goal
from kvpress_video.benchmarks.perf.setup.long_stream import chunk_of, long_stream
from kvpress_video.benchmarks.perf.setup.scales import SCALES, bed
from kvpress_video.benchmarks.perf.setup.traffic import Traffic, counted

TINY = bed("tiny", "cpu")


METHODS = ("infinipot-v", "key-norm")  # each takes a stream of some seconds


@pytest.fixture(scope="module")
def figures() -> Iterator[list[Figure]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_module, "METHODS", METHODS)
        yield list(program("frame")(TINY))


def test_operations_are_those_that_torch_counts_in_a_stream() -> None:
    model = TINY.model()[0]
    scale, chunk = TINY.scale, chunk_of(TINY)
    counted_by_torch = long_stream(TINY).operations
    assert frame_operations(model, *scale.patches, scale.budget, chunk) == pytest.approx(counted_by_torch, rel=0.1)


@pytest.mark.slow
def test_operations_at_the_7b_shape_are_those_of_its_weights(figures: list[Figure]) -> None:
    (operations,) = (one.measured * 1e12 for one in figures if one.unit == "TFLOP")
    rows, columns = SCALES["7b"].patches
    text, vision = 6.5e9, 0.63e9  # weights of the layers, embeddings left out
    linear = 2 * rows * columns * (text + 4 * vision)
    assert linear < operations < 1.3 * linear


@pytest.mark.slow
def test_the_share_follows_from_bytes_operations_and_peak_rates(figures: list[Figure]) -> None:
    shares = {one.case.partition(",")[0]: one for one in figures if one.unit == "%"}
    assert set(shares) == set(METHODS)
    for method, one in shares.items():
        moving = one.raw["bytes_per_frame"] / H200.bytes
        computing = one.raw["operations_per_frame"] / H200.operations
        assert one.measured == pytest.approx(100 * moving / (moving + computing))
        assert one.floor is not None
        assert one.floor < one.measured
        assert one.goal == (Goal(0.25) if method == "infinipot-v" else None)
        assert sum(one in asked.of([one]) for asked in TARGETS) == (one.goal is not None)


def test_operations_and_bytes_of_a_frame_are_figures_too(figures: list[Figure]) -> None:
    for method in METHODS:
        mine = {one.what: one for one in figures if one.case.startswith(method)}
        raw = mine["compression's share of frame time, computed"].raw
        assert mine["bytes that compression moves for a frame"].measured == raw["bytes_per_frame"] / 2**20
        dispatched = mine["operations that compression dispatches for a frame"].measured
        assert dispatched == raw["dispatched_per_frame"]
        assert dispatched * raw["frames_per_chunk"] / raw["layers"] > 50


def test_a_layer_of_the_stream_is_as_wide_as_one_of_the_7b_model(figures: list[Figure]) -> None:
    key_norm = next(one.raw for one in figures if one.unit == "%" and one.case.startswith("key-norm"))
    scale = SCALES["7b"]
    entries = scale.budget + key_norm["frames_per_chunk"] * scale.patches[0] * scale.patches[1]
    layer = entries * 2 * 4 * 128 * 2
    moved = key_norm["bytes_per_frame"] * key_norm["frames_per_chunk"] / key_norm["layers"]
    assert 2 * layer < moved < 20 * layer


def test_traffic_counts_reads_and_writes() -> None:
    one, other = torch.ones(100), torch.ones(100)
    with Traffic() as traffic:
        one + other
    assert (traffic.bytes, traffic.operations) == (1200, 1)


@pytest.mark.parametrize(("operation", "expected"), [
    (lambda states: states[10:20].view(2, 5), 0),
    (lambda states: torch.empty_like(states), 0),
    (lambda states: states[:50].copy_(states[50:]), 400),
    (lambda states: states.zero_(), 400),
    (lambda states: states.index_select(0, torch.arange(10)), 10 * 8 + 10 * 8 + 2 * 10 * 4),
    (lambda states: states.mul_(2), 800),
    (lambda states: states[:1].expand(1000).sum(), 4 + 4),
])  # fmt: skip
def test_traffic_leaves_out_what_moves_nothing(operation: object, expected: int) -> None:
    states = torch.ones(100)
    with Traffic() as traffic:
        operation(states)  # type: ignore[operator]
    assert traffic.bytes == expected


def test_traffic_of_a_method_is_counted_call_by_call() -> None:
    class Owner:
        def work(self, size: int) -> torch.Tensor:
            return torch.ones(size)

    own = Owner.work
    with counted(Owner, "work") as calls:
        Owner().work(10)
        Owner().work(20)
    assert [one.bytes for one in calls] == [40, 80]
    assert Owner.work is own
