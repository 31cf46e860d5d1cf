"""Models inside PEFT and `torch.compile` wrappers: everything works on the wrapper as on the model inside."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import zoo
from generation import answer, video_prompt
from sessions import TinyProcessor, footage

import kvpress_video as kv
from kvpress_video.models.fingerprint import fingerprint
from kvpress_video.models.wrappers import unwrapped

peft = pytest.importorskip("peft")

FAMILY = "qwen2_5_vl"
LORA = {"r": 4, "init_lora_weights": False, "target_modules": r".*self_attn\.(q|k|v)_proj"}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """A model in a LoRA wrapper with random adapters, and a plain model with the same weights."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(zoo.build(FAMILY, "sdpa"), peft.LoraConfig(**LORA)).eval()
    return wrapped, deepcopy(wrapped).merge_and_unload()


@pytest.fixture(scope="module")
def inputs(pair: tuple[Any, Any]) -> dict[str, Any]:
    return zoo.inputs(pair[1], [video_prompt(FAMILY)])


@pytest.mark.parametrize("method", ["van", "snapkv", "tar", "streammem"])
def test_compress(pair: tuple[Any, Any], inputs: dict[str, Any], method: str) -> None:
    logits = []
    for model in pair:
        with kv.compress(model, method, "30%") as run:
            logits.append(answer(model, inputs).logits)
        assert len(run.reports) == 1
    torch.testing.assert_close(*logits)
    assert not torch.equal(answer(pair[0], inputs).logits, logits[0])  # off again


def test_forward_of_the_wrapper_is_compressed(pair: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    with kv.compress(pair[0], "van", "30%") as run, torch.no_grad():
        pair[0](**inputs)
    assert run.report.ratio < 0.35


def test_disabled_adapters_are_those_of_the_base_model(inputs: dict[str, Any]) -> None:
    base = zoo.build(FAMILY, "sdpa")
    wrapped = peft.get_peft_model(zoo.build(FAMILY, "sdpa"), peft.LoraConfig(**LORA)).eval()
    with kv.compress(base, "snapkv", "30%"):
        wanted = answer(base, inputs).logits
    with kv.compress(wrapped, "snapkv", "30%"), wrapped.disable_adapter():
        torch.testing.assert_close(answer(wrapped, inputs).logits, wanted)


def test_patch_counts_each_request_once(pair: tuple[Any, Any], inputs: dict[str, Any]) -> None:
    wrapped, plain = pair
    with kv.patch(plain, "van", 16):
        wanted = answer(plain, inputs).logits
    before = {name: set(vars(module)) for name, module in wrapped.named_modules()}
    with kv.patch(wrapped, "van", 16) as handle:
        torch.testing.assert_close(answer(wrapped, inputs).logits, wanted)
        answer(unwrapped(wrapped), inputs)
        assert (handle.stats.requests, handle.stats.prefills) == (2, 2)
        with pytest.raises(kv.UnsupportedModelError, match="already"):
            kv.patch(unwrapped(wrapped), "van", 16)
    assert {name: set(vars(module)) for name, module in wrapped.named_modules()} == before


def test_session_and_its_file(pair: tuple[Any, Any], tmp_path: Any) -> None:
    """The wrapped model loads a session that the wrapper saved."""
    wrapped, processor, path = pair[0], TinyProcessor(FAMILY), tmp_path / "session.safetensors"
    answers = []
    for model in pair:
        session = kv.VideoSession(model, processor, "van", budget=32)
        session.push(footage(16))
        answers.append(session.ask("what?", max_new_tokens=4))
        if model is wrapped:
            session.save(path)
    assert answers[0] == answers[1]
    loaded = kv.VideoSession.load(path, unwrapped(wrapped), processor)
    assert loaded.ask("and?", max_new_tokens=4) == session.ask("and?", max_new_tokens=4)
    assert fingerprint(wrapped) == fingerprint(unwrapped(wrapped))


def test_session_uses_the_generation_config_of_the_wrapper() -> None:
    wrapped = peft.get_peft_model(zoo.build(FAMILY, "sdpa"), peft.LoraConfig(**LORA, task_type="CAUSAL_LM")).eval()
    wrapped.generation_config = deepcopy(wrapped.generation_config)
    wrapped.generation_config.bad_words_ids = [[token] for token in range(127)]
    session = kv.VideoSession(wrapped, TinyProcessor(FAMILY), "van", budget=32)
    session.push(footage(4))
    assert all(ord(letter) > 0x400 for letter in session.ask("what?", max_new_tokens=8))


def test_virtual_tokens_are_refused(pair: tuple[Any, Any]) -> None:
    tuned = peft.get_peft_model(
        zoo.build(FAMILY, "sdpa"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    with pytest.raises(kv.UnsupportedModelError, match=r"virtual tokens .* such as LoRA"):
        kv.compress(tuned, "van", "30%")


def test_compiled_wrapper(inputs: dict[str, Any]) -> None:
    """`generate()` of the wrapper is that of the model inside."""
    model = zoo.build(FAMILY, "sdpa")
    with kv.compress(model, "van", 16):
        wanted = answer(model, inputs).logits
    wrapper = torch.compile(model, backend="eager")
    with kv.patch(wrapper, "van", 16) as handle:
        assert torch.equal(answer(wrapper, inputs).logits, wanted)
        assert torch.equal(answer(model, inputs).logits, wanted)
    assert handle.stats.requests == 2
