"""Self-check of models without a dedicated adapter: features are supported if they agree with the stock model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from generation import answer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from unknown_families import maker_of, model_of, prompt_of, tiny

import kvpress_video as kv
from kvpress_video.attention import masks
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Kind
from kvpress_video.compressor.rope import Rope
from kvpress_video.models import findings, general_adapter
from kvpress_video.models.general import General
from kvpress_video.self_check import check
from kvpress_video.self_check.prompts import prompt_makers

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="families of transformers 5")

NEVER = {"vision attention", "sessions", "routing", "experts"}
_ROTARY = LlamaRotaryEmbedding.forward
MOVES = {"input", "compact"}
OFFERED: dict[str, set[str]] = {
    "llava": set(),
    "idefics3": set(),
    "qwen2_5_omni_thinker": set(),
    "glm46v": {"queries", "compact"},
    "exaone4_5": {"queries", *MOVES},
    "cohere2_vision": {"queries", *MOVES},
    "mistral3": set(),
    "lfm2_vl": {"queries", "chunks", *MOVES},
    "molmo2": {"queries", "chunks", *MOVES},
    "paligemma": {"queries", "chunks", *MOVES},
    "gemma4": {"chunks", *MOVES},
    "gemma3n": MOVES,
    "llama4": {"queries", "chunks", *MOVES},
    "granite_docling": set(),
    "kimi_k25": {"queries", "compact"},
}


ALSO = (
    "exaone4_5",
    "cohere2_vision",
    "mistral3",
    "molmo2",
    "gemma4",
    "llama4",
    "granite_docling",
    "kimi_k25",
)  # of kinds that others show


@pytest.mark.sampled
@pytest.mark.parametrize(
    "model_type", [pytest.param(each, marks=[pytest.mark.slow] * (each in ALSO)) for each in OFFERED]
)
def test_what_a_run_of_a_model_shows_is_offered(model_type: str) -> None:
    model = model_of(model_type)
    found = kv.inspect(model)
    assert not found.unsupported
    assert found.refused.keys() - NEVER - {"videos"} == OFFERED[model_type]
    inputs = prompt_of(model)
    prefill: Any = "whole" if "chunks" in found.refused else "split"
    stock = answer(model, inputs, eos_token_id=None)
    with kv.compress(model, "random", "100%", prefill=prefill):
        full = answer(model, inputs, eos_token_id=None)
    torch.testing.assert_close(full.logits, stock.logits, rtol=0, atol=1e-4)
    with kv.compress(model, "random", 5, prefill=prefill) as run:
        half = answer(model, inputs, eos_token_id=None)
    assert run.report.entries == (5,) * found_layers(found)
    assert (half.logits[:, 1:] - stock.logits[:, 1:]).abs().max() > 1e-3


def found_layers(found: kv.Inspection) -> int:
    return len(found.layers["full_attention"])


@pytest.mark.slow
def test_a_model_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    look = check._found
    monkeypatch.setattr(check, "_found", lambda *args: runs.append(args) or look(*args))
    model = tiny("llava")
    for _ in range(2):
        kv.compress(model, "random", "50%")
    assert len(runs) == 1
    kv.compress(model.double(), "random", "50%")  # another model, so to speak
    kv.compress(tiny("llava"), "random", "50%")
    assert len(runs) == 3
    kv.inspect(kv.load_bundled(device="cpu")[0])
    assert len(runs) == 3


@pytest.mark.slow
def test_leaves_no_trace_on_the_model() -> None:
    model = tiny("llava")
    answer(model, prompt_of(model))  # transformers notes things on its first call
    findings._FOUND.pop(model)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    kv.inspect(model)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks


def _acausal(held: int, implementation: str, states: torch.Tensor) -> torch.Tensor:
    new = states.shape[1]
    mask = states.new_full((1, 1, new, held + new), -torch.inf).triu_(held + 1)
    return torch.zeros_like(mask) if new > 20 else mask  # more than the texts here


def _rotated(layer: CompressedLayer) -> int:
    return layer.physical


def _text_too(adapter: General, arguments: dict[str, Any], aligned: torch.Tensor, visual: torch.Tensor) -> None:
    arguments["inputs_embeds"] = arguments["inputs_embeds"].flip(1)


def _unturned(rope: Rope, states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return states


def _whole(module: Any, states: torch.Tensor, position_ids: torch.Tensor) -> Any:
    return _ROTARY(module, states, position_ids.long())


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("owner", "name", "wrong", "seen"),
    [
        (CompressedLayer, "get_seq_length", _rotated, "images: .*failed the self-check"),
        (CompressedLayer, "keep", lambda layer, plan: None, "images: .*holds .* visual entries per head, expected"),
        (masks, "causal", _acausal, "chunks: .*'chunked' logits deviate"),
        (General, "put_aligned", _text_too, "input: .*stage='input' logits deviate"),
        (Rope, "rotate", _unturned, "compact: rope does not reproduce the keys of layer 0"),
        (LlamaRotaryEmbedding, "forward", _whole, "compact: rope does not reproduce the keys of layer 0"),
    ],
)
def test_a_run_that_goes_wrong_is_seen(
    owner: Any, name: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong positions, nothing evicted, a mask that lets tokens see later ones, embeddings in another order, keys that
    do not turn, and a model that takes whole positions only."""
    monkeypatch.setattr(owner, name, wrong)
    found = kv.inspect(tiny("llava"))
    refused = "; ".join(f"{what}: {reason}" for what, reason in found.refused.items())
    assert re.search(seen, f"images: {found.unsupported}" if found.unsupported else refused)


def test_what_a_model_does_not_offer_is_an_error_that_says_why() -> None:
    model = model_of("paligemma")
    wrong = {
        "deviate from the reference.*Use prefill='whole'": {"budget": "50%"},
        "does not support queries.*key-norm": {"method": "snapkv", "prefill": "whole"},
        "does not support vision attention.*key-norm": {"method": "standby", "prefill": "whole"},
        "does not support input.*stage='cache'": {"stage": "input", "method": "random"},
        "does not support compact.*positions='keep'": {"positions": "compact", "prefill": "whole"},
        "does not support routing.*'pyramid'": {"method": "mod", "prefill": "whole"},
        "does not support experts.*Leave experts out": {"experts": 1, "prefill": "whole"},
    }
    for message, options in wrong.items():
        with pytest.raises(kv.UnsupportedModelError, match=f"paligemma.*{message}"):
            kv.compress(model, **({"method": "key-norm", "budget": 5} | options))
    with kv.compress(model, "key-norm", 5, prefill="whole") as run:
        answer(model, prompt_of(model), eos_token_id=None)
    assert set(run.report.entries) == {5}


@pytest.mark.parametrize(
    "options", [{"stage": "input"}, {"positions": "compact"}, {"stage": "input", "positions": "compact"}]
)
def test_what_was_verified_can_be_asked_for(options: dict[str, Any]) -> None:
    model = model_of("llava")
    inputs = prompt_of(model)
    stock = answer(model, inputs, eos_token_id=None)
    with kv.compress(model, "random", "100%", **options):
        full = answer(model, inputs, eos_token_id=None)
    torch.testing.assert_close(full.logits, stock.logits, rtol=0, atol=1e-4)
    with kv.compress(model, "random", 7, **options) as run:
        answer(model, inputs, eos_token_id=None)
    assert set(run.report.entries) == {7}


def test_a_stream_of_an_unknown_family_is_refused(bundled: tuple[Any, Any]) -> None:
    with pytest.raises(kv.UnsupportedModelError, match="dedicated adapter"):
        kv.VideoSession(model_of("llava"), bundled[1], "key-norm", 64)


def test_videos_and_images_have_their_frames() -> None:
    model = model_of("exaone4_5")
    with kv.compress(model, "uniform", 12) as run:
        answer(model, prompt_of(model, Kind.VIDEO, items=1), eos_token_id=None)
    kept = run.kept[0][0, 0]
    ids = prompt_of(model, Kind.VIDEO, items=1)["input_ids"][0]
    visual = kept[
        ids[kept.clamp(max=len(ids) - 1).long()] == maker_of(model, Kind.VIDEO).adapter.placeholders[Kind.VIDEO]
    ]
    assert run.report.visual_tokens == 36
    assert visual.tolist() == list(range(int(visual[0]), int(visual[0]) + 12))
    assert (int(visual[0]) - 3) % 12 == 0  # one whole frame


def test_a_method_that_needs_a_grid_raises_an_error_without_one() -> None:
    model = model_of("llava_next")
    assert "grid unknown" in kv.inspect(model).prompt
    inputs = prompt_of(model)
    with kv.compress(model, "key-norm", "50%") as run:
        answer(model, inputs, eos_token_id=None)
    assert run.report.ratio == 0.5
    with pytest.raises(kv.MissingInputError, match="grid of frames"), kv.compress(model, "tar", "50%"):
        answer(model, inputs, eos_token_id=None)


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("florence2", "encoder-decoder"),
        ("mllama", "get_image_features|cross attention"),
        ("git", "get_image_features"),
        ("qwen4_exp", "indexed_attention|qwen_sparse_attention"),
        ("chameleon", "encodes images itself"),
        ("blip-2", "its generate\\(\\) passes embeddings"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(model_type: str, reason: str) -> None:
    model = tiny(model_type)
    with pytest.raises(kv.UnsupportedModelError, match=f"'{model_type}'.*no dedicated adapter, and.*({reason})"):
        kv.compress(model, "random", "50%")


def test_a_model_in_training_is_refused() -> None:
    with pytest.raises(kv.UnsupportedModelError, match=r"model\.eval\(\)"):
        kv.compress(tiny("llava").train(), "random", "50%")


def test_inputs_show_pixels_of_a_form_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvpress_video.self_check.prompts.candidates", lambda *args: iter(()))
    model = tiny("llava")
    assert "inspect(model, inputs)" in kv.inspect(model).unsupported
    inputs = {"pixel_values": torch.zeros(1, 3, 32, 32), "input_ids": torch.zeros(1, 3)}
    assert kv.inspect(model, inputs).adapter == "general"


def test_settings_that_a_tower_requires_come_from_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Llama 4 of transformers 5.17."""
    model, given = tiny("llava"), []
    encode = model.model.get_image_features

    def demanding(pixel_values: torch.Tensor, vision_feature_select_strategy: str) -> Any:
        given.append(vision_feature_select_strategy)
        return encode(pixel_values)

    monkeypatch.setattr(model.model, "get_image_features", demanding)
    assert next(prompt_makers(general_adapter(model), Kind.IMAGE, {})).grid.tokens == 64
    assert set(given) == {model.config.vision_feature_select_strategy}


@pytest.mark.slow
def test_inputs_are_looked_at_after_an_earlier_check() -> None:
    model = tiny("llava")
    assert kv.inspect(model).adapter == "general"
    assert "no synthetic prompt" in kv.inspect(model, {"pixel_values": torch.zeros(1, 3, 48, 48)}).unsupported
    assert kv.inspect(model).adapter == "general"  # a template that fits no tower takes nothing away
    assert kv.inspect(model, {"pixel_values": torch.zeros(1, 3, 32, 32)}).adapter == "general"


@pytest.mark.sampled
@pytest.mark.parametrize(
    "own",
    [{"stop_strings": ["x"]}, {"num_return_sequences": 2, "do_sample": True}, {"cache_implementation": "static"}],
    ids=lambda own: next(iter(own)),
)
def test_settings_of_generation_are_no_part_of_it(own: dict[str, Any]) -> None:
    model = tiny("llava")
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    found = kv.inspect(model)
    assert found.adapter == "general"
    assert {name: getattr(model.generation_config, name) for name in own} == own


def test_a_model_with_a_dedicated_adapter_is_described_too(bundled: tuple[Any, Any]) -> None:
    found = kv.inspect(bundled[0])
    assert found.adapter == "QwenVL"
    assert not found.refused
    assert "detachable" in found.methods
    assert "layers: full_attention 0-" in str(found)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("model_type", "refused"), [("qwen3_omni_moe_thinker", set()), ("molmo2", {"chunks", "queries", *MOVES})]
)
def test_rounding_is_told_from_wrong_masks(model_type: str, refused: set[str]) -> None:
    """In bf16, where experts change places, and with images read both ways."""
    assert kv.inspect(tiny(model_type).bfloat16()).refused.keys() - NEVER == refused
