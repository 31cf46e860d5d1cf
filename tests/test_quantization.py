"""Prompts whose cache is quantised: bytes, errors at a budget that keeps everything, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import zoo
from generation import SETTINGS, answer, compressed, model_of, two_videos, video_prompt

import kvpress_video as kv
from kvpress_video.cache.quantized_layer import QuantizedLayer
from kvpress_video.cache.storage import storage_of
from kvpress_video.models import adapter_for

QWEN = zoo.FAMILIES[0]
FINE = "q_group_size=8,residual_length=8"
MODES: dict[str, dict[str, Any]] = {
    "chunked": {},
    "small chunks": {"chunk": 12},
    "split": {"prefill": "split"},
    "whole": {"prefill": "whole"},
    "input": {"stage": "input"},
}


def _noted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most bytes that the layers of a cache held with their staging buffers, at the end of every change."""
    layers: dict[Any, int] = {}
    most = [0]

    def note(name: str) -> None:
        stock = getattr(QuantizedLayer, name)

        def noting(self: QuantizedLayer, *args: Any, **kwargs: Any) -> Any:
            result = stock(self, *args, **kwargs)
            layers[self] = self.bytes
            most[0] = max(most[0], sum(layers.values()) + self.staging_bytes)
            return result

        monkeypatch.setattr(QuantizedLayer, name, noting)

    note("update")
    note("replace")
    return most


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["van", "infinipot-v", "hermes"])
def test_a_budget_of_bytes_holds_at_every_moment(method: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that is read after the frames included; `hermes` gives layers unequal shares, once all hold the chunk."""
    model, options = model_of(QWEN), MODES[mode]
    if mode == "input":
        method = "random"
    rows = [video_prompt(QWEN, 12), two_videos(QWEN)] if method == "van" else [video_prompt(QWEN, 12)]
    inputs, most = zoo.inputs(model, rows), _noted(monkeypatch)
    full = sum(inputs["input_ids"].shape) * 4 * adapter_for(model).entry_bytes(False)
    budget = int(len(rows) * full * (1.2 if method == "hermes" else 0.8))
    with kv.compress(model, method, f"{budget}B", quantize=f"4:{FINE}", **options, **SETTINGS.get(method, {})) as run:
        answer(model, inputs, new=1)
    report = run.report
    assert report.bytes <= report.peak_bytes <= budget
    assert most[0] <= budget
    assert report.quantize == f"4:{FINE}"


SPREAD = ["per-layer", "pyramid:beta=2", "per-layer:base=infinipot-v,shares=(.3,2.02,.86,.82)"]


@pytest.mark.parametrize("method", SPREAD)
def test_unequal_layers_use_their_budget_and_keep_everything_at_three_times_the_stock_size(method: str) -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN, 40)])

    def run(budget: int) -> kv.Report:
        with kv.compress(model, method, f"{budget}B", quantize=f"4:{FINE}") as compression:
            answer(model, inputs, new=1)
        assert compression.report.peak_bytes <= budget
        return compression.report

    full = sum(inputs["input_ids"].shape) * 4 * adapter_for(model).entry_bytes(False)
    ample = run(3 * full)
    assert set(ample.entries) == {ample.visual_tokens}
    for share in (0.5, 0.6, 0.7):
        assert run(int(share * full)).peak_bytes > 0.75 * share * full


def test_bytes_are_those_of_the_packed_layers_and_fewer_bits_hold_more() -> None:
    model = model_of(QWEN)
    inputs, adapter = zoo.inputs(model, [video_prompt(QWEN, 12)]), adapter_for(model)
    held = []
    for nbits in (8, 4, 2):
        with kv.compress(model, "van", 96, quantize=f"{nbits}:{FINE}") as run:
            output = answer(model, inputs, new=1).output
        storage, layers = storage_of(f"{nbits}:{FINE}"), compressed(output.past_key_values)
        assert run.report.entries == (96,) * 4
        packed = sum(storage.layer_bytes(adapter, False, layer.physical) for layer in layers)
        assert run.report.bytes == packed + layers[0].staging_bytes
        held.append(run.report.bytes)
    assert held == sorted(held, reverse=True)


def test_errors_where_everything_is_kept_shrink_with_every_bit() -> None:
    """Text after the frames reads quantised entries; 8 bits are close to the stock model, 2 bits are not."""
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN, 12)])
    with kv.compress(model, "van", "100%"):
        wanted = answer(model, inputs, new=1).logits
    errors = []
    for nbits in (8, 4, 2):
        with kv.compress(model, "van", "100%", chunk=36, quantize=f"{nbits}:{FINE}"):
            errors.append(float((answer(model, inputs, new=1).logits - wanted).norm() / wanted.norm()))
    assert errors[0] < 0.02
    assert 4 * errors[0] < errors[1] < errors[2] / 2


def test_what_cannot_be_quantised_says_what_to_do() -> None:
    model = model_of(QWEN)
    with pytest.raises(kv.CacheError, match="positions='keep'"):
        kv.compress(model, "van", "50%", quantize=4, positions="compact")
    with pytest.raises(kv.CacheError, match="choose another method"):
        kv.compress(model, "ada:base=van", "50%", quantize=4)
    with pytest.raises(kv.UnsupportedModelError, match="q_group_size=16'"):
        kv.compress(model, "van", "50%", quantize="4:q_group_size=12")
    inputs = zoo.inputs(model, [video_prompt(QWEN, 4)])
    with kv.compress(model, "van", "50%", quantize=8):
        cache = answer(model, inputs, new=1).output.past_key_values
    with kv.compress(model, "van", "50%"), pytest.raises(kv.CacheError, match="made with quantize='8'"):
        model(**inputs, past_key_values=cache, use_cache=True)
