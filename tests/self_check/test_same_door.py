"""Models that others have wrapped, quantised, split or cut go through the same self-check."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import transformers
from generation import answer
from unknown_families import prompt_of, tiny

import kvpress_video as kv
from kvpress_video.sweep.dry_run import cost

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="families of transformers 5")

FAMILY = "llava"


def test_a_lora_wrapper_is_checked_with_its_adapters() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=r".*language_model.*self_attn\.(q|v)_proj")
    wrapped = peft.get_peft_model(tiny(FAMILY), config).eval()
    merged = deepcopy(wrapped).merge_and_unload()
    assert kv.inspect(wrapped).adapter == kv.inspect(merged).adapter == "general"
    logits = []
    for model in (wrapped, merged):
        with kv.compress(model, "snapkv", "30%") as run:
            logits.append(answer(model, prompt_of(merged), eos_token_id=None).logits)
        assert run.report.ratio < 0.31
    torch.testing.assert_close(*logits)


def test_a_forward_for_embeddings_is_compressed() -> None:
    """Embedding models read hidden states of one forward pass."""
    model = tiny(FAMILY)
    inputs = prompt_of(model)
    with torch.no_grad():
        stock = model(**inputs, output_hidden_states=True).hidden_states[-1]
        with kv.compress(model, "random", "100%", prefill="whole"):
            full = model(**inputs, output_hidden_states=True).hidden_states[-1]
        with kv.compress(model, "random", "50%", prefill="whole") as run:
            model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(full, stock, rtol=0, atol=1e-4)
    assert run.report.ratio == 0.5


def test_a_model_without_a_head_is_refused_with_the_reason() -> None:
    with pytest.raises(kv.UnsupportedModelError, match=r"has no language-model head|get_image_features|generate"):
        kv.compress(tiny(FAMILY).model, "random", "50%")


@pytest.mark.slow
def test_offloaded_weights_change_nothing(tmp_path: Path) -> None:
    from accelerate import disk_offload

    plain = tiny(FAMILY)
    inputs = prompt_of(plain)
    offloaded = disk_offload(tiny(FAMILY), str(tmp_path), execution_device=torch.device("cpu"))
    logits = []
    for model in (plain, offloaded):
        with kv.compress(model, "key-norm", 7) as run:
            logits.append(answer(model, inputs, eos_token_id=None).logits)
        assert set(run.report.entries) == {7}
    torch.testing.assert_close(*logits)


@pytest.mark.slow
def test_a_model_that_a_device_map_spreads_keeps_the_same(tmp_path: Path) -> None:
    """Half of its text layers on the CPU, the rest on disk, with a hook on every module."""
    from accelerate import dispatch_model

    plain, spread = tiny(FAMILY), tiny(FAMILY)
    inputs = prompt_of(plain)
    text = "model.language_model"
    places = {"lm_head": "cpu"}
    places |= {
        f"model.{name}": "cpu" for name, part in spread.model.named_children() if part is not spread.get_decoder()
    }
    places |= {f"{text}.{name}": "cpu" for name, _ in spread.get_decoder().named_children() if name != "layers"}
    places |= {f"{text}.layers.{number}": "disk" if number > 2 else "cpu" for number in range(6)}
    spread = dispatch_model(spread, places, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    assert kv.inspect(spread).refused == kv.inspect(plain).refused
    logits = []
    for model in (plain, spread):
        with kv.compress(model, "snapkv", 7) as run:
            logits.append(answer(model, inputs, eos_token_id=None).logits)
        assert set(run.report.entries) == {7}
    torch.testing.assert_close(*logits)


def test_a_quantised_model_is_served_as_far_as_its_rounding_allows() -> None:
    """Activations rounded by the largest of a pass depend on what else is in it: chunks differ from the whole."""
    model = tiny(FAMILY)
    inputs = prompt_of(model)
    text = model.get_decoder()
    assert not kv.inspect(model).refused.keys() & {"chunks", "input"}
    text.layers = torch.ao.quantization.quantize_dynamic(text.layers, {torch.nn.Linear}, dtype=torch.qint8)
    assert kv.inspect(model).refused.keys() >= {"chunks", "input"}
    with kv.compress(model, "snapkv", 7, prefill="whole") as run:
        answer(model, inputs, eos_token_id=None)
    assert set(run.report.entries) == {7}
    with kv.compress(model, "critical", 7, prefill="whole"), pytest.raises(kv.UnsupportedModelError, match="quantis"):
        answer(model, inputs, eos_token_id=None)


def test_a_dry_run_says_that_it_cannot_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny(FAMILY).config.save_pretrained(tmp_path)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda folder: None)
    with pytest.raises(kv.UnsupportedModelError, match=r"dry run cannot estimate.*kvpress-video models"):
        cost.read_model(str(tmp_path))
