"""The memory of a prefill grows with the length of the prompt and not with its square: bytes, by torch's profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo
from kvpress_video.benchmarks.perf.cases.modes import exponent
from kvpress_video.benchmarks.perf.setup.text_prefill import TextPrefill
from kvpress_video.benchmarks.perf.setup.timing import PeakMemory

import kvpress_video as kv
from kvpress_video.attention.masks import causal
from kvpress_video.prefill.pass_in_flight import PassInFlight

LENGTHS = [1024, 2048, 4096]
MOST = 1.15
MODES: dict[str, dict[str, Any]] = {
    "whole": {"method": "key-norm", "budget": "25%", "prefill": "whole"},
    "split": {"method": "key-norm", "budget": "25%"},
    "chunked": {"method": "key-norm", "budget": 512},
    "chunked at a ratio": {"method": "key-norm", "budget": "25%", "prefill": "chunked", "chunk": 256},
    "input": {"method": "uniform", "budget": "25%", "stage": "input"},
}


@pytest.fixture(scope="module")
def prefills() -> list[TextPrefill]:
    model = zoo.build("qwen2_5_vl", "sdpa", layers=2)
    with torch.no_grad():
        return [TextPrefill(model, length) for length in LENGTHS]


@torch.no_grad()
def growth(prefills: list[TextPrefill], options: dict[str, Any]) -> float:
    """The exponent of the length that peak memory grows with, beyond the model and its inputs."""
    peaks = [prefill.within(kv.compress(prefill.model, **options), PeakMemory) for prefill in prefills]
    return exponent(LENGTHS, peaks)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_memory_is_linear_in_tokens(prefills: list[TextPrefill], mode: str) -> None:
    assert growth(prefills, MODES[mode]) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["whole", "split", "input"])
def test_a_dense_mask_is_noticed(prefills: list[TextPrefill], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock: Callable[..., bool] = PassInFlight._set_common_mask

    def dense(flight: PassInFlight, kwargs: dict[str, Any]) -> bool:
        alike = stock(flight, kwargs)
        if not flight.layers[0].physical:
            kwargs["attention_mask"] = causal(0, "sdpa", kwargs["inputs_embeds"])
        return alike

    monkeypatch.setattr(PassInFlight, "_set_common_mask", dense)
    assert growth(prefills, MODES[mode]) > MOST
