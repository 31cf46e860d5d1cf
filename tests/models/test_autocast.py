"""Models under autocast: budgets of bytes and reports count the dtypes that the cache really has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, video_prompt
from sessions import TinyProcessor, footage
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.models import adapter_for

KIB = 1024


def autocast(dtype: torch.dtype = torch.bfloat16) -> Any:
    return torch.autocast("cpu", dtype)


def tensors(layer: Any) -> list[Tensor]:
    if hasattr(layer, "conv_states"):
        return [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return [layer.keys, layer.values]


def held_bytes(cache: Any) -> int:
    """Keys, values, metadata and recurrent states, counted tensor by tensor."""
    parts = [part for layer in cache.layers for part in tensors(layer)]
    parts += [part for layer in compressed(cache) for part in (layer.tags, layer.places)]
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_report_counts_what_is_held(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    with torch.no_grad(), autocast():
        try:
            stock = held_bytes(model(**inputs).past_key_values)
        except RuntimeError as error:
            pytest.skip(f"the stock model does not run under autocast in this version: {error}")
        with kv.compress(model, "van", "50%", prefill="whole") as run:
            cache = model(**inputs).past_key_values
        layer = compressed(cache)[0]
        assert adapter_for(model).cache_dtypes == (layer.keys.dtype, layer.values.dtype) != (torch.float32,) * 2
    assert run.report.bytes == held_bytes(cache)
    assert run.report.full_bytes == stock
    assert adapter_for(model).cache_dtypes == (torch.float32, torch.float32)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
def test_budget_of_bytes_is_used_up(cast: torch.dtype, weights: torch.dtype) -> None:
    model = zoo.build("qwen2_5_vl", "sdpa", weights)
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 24)])
    budget = 100 * KIB
    try:
        with autocast(cast):
            answer(model, inputs, new=1)
    except RuntimeError as error:
        pytest.skip(f"the stock model does not run so in this version: {error}")
    with autocast(cast), kv.compress(model, "van", budget=f"{budget}B") as run:
        cache = answer(model, inputs, new=1).output.past_key_values
    entry = sum(layer.bytes // layer.physical for layer in compressed(cache))
    assert budget - entry < run.report.bytes == held_bytes(cache) <= budget


def test_everything_kept_is_the_stock_answer() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl")])
    with autocast():
        stock = answer(model, inputs)
        with kv.compress(model, "van", "100%"):
            kept = answer(model, inputs)
    assert torch.equal(kept.logits, stock.logits)


def test_session_allows_what_fits_in_the_dtype_in_force() -> None:
    model = model_of("qwen2_5_vl")
    with autocast():
        session = kv.VideoSession(model, TinyProcessor("qwen2_5_vl"), "van", budget="100KiB", text_room=8)
        session.push(footage(48))
        session.flush()
    stats, entry = session.stats, sum(layer.bytes // layer.physical for layer in session.stream.layers)
    assert 100 * KIB - 10 * entry < stats.bytes + 8 * entry <= 100 * KIB


def test_cache_begun_under_autocast_goes_on_without_it() -> None:
    """As a stock cache does: a session, or a conversation on a kept cache."""
    model = model_of("qwen2_5_vl")
    with autocast():
        session = kv.VideoSession(model, TinyProcessor("qwen2_5_vl"), "van", budget=32)
        session.push(footage(16))
        session.flush()
    kept = [layer.values.clone() for layer in session.stream.layers]
    session.ask("what?", max_new_tokens=4)
    for layer, values in zip(session.stream.layers, kept, strict=True):
        assert isinstance(layer, CompressedLayer)
        assert values.dtype == torch.bfloat16
        assert layer.values.dtype == torch.float32
        assert torch.equal(layer.values[:, :, : values.shape[2]], values.float())


def test_session_saved_under_autocast_is_loaded_under_it(tmp_path: Any) -> None:
    model, processor = model_of("qwen2_5_vl"), TinyProcessor("qwen2_5_vl")
    with autocast():
        session = kv.VideoSession(model, processor, "van", budget=32)
        session.push(footage(16))
        session.save(tmp_path / "session.safetensors")
        loaded = kv.VideoSession.load(tmp_path / "session.safetensors", model, processor)
        assert loaded.ask("what?", max_new_tokens=4) == session.ask("what?", max_new_tokens=4)
