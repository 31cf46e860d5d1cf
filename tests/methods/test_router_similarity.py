"""Pruning by the routing of a mixture of experts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt
from scipy.stats import ttest_1samp
from torch.nn.functional import cosine_similarity, kl_div

import kvpress_video as kv
from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import footage, routed, thinned
from kvpress_video.errors import MissingInputError, UnsupportedModelError
from kvpress_video.models import adapter_for
from kvpress_video.models.routing import first_router

MIXTURES = [family for family in zoo.FAMILIES if family in ("qwen3_vl_moe", "qwen3_5_moe")]


@pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(), 7, 36)], ids=["whole frames", "parts of frames"]
)
def test_a_score_is_the_mean_cosine_with_the_neighbours(entries: Entries) -> None:
    routing, columns = routed(entries.keys), entries.grid.columns
    places = torch.stack([entries.frame, entries.patch // columns, entries.patch % columns], dim=-1)
    scores = make_method("router-similarity").scores(entries)
    for row, head in torch.ones(scores.shape[:2]).nonzero().tolist():
        where, mine = places[row, head], routing[row, head]
        near = (where[:, None] - where).abs().amax(dim=-1) <= 1
        near.fill_diagonal_(False)
        alike = cosine_similarity(mine[:, None], mine, dim=-1)
        expected = -(alike * near).sum(dim=-1) / near.sum(dim=-1).clamp_min(1)
        torch.testing.assert_close(scores[row, head], expected, atol=1e-5, rtol=1e-4)


def test_no_router() -> None:
    entries = footage()
    with pytest.raises(MissingInputError, match="mixture of experts"):
        make_method("router-similarity").select(replace(entries, context=replace(entries.context, router=None)), 10)


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_are_those_of_the_model(family: str) -> None:
    """The probabilities are those that the first layer's own gate computes."""
    model = model_of(family)
    adapter = adapter_for(model)
    layer = adapter.text_model.layers[0]
    states = torch.randn(5, model.config.text_config.hidden_size, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    handle = layer.mlp.gate.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        layer.mlp(layer.post_attention_layernorm(states)[None])
    handle.remove()
    logits = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    torch.testing.assert_close(first_router(adapter)(states), logits.float().softmax(dim=-1))


@pytest.mark.parametrize("family", MIXTURES)
def test_before_the_prefill_of_a_mixture_of_experts(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 7)])
    with kv.compress(model, "router-similarity", "50%", stage="input", labels="keep") as run:
        answer(model, inputs, new=1)
    tokens = run.report.visual_tokens
    assert run.report.entries == (-(-tokens // 2),) * len(run.report.entries)


@pytest.mark.slow
def test_on_random_weights_a_random_sample_agrees_better() -> None:
    """The figures of the card: the divergence of the next token from that of the full prompt, over videos of noise."""
    family, more = MIXTURES[0], {"num_experts": 16, "num_experts_per_tok": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.TABLE, family, replace(zoo.TABLE[family], text=zoo.TABLE[family].text | more))
        model = zoo.build(family, "sdpa")
    inputs = zoo.inputs(model, [video_prompt(family, 8)])
    apart = []
    for seed in range(40):
        inputs["pixel_values_videos"] = nearly_still(inputs["pixel_values_videos"], 8, seed)
        full = answer(model, inputs, new=1).logits[0, 0].log_softmax(dim=-1)
        found = []
        for method in ("router-similarity", f"random:seed={seed}"):
            with kv.compress(model, method, "50%", stage="input", labels="keep"):
                kept = answer(model, inputs, new=1).logits[0, 0].log_softmax(dim=-1)
            found.append(float(kl_div(kept, full, log_target=True, reduction="sum")))
        apart.append(found[0] - found[1])
    assert ttest_1samp(apart, 0, alternative="greater").pvalue < 0.05


def nearly_still(pixels: torch.Tensor, frames: int, seed: int) -> torch.Tensor:
    """A video of noise in which two merged patches of each frame change."""
    noise = torch.Generator().manual_seed(seed)
    still = torch.randn(len(pixels) // frames, pixels.shape[1], generator=noise).repeat(frames, 1)
    merged = (still + 0.05 * torch.randn(pixels.shape, generator=noise)).view(frames, -1, 4, pixels.shape[1])
    for frame in merged:
        for place in torch.randperm(len(frame), generator=noise)[:2]:
            frame[place] = torch.randn(4, pixels.shape[1], generator=noise)
    return merged.reshape(pixels.shape)


def test_dense_models_and_the_cache_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="is dense"):
        kv.compress(model_of("qwen2_5_vl"), "router-similarity", "50%", stage="input")
    with pytest.raises(
        kv.UnknownNameError, match="router-similarity works before prefill only: pass stage='input', not 'cache'"
    ):
        kv.compress(model_of("qwen3_vl_moe"), "router-similarity", "50%")
