"""The benchmarks of prefill modes and decoding steps, and the meters they use: relations that hold at any speed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from kvpress_video.benchmarks.perf import program
from kvpress_video.benchmarks.perf.cases import steps as steps_module
from kvpress_video.benchmarks.perf.cases.modes import exponent
from kvpress_video.benchmarks.perf.cases.steps import STEPS, InPlaceLayer, decoders
from kvpress_video.benchmarks.perf.results.goals import TARGETS
from kvpress_video.benchmarks.perf.results.measurement import Figure, Goal
from kvpress_video.benchmarks.perf.setup.scales import SCALES, bed
from kvpress_video.benchmarks.perf.setup.text_prefill import COLUMNS, ROWS, TextPrefill
from kvpress_video.benchmarks.perf.setup.timing import (
    BusyClock,
    PeakMemory,
    WallClock,
    measured,
    measured_calls,
    single_thread,
)
from transformers.cache_utils import DynamicCache

import kvpress_video as kv
from kvpress_video.cache.adoption import layers_of

TINY = bed("tiny", "cpu")
MODES = ("stock", "whole", "split", "chunked", "input")


@pytest.fixture(scope="module")
def modes() -> list[Figure]:
    return list(program("modes")(TINY))


@pytest.fixture(scope="module")
def steps() -> list[Figure]:
    return list(program("steps")(TINY))


def named(figures: list[Figure], what: str) -> dict[str, Figure]:
    """The figures of one kind, by case."""
    return {one.case: one for one in figures if one.what == what}


@pytest.mark.slow
def test_modes_are_measured_at_every_length_against_stock(modes: list[Figure]) -> None:
    lengths = [f"{tokens:,} visual tokens" for tokens in TINY.scale.mode_tokens]
    time, peak = (named(modes, f"{what} of the text model's prefill") for what in ("time", "peak memory"))
    assert list(time) == list(peak) == [f"{mode}, {length}" for length in lengths for mode in MODES]
    for what, unit in (("time", "seconds"), ("peak memory", "peak_bytes")):
        ratios = named(modes, f"{what} ÷ the stock prefill's")
        assert list(ratios) == [f"{mode}, {length}" for length in lengths for mode in MODES[1:]]
        for case, one in ratios.items():
            assert one.raw["threads"] == 1
            mine, stock = one.raw[unit], one.raw[f"stock_{unit}"]
            if what == "time":
                (mine,), (stock,) = mine, stock  # one round at this scale
            assert one.measured == pytest.approx(mine / stock)
            goals = {"split": Goal(1.05 if what == "time" else 1), "chunked": Goal(1)}
            assert one.goal == goals.get(case.partition(",")[0])
    for case, one in peak.items():
        assert one.measured == one.raw["peak_bytes"] / 2**20, case


@pytest.mark.slow
def test_modes_hold_at_least_the_cache_that_they_leave(modes: list[Figure]) -> None:
    config = TINY.deep().model()[0].get_decoder().config
    width = config.hidden_size // config.num_attention_heads
    entry = 2 * 4 * config.num_key_value_heads * width * config.num_hidden_layers
    left = {"stock": 1, "whole": 0.25, "split": 0.25, "input": 0.25}
    for case, one in named(modes, "peak memory of the text model's prefill").items():
        mode, _, rest = case.partition(", ")
        tokens = int(rest.split()[0].replace(",", ""))
        assert one.raw["peak_bytes"] > left.get(mode, TINY.scale.mode_tokens[0] / 4 / tokens) * tokens * entry


def test_growth_is_fitted_over_the_lengths(modes: list[Figure]) -> None:
    growth = named(modes, "growth of peak memory: exponent of the length")
    assert [case.partition(",")[0] for case in growth] == list(MODES)
    for mode, one in zip(MODES, growth.values(), strict=True):
        peaks = [
            named(modes, "peak memory of the text model's prefill")[f"{mode}, {tokens:,} visual tokens"].raw[
                "peak_bytes"
            ]
            for tokens in TINY.scale.mode_tokens
        ]
        assert one.raw["values"] == peaks
        assert one.measured == pytest.approx(exponent(TINY.scale.mode_tokens, peaks))
        assert one.goal == (Goal(1.1) if mode in ("split", "chunked") else None)
    assert len(named(modes, "growth of time: exponent of the length")) == len(MODES)


def test_the_exponent_is_that_of_a_power_law() -> None:
    lengths = [4096, 8192, 16384]
    assert exponent(lengths, [3e-6 * n**2 for n in lengths]) == pytest.approx(2)
    assert exponent(lengths, [7.0] * 3) == pytest.approx(0)
    assert exponent(lengths, [1, 2, 8]) == pytest.approx(1.5)  # least squares, not the ends alone


def test_lengths_are_whole_frames_at_every_scale() -> None:
    for scale in SCALES.values():
        for tokens in (*scale.mode_tokens, scale.step_entries):
            assert tokens % (ROWS * COLUMNS) == 0
        assert list(scale.mode_tokens) == sorted(scale.mode_tokens)
    text = bed("laptop", "cpu").deep().model()[0].get_decoder().config
    assert (text.num_hidden_layers, text.hidden_size) == (8, 512)
    largest = bed("7b", "cpu")
    assert largest.deep().scale == largest.scale  # the 7B model itself


def test_a_text_prefill_measures_the_text_model_alone() -> None:
    model = TINY.model()[0]
    prefill = TextPrefill(model, 256)
    calls: list[str] = []

    class Counter:
        def __init__(self, device: torch.device) -> None:
            assert device.type == "cpu"

        def start(self) -> None:
            calls.append("start")

        def stop(self) -> float:
            calls.append("stop")
            return 1.0

    tower = model.model.visual.register_forward_hook(lambda *_: calls.append("tower"))
    try:
        assert prefill.stock(Counter) == 1.0
        assert calls == ["start", "stop"]
        assert prefill.within(kv.compress(model, "key-norm", 64), Counter) == 1.0
    finally:
        tower.remove()
    assert set(calls[2:-2]) == {"tower"}
    assert calls[-2:] == ["start", "stop"]


def test_every_decoder_holds_as_many_entries() -> None:
    model = TINY.model()[0]
    found = decoders(model, 256)
    lengths = {name: found[name].cache.layers[0].keys.shape[2] for name in found}
    assert set(lengths.values()) == {lengths["stock"]}
    assert lengths["stock"] >= 256
    assert {layer.physical for name in ("ratio 1", "capped") for layer in layers_of(found[name].cache)} == {
        lengths["stock"]
    }
    assert found["ratio 1"].cache.get_seq_length() == lengths["stock"]
    assert found["capped"].cache.get_seq_length() == lengths["stock"] + ROWS * COLUMNS
    with torch.no_grad():
        for name, decoder in found.items():
            before = decoder.cache.get_seq_length()
            assert decoder.step_seconds() > 0, name
            assert decoder.cache.get_seq_length() == before


def test_a_layer_in_place_holds_the_same_as_a_stock_one() -> None:
    keys, values = torch.randn(2, 1, 2, 10, 4).unbind()
    stock: Any = DynamicCache()
    stock.update(keys, values, 0)
    layer = InPlaceLayer(keys, values)
    start = layer.keys.data_ptr()
    for _ in range(STEPS):
        step = torch.randn(2, 1, 2, 1, 4).unbind()
        for one, other in zip(layer.update(*step), stock.update(*step, 0), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert layer.keys.data_ptr() == start
    layer.crop(-STEPS)
    assert layer.get_seq_length() == 10


def test_steps_are_compared_with_stock_and_stock_with_itself(steps: list[Figure]) -> None:
    ratios, taken = named(steps, "time of a step ÷ stock"), named(steps, "time of a step")
    names = {case.partition(":")[0] for case in ratios}
    assert names == {"4 layers of 192", "bundled"}
    for case, one in ratios.items():
        name, _, kind = case.partition(",")[0].partition(": ")
        spent = {kind: taken[f"{name}: {kind}, {case.partition(', ')[2]}"].raw["seconds"] for kind in (kind, "stock")}
        pairs = sorted(mine / stock for mine, stock in zip(spent[kind], spent["stock"], strict=True))
        assert len(pairs) == one.raw["rounds"]
        assert pairs[0] <= one.measured <= pairs[-1]
        assert one.goal == (None if kind == "stock again" else Goal(1.05 if name == "bundled" else 1.02))
    spread = named(steps, "interquartile range of the ratio")
    assert {case.partition(",")[0] for case in spread} == {f"{name}: stock against stock" for name in names}
    assert all(one.measured >= 0 and one.goal is None for one in spread.values())


def test_steps_run_inside_the_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY.model()[0]
    found = decoders(model, 256)
    around: list[Any] = []
    compress = kv.compress

    def noted(*arguments: Any) -> kv.Compression:
        around.append(arguments[2])
        return compress(*arguments)

    monkeypatch.setattr(steps_module.kv, "compress", noted)
    with torch.no_grad():
        for decoder in found.values():
            decoder.step_seconds()
    assert around == ["100%", 256]


def test_goals_of_modes_and_steps_are_on_the_page(modes: list[Figure], steps: list[Figure]) -> None:
    for figure in modes + steps:
        assert sum(figure in asked.of([figure]) for asked in TARGETS) == (figure.goal is not None), figure


def test_a_busy_clock_leaves_out_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"cpu": 1.0, "wall": 10.0}
    monkeypatch.setattr("time.process_time", lambda: now["cpu"])
    monkeypatch.setattr("time.perf_counter", lambda: now["wall"])

    def work() -> None:
        now["cpu"] += 0.25
        now["wall"] += 4.0

    device = torch.device("cpu")
    assert measured(work, BusyClock(device)) == 0.25
    assert measured(work, WallClock(device)) == 4.0


class FakeEvent:
    """A CUDA event at a time of a made-up device clock, in ms."""

    clock = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = self.synchronized = -1.0

    def record(self) -> None:
        self.at = FakeEvent.clock

    def synchronize(self) -> None:
        self.synchronized = self.at

    def elapsed_time(self, other: FakeEvent) -> float:
        assert other.synchronized == other.at
        return other.at - self.at


def test_on_a_gpu_time_is_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)

    def work() -> None:
        FakeEvent.clock += 1500.0

    assert measured(work, BusyClock(torch.device("cuda"))) == 1.5


def test_on_a_gpu_memory_is_the_allocators_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    held, most = [1000], [5000]
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: held[0])
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: most.__setitem__(0, held[0]))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: most[0])

    def work() -> None:
        most[0] = max(most[0], held[0] + 300)

    assert measured(work, PeakMemory(torch.device("cuda"))) == 300


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            torch.empty(1000, dtype=torch.uint8)
        both = torch.empty(2000, dtype=torch.uint8), torch.empty(1000, dtype=torch.uint8)
        del both

    assert 3000 <= measured(work, PeakMemory(torch.device("cpu"))) < 3200


def test_any_meter_goes_inside_a_module() -> None:
    module = torch.nn.Linear(8, 8, bias=False)
    with measured_calls(module, torch.device("cpu"), PeakMemory) as taken:
        module(torch.zeros(4, 8))
    assert taken == [4 * 8 * 4]


def test_one_thread_is_for_a_while() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(KeyError), single_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
