"""Models quantised by bitsandbytes: the bundled one, and another through the self-check."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from generation import answer
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from unknown_families import prompt_of, tiny

import kvpress_video as kv

bitsandbytes = pytest.importorskip("bitsandbytes")

LINEAR = {"int8": "Linear8bitLt", "nf4": "Linear4bit"}


def settings(bits: str, *skipped: str) -> BitsAndBytesConfig:
    """A configuration that leaves the vision tower, the head and the named modules as they are.

    On a CPU, NF4 needs input widths that are multiples of 64.
    """
    words = {"llm_int8_skip_modules": ["model.visual", "model.vision_tower", "lm_head", *skipped]}
    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, **words)
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    return BitsAndBytesConfig(load_in_4bit=True, **four, **words)


def load(folder: Any, config: BitsAndBytesConfig) -> Any:
    """A quantised model on the CPU."""
    return AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=config, device_map="cpu", dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module", params=LINEAR)
def quantised(request: pytest.FixtureRequest) -> Any:
    """The bundled Qwen2.5-VL with the weights of its text model quantised."""
    model = load(files("kvpress_video") / "data/bundled", settings(request.param))
    assert type(model.get_decoder().layers[0].self_attn.q_proj).__name__ == LINEAR[request.param]
    return model


@pytest.fixture(scope="module")
def inputs(bundled: tuple[Any, Any]) -> dict[str, Any]:
    """A prompt with a video of four steps of four tokens."""
    processor = bundled[1]
    video = torch.randint(0, 255, (8, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    said = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What flashed?"}]}]
    text = processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    return dict(processor(text=[text], videos=[video], return_tensors="pt"))


@pytest.mark.parametrize("prefill", ["whole", "split"])
def test_everything_kept_is_the_quantised_model_to_the_bit(quantised: Any, inputs: Any, prefill: Any) -> None:
    stock = answer(quantised, inputs, eos_token_id=None).logits
    with kv.compress(quantised, "snapkv", "100%", prefill=prefill):
        full = answer(quantised, inputs, eos_token_id=None).logits
    assert torch.equal(full, stock)


@pytest.mark.parametrize("method", ["snapkv", "standby", "tar"])
def test_a_budget_is_exact(quantised: Any, inputs: Any, method: str) -> None:
    stock = answer(quantised, inputs, eos_token_id=None).logits
    with kv.compress(quantised, method, 5) as run:
        answered = answer(quantised, inputs, eos_token_id=None).logits
    assert set(run.report.entries) == {5}
    assert (answered[:, 1:] - stock[:, 1:]).abs().max() > 1e-3


def test_a_packed_output_projection_is_not_read(quantised: Any, inputs: Any) -> None:
    with kv.compress(quantised, "critical", 5), pytest.raises(kv.UnsupportedModelError, match="without quantisation"):
        answer(quantised, inputs, eos_token_id=None)


@pytest.mark.slow
@pytest.mark.parametrize("bits", LINEAR)
def test_the_self_check_runs_on_quantised_weights(bits: str, tmp_path: Path) -> None:
    """It compares with the quantised model, so that rounding is no deviation."""
    tiny("llava").save_pretrained(tmp_path)
    model = load(tmp_path, settings(bits, *(f"model.language_model.layers.{each}.mlp.down_proj" for each in range(6))))
    found = kv.inspect(model)
    assert found.adapter == "general"
    assert not found.unsupported
    with kv.compress(model, "key-norm", 7, prefill="whole") as run:
        answer(model, prompt_of(model), eos_token_id=None)
    assert set(run.report.entries) == {7}
