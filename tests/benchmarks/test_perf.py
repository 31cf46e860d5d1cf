"""The benchmarks of prefill, decode, overhead and sweep, at the size where each takes a second: what must hold of
their figures at any speed. And the frame they run in.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kvpress_video.benchmarks.perf import BENCHMARKS, DEFAULT, program
from kvpress_video.benchmarks.perf.cases import overhead as overhead_module
from kvpress_video.benchmarks.perf.cases import sweep as sweep_module
from kvpress_video.benchmarks.perf.cases.compress_pass import Layer
from kvpress_video.benchmarks.perf.cases.prefill import Prefill
from kvpress_video.benchmarks.perf.results.file import check, head_of, keep, read
from kvpress_video.benchmarks.perf.results.measurement import Figure, Goal
from kvpress_video.benchmarks.perf.setup.prompts import video_prompt
from kvpress_video.benchmarks.perf.setup.scales import SCALES, Bed, bed
from kvpress_video.benchmarks.perf.setup.stock_model import StockPrefill
from kvpress_video.benchmarks.perf.setup.timing import interleaved, measured_calls, medians
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.cache_utils import DynamicCache

import kvpress_video as kv
from kvpress_video.cli import main
from kvpress_video.errors import BenchmarkError, UnknownNameError

TINY = bed("tiny", "cpu")


def figures(name: str) -> dict[tuple[str, str], Figure]:
    """Measurements of a program, by method (or case) and figure."""
    return {(one.case.partition(",")[0], one.what): one for one in program(name)(TINY)}


def test_prefill_is_the_text_models_share_and_the_floor_its_operations() -> None:
    found = figures("prefill")
    assert {case for case, _ in found} == {"average-pooling", "standby"}
    for (_, what), one in found.items():
        raw = one.raw
        tower = "tower" in what
        text, full = raw["text_seconds"], raw["full_text_seconds"]
        more, whole = (raw["tower_seconds"], raw["full_tower_seconds"]) if tower else (0, 0)
        assert one.measured == pytest.approx(100 * (text + more) / (full + whole))
        assert (one.goal is None) == tower
        assert raw["tokens"] - raw["kept_tokens"] == 2 * (324 - 8)
        if not tower:  # between the share of tokens and its square
            share = raw["kept_tokens"] / raw["tokens"]
            assert 100 * share**2 < one.floor < 100 * share


def test_prefill_counts_operations_as_the_profiler_of_torch_does() -> None:

    prefill = Prefill(TINY)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        prefill.full()
    config = prefill.text_model.config
    unseen = 2 * config.num_hidden_layers * config.hidden_size * prefill.tokens**2  # counted though masked
    assert counter.get_total_flops() == pytest.approx(prefill.flops(prefill.tokens) + unseen, rel=0.01)


@pytest.mark.slow
def test_decode_fills_the_room_with_conversations_and_no_more() -> None:
    found = list(program("decode")(TINY))
    assert [one.goal for one in found] == [Goal(10, least=True), None]
    raw = found[0].raw
    config = TINY.model()[0].get_decoder().config
    length = SCALES["tiny"].conversation + SCALES["tiny"].new_tokens
    head = 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads * 4
    assert raw["full_conversation_bytes"] == length * head * config.num_hidden_layers
    assert raw["room_bytes"] == SCALES["tiny"].cache_bytes
    for name in ("full", "capped"):
        held = raw[f"{name}_conversations"] * raw[f"{name}_conversation_bytes"]
        assert held <= raw["room_bytes"] < held + raw[f"{name}_conversation_bytes"]
        assert raw[f"{name}_peak_bytes"] > held * 0.9
        rate = raw[f"{name}_conversations"] * raw["new_tokens"] / raw[f"{name}_seconds"]
        assert raw[f"{name}_tokens_per_second"] == pytest.approx(rate)
    capped = raw["capped_tokens_per_second"]
    assert found[0].measured == pytest.approx(capped / raw["in_place_tokens_per_second"])
    assert found[1].measured == pytest.approx(capped / raw["full_tokens_per_second"])
    assert found[0].floor == pytest.approx(SCALES["tiny"].conversation / SCALES["tiny"].budget, rel=0.5)
    least = (SCALES["tiny"].budget + 20) * (head + 40 * config.num_key_value_heads) * config.num_hidden_layers
    assert least < raw["capped_conversation_bytes"] < 3 * least


def test_decode_says_when_not_even_one_full_cache_fits() -> None:
    small = replace(TINY, scale=replace(TINY.scale, cache_bytes=1000))
    with pytest.raises(BenchmarkError, match=r"No full cache of 1,58\d,\d+ bytes fits into 1,000"):
        list(program("decode")(small))


def test_overhead_compares_equal_entries() -> None:
    for name, one in zip(overhead_module.INLINE, program("overhead")(TINY), strict=True):
        raw = one.raw
        ratios = sorted(a / b for a, b in zip(raw["hooked_seconds"], raw["inline_seconds"], strict=True))
        assert len(ratios) == raw["rounds"] == 3
        assert one.measured == pytest.approx(100 * (ratios[1] - 1))
        assert one.case.startswith(name)
        assert (raw["visual_tokens"], raw["kept"], raw["swapped"]) == (64, 16, 0)


def test_overhead_fails_where_other_entries_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest(prefill: Any) -> list[Any]:
        first, end = prefill.first, prefill.first + prefill.visual
        layers = prefill.stock()
        return [overhead_module.thin(layer, layer.keys[:, :, first:end].norm(dim=-1), prefill) for layer in layers]

    monkeypatch.setitem(overhead_module.INLINE, "key-norm", longest)
    with pytest.raises(BenchmarkError, match="key-norm keeps other entries of layer 0"):
        list(program("overhead")(TINY))


@pytest.mark.slow
def test_sweep_divides_the_seconds_of_one_grid_run_twice() -> None:
    pytest.importorskip("av", reason="PyAV writes the clips")
    prefill, everything = program("sweep")(TINY)
    raw = prefill.raw
    assert (raw["cells"], raw["answers"]) == (10, 80)
    assert prefill.measured == pytest.approx(raw["alone"]["prefill_seconds"] / raw["shared"]["prefill_seconds"])
    assert everything.measured == pytest.approx(raw["alone"]["seconds"] / raw["shared"]["seconds"])
    assert prefill.goal == Goal(5, least=True)


def test_sweep_fails_where_sharing_changes_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(["a circle", "a square"])

    class Told(sweep_module.SweepRun):
        def answers(self) -> dict[Any, Any]:
            return {"what was it?": (next(said),)}

    monkeypatch.setattr(sweep_module, "_swept", lambda asked, folder: Told([], 1.0))
    with pytest.raises(BenchmarkError, match="gave other answers"):
        list(program("sweep")(TINY))


@pytest.mark.parametrize("method", ["full", "key-norm"])
def test_the_stock_prefill_holds_what_generate_leaves(method: str) -> None:
    model, _ = TINY.model()
    prompt = video_prompt(model, 3, 2, 4)
    cache: Any = DynamicCache(config=model.get_decoder().config)
    model.generate(**prompt, max_new_tokens=1, past_key_values=cache)
    with torch.no_grad():
        again = StockPrefill(model, prompt)()
    for one, other in zip(cache.layers, again, strict=True):
        torch.testing.assert_close(one.keys, other.keys, rtol=0, atol=0)
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=0)
    with kv.compress(model, method, "100%") as run:
        model.generate(**prompt, max_new_tokens=1)
    assert run.report.visual_tokens == 3 * 2 * 4


def test_works_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[str] = []

    def work(name: str) -> int:
        order.append(name)
        return len(order)

    assert interleaved({"a": lambda: work("a"), "b": lambda: work("b")}, rounds=2) == {"a": [3, 5], "b": [4, 6]}
    assert order == ["a", "b"] * 3
    assert set(medians({"a": lambda: work("a")}, TINY.device, rounds=1, warm_up=0)) == {"a"}


def test_inside_times_each_call_and_leaves_no_hook() -> None:
    module = torch.nn.Linear(2, 2)
    with measured_calls(module, TINY.device) as taken:
        module(torch.zeros(1, 2))
        module(torch.zeros(1, 2))
    module(torch.zeros(1, 2))
    assert len(taken) == 2
    assert min(taken) > 0


def test_a_goal_is_a_bound_from_above_or_below() -> None:
    assert [Goal(3).met(measured) for measured in (2.9, 3, 3.1)] == [True, True, False]
    assert [Goal(3, least=True).met(measured) for measured in (2.9, 3, 3.1)] == [False, True, True]
    assert (str(Goal(4.6)), str(Goal(10, least=True))) == ("≤ 4.6", "≥ 10")


ONE = Figure("prefill", "tar, 3 frames", "share", 2.5, "%", Goal(4.6), 1.25, "of the work", {"seconds": [1.0, 2.0]})
OTHER = Figure("decode", "all", "ratio", 12.0, "×", raw={"rounds": 5})


@pytest.mark.parametrize("figure", [ONE, OTHER], ids=["goal", "none"])
def test_figures_come_back_from_json(figure: Figure) -> None:
    assert Figure.of(json.loads(json.dumps(figure.record()))) == figure
    assert figure.met is (True if figure.goal else None)


def test_keep_replaces_the_rows_of_its_benchmark_alone(tmp_path: Path) -> None:
    file, head = tmp_path / "deep" / "here.json", head_of(TINY)
    keep(file, head, "prefill", [ONE, replace(ONE, case="old")])
    keep(file, head, "decode", [OTHER])
    keep(file, head, "prefill", [replace(ONE, measured=3.0)])
    found, rows = read(file)
    assert [(row["benchmark"], row["case"], row["measured"]) for row in rows] == [
        ("decode", "all", 12.0),
        ("prefill", "tar, 3 frames", 3.0),
    ]
    assert Figure.of(rows[0]) == OTHER
    assert found["scale"] == "tiny"
    assert all("revision" in row for row in rows)


@pytest.mark.parametrize("what", ["device", "machine", "scale", "versions"])
def test_figures_of_another_machine_are_refused(tmp_path: Path, what: str) -> None:
    file, head = tmp_path / "here.json", head_of(TINY)
    keep(file, head, "decode", [OTHER])
    check(file, head)
    with pytest.raises(BenchmarkError, match=f"measured elsewhere.*{what}"):
        check(file, {**head, what: "another"})


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"machine": "this"}'])
def test_a_file_of_another_kind_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(BenchmarkError, match="no figures"):
        check(tmp_path / "other.json", head_of(TINY))


def two_figures(bed: Any) -> Any:
    """A program that measures nothing."""
    yield ONE
    yield replace(ONE, case="van, 3 frames", measured=5.0)


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command on the CPU, where prefill's program measures nothing."""
    module = type("Module", (), {"run": staticmethod(two_figures)})
    monkeypatch.setattr("kvpress_video.benchmarks.perf.import_module", lambda name: module)
    return main(["bench", *arguments, "--scale", "tiny", "--device", "cpu"])


def test_bench_prints_goal_measured_and_floor_and_writes_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    assert bench(monkeypatch, "prefill", "--out", str(file)) == 0
    lines = [[cell.strip() for cell in line.split("│")] for line in capsys.readouterr().out.splitlines()]
    said = [cells[1:-1] for cells in lines if len(cells) > 7]
    assert ["prefill", "tar, 3 frames", "share", "≤ 4.6 %", "2.5 %", "1.25 %", "yes"] in said
    assert ["prefill", "van, 3 frames", "share", "≤ 4.6 %", "5 %", "1.25 %", "no"] in said
    found, rows = read(file)
    assert [row["measured"] for row in rows] == [2.5, 5.0]
    assert found["scale"] == "tiny"


def test_bench_measures_nothing_for_a_file_it_cannot_join(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    keep(file, {**head_of(TINY), "machine": "another"}, "decode", [OTHER])
    before = file.read_text()
    assert bench(monkeypatch, "prefill", "--out", str(file)) != 0
    assert "measured elsewhere" in capsys.readouterr().err
    assert file.read_text() == before


def test_bench_knows_its_benchmarks_and_scales(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(monkeypatch, "prefil") != 0
    assert "did you mean 'prefill'" in capsys.readouterr().err.lower()
    with pytest.raises(UnknownNameError, match=r"(?i)did you mean 'laptop'"):
        bed("labtop")
    assert all(callable(program(name)) for name in BENCHMARKS)


def test_bench_without_names_runs_the_default_and_help_names_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def imported(name: str) -> Any:
        asked.append(name.rpartition(".")[2])
        return type("Module", (), {"run": staticmethod(two_figures)})

    monkeypatch.setattr("kvpress_video.benchmarks.perf.import_module", imported)
    assert main(["bench", "--scale", "tiny", "--device", "cpu"]) == 0
    assert asked == [BENCHMARKS[name] for name in DEFAULT]
    assert set(BENCHMARKS) - set(DEFAULT) == {"modes", "peers"}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(BENCHMARKS).replace(", peers", " or peers") in said


@pytest.mark.slow
def test_a_pass_is_measured_where_it_stays_and_where_it_moves() -> None:
    found = list(program("pass")(TINY))
    times = [one for one in found if one.what.startswith("compressing")]
    assert all(one.measured == pytest.approx(one.raw["seconds"] / one.raw["copy_seconds"]) for one in times)
    asked = {(one.case.split(",")[0], "moving" in one.what) for one in times if one.goal}
    assert asked == {(name, moves) for name in ("tar", "van", "infinipot-v") for moves in (False, True)}
    scratch = [one for one in found if one.what.startswith("scratch")]
    assert all(
        one.measured == pytest.approx(100 * one.raw["scratch_bytes"] / one.raw["layer_bytes"]) for one in scratch
    )
    assert all(one.raw["scratch_bytes"] > 0 for one in scratch)


def test_the_naive_form_of_tar_scores_the_same() -> None:
    layer = Layer(972, torch.device("cpu"))
    torch.testing.assert_close(layer.naive_tar()().transpose(1, 2).flatten(1), layer.tar()()[0], atol=1e-5, rtol=0)


def test_the_largest_scale_is_the_7b_model_in_bf16() -> None:
    model = Bed(torch.device("meta"), SCALES["7b"], "7b").model()[0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(model.get_decoder().layers) == 28
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(8.29e9, rel=0.01)


def test_bench_shows_what_was_measured_before_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bed: Bed) -> Any:
        yield from two_figures(bed)
        raise BenchmarkError("no room")

    modules = {"prefill": two_figures, "decode": broken}
    monkeypatch.setattr(
        "kvpress_video.benchmarks.perf.import_module",
        lambda name: type("Module", (), {"run": staticmethod(modules[name.rpartition(".")[2]])}),
    )
    assert main(["bench", "prefill", "decode", "--scale", "tiny", "--device", "cpu"]) != 0
    said = capsys.readouterr()
    assert "tar, 3 frames" in said.out
    assert "no room" in said.err
