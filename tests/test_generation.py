"""Everything else the stock generate() does, on a compressed cache; and what is left of us afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, compressed, model_of, two_videos, video_prompt
from torch import Tensor
from transformers import DynamicCache

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Entries

FAMILY = zoo.FAMILIES[0]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_second_turn_equals_one_forward_with_the_evicted_entries_masked(family: str) -> None:
    """Turn two brings several tokens at once; the reference is the same cache continued one token at a time."""
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    follow = torch.randint(40, 240, (1, 6), generator=torch.Generator().manual_seed(3))
    with kv.compress(model, "van", "40%") as run:
        first = answer(model, inputs).output
        after = _next_turn(inputs, torch.cat([first.sequences, follow], dim=1))
        second = answer(model, after, past_key_values=first.past_key_values)
    with kv.compress(model, "van", "40%"):
        cache = answer(model, inputs).output.past_key_values
        for step in range(7):
            ids = after["input_ids"][:, : first.sequences.shape[1] + step]
            single = answer(model, _next_turn(inputs, ids), new=1, past_key_values=cache)
    torch.testing.assert_close(second.logits[:, 0], single.logits[:, 0], rtol=0, atol=2e-5)
    assert len(run.reports) == 1
    assert cache.get_seq_length() == after["input_ids"].shape[1]


def _next_turn(inputs: dict[str, Tensor], ids: Tensor) -> dict[str, Tensor]:
    turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "attention_mask" in inputs:
        turn["attention_mask"][:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
    return turn


def test_a_second_turn_of_a_padded_batch_equals_its_rows_alone() -> None:
    model = model_of(FAMILY)
    prompts = zoo.default_prompts(FAMILY)
    follow = torch.randint(40, 240, (len(prompts), 4), generator=torch.Generator().manual_seed(3))

    def two_turns(inputs: dict[str, Tensor], more: Tensor) -> Tensor:
        first = answer(model, inputs, new=1).output
        turn = _next_turn(inputs, torch.cat([first.sequences, more], dim=1))
        return answer(model, turn, past_key_values=first.past_key_values).logits

    with kv.compress(model, "infinipot-v", "40%"):
        together = two_turns(zoo.inputs(model, prompts), follow)
        for row, prompt in enumerate(prompts):
            alone = two_turns(zoo.inputs(model, [prompt]), follow[row : row + 1])
            torch.testing.assert_close(together[row], alone[0], rtol=0, atol=2e-5)


def test_a_second_video_shrinks_the_first_to_make_room() -> None:
    model = model_of(FAMILY)
    with kv.compress(model, "van", 24) as run:
        one = zoo.inputs(model, [video_prompt(FAMILY)])
        cache = model(**one, use_cache=True).past_key_values
        two = zoo.inputs(model, [zoo.Prompt([zoo.Video(6, 3, 4, seed=9), zoo.Text(3, seed=4)])])
        length = one["input_ids"].shape[1] + two["input_ids"].shape[1]
        position = torch.arange(one["input_ids"].shape[1], length).expand(3, 1, -1)
        two |= {"attention_mask": torch.ones(1, length, dtype=torch.long), "position_ids": position}
        two.pop("mm_token_type_ids", None)
        model(**two, past_key_values=cache, use_cache=True)
    assert [report.entries for report in run.reports] == [(24,) * 4, (24,) * 4]
    assert cache.layers[0].rows[0].held == {0: 12, 1: 12}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_beam_search_equals_scoring_each_beam_alone(family: str, attention: str) -> None:
    model = model_of(family, attention)
    if family in ("internvl", "gemma3") and not hasattr(model, "_expand_multimodal_outputs"):
        pytest.skip("this version repeats every frame by itself for the beams, so that the stock model is wrong")
    prompts = [video_prompt(family), video_prompt(family, 6)]
    prompts[1] = zoo.Prompt([zoo.Text(9, seed=5), *prompts[1].parts])
    inputs = zoo.inputs(model, prompts)
    with kv.compress(model, "tar", "50%") as run:
        beams = model.generate(
            **inputs, max_new_tokens=5, num_beams=3, num_return_sequences=3, return_dict_in_generate=True,
            output_scores=True, length_penalty=0.0,
        )  # fmt: skip
        assert run.report.ratio == pytest.approx(0.5, abs=0.02)
        for row, prompt in enumerate(prompts):
            single = zoo.inputs(model, [prompt])
            for beam in range(3):
                tokens = beams.sequences[3 * row + beam, -5:]
                logits = answer(model, single, logits_processor=[_Forced(tokens, single["input_ids"].shape[1])]).logits
                score = logits[0].log_softmax(-1).gather(1, tokens[:, None]).sum()
                torch.testing.assert_close(beams.sequences_scores[3 * row + beam], score, rtol=0, atol=1e-4)
    assert len({tuple(row.tolist()) for row in beams.sequences[:3, -5:]}) == 3


class _Forced:
    def __init__(self, tokens: Tensor, start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        chosen = self.tokens[ids.shape[1] - self.start].expand(len(ids), 1)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def test_sampling_follows_the_seed_and_its_sequences_are_independent() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        with kv.compress(model, "random", "50%"):
            runs.append(answer(model, inputs, do_sample=True, num_return_sequences=3, temperature=2.0).tokens)
    assert torch.equal(*runs)
    assert len({tuple(row.tolist()) for row in runs[0]}) > 1


@pytest.mark.sampled
@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_bfloat16(method: str, family: str) -> None:
    model = zoo.build(family, "sdpa", torch.bfloat16)
    with kv.compress(model, method, "50%", **SETTINGS.get(method, {})) as run:
        found = answer(model, zoo.inputs(model, [video_prompt(family, 12)]), new=2)
    assert found.logits.isfinite().all()
    assert run.report.ratio == pytest.approx(0.5, abs=0.02)
    assert all(layer.keys.dtype == torch.bfloat16 for layer in compressed(found.output.past_key_values))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_layers_of_different_length(attention: str) -> None:
    """Per-layer budgets, continued with several tokens at once: as token by token."""
    model = model_of(FAMILY, attention)
    inputs = zoo.inputs(model, zoo.default_prompts(FAMILY))
    follow = torch.randint(40, 240, (3, 5), generator=torch.Generator().manual_seed(3))
    settings: dict[str, Any] = {"base": "van", "shares": (0.5, 1.5, 1, 1)}

    def continued(steps: list[int]) -> Tensor:
        first = answer(model, inputs, new=1).output
        cache, ids = first.past_key_values, first.sequences
        for step in steps:
            turn = _next_turn(inputs, torch.cat([ids, follow[:, :step]], dim=1))
            logits = answer(model, turn, new=1, past_key_values=cache).logits
        return logits

    with kv.compress(model, "per-layer", "40%", **settings) as run:
        at_once, one_by_one = continued([5]), continued([1, 2, 3, 4, 5])
    assert len(set(run.report.entries)) > 1
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=2e-5)


def test_leaving_removes_every_trace() -> None:
    model = zoo.build(FAMILY)

    def state() -> list[Any]:
        hooks = [
            (len(module._forward_hooks), len(module._forward_pre_hooks), sorted(module.__dict__))
            for module in model.modules()
        ]
        return [hooks, sorted(model.config.to_dict())]

    before, inputs = state(), zoo.inputs(model, [video_prompt(FAMILY)])
    plain = answer(model, inputs)
    with kv.compress(model, "standby", "30%", n=4):
        assert state() != before
        answer(model, inputs)
    assert state()[0] == before[0]
    assert torch.equal(answer(model, inputs).logits, plain.logits)

    @dataclass(frozen=True)
    class Broken(Compressor):
        def scores(self, entries: Entries) -> Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), kv.compress(model, Broken(), "30%"):
        answer(model, inputs)
    assert state()[0] == before[0]
    assert torch.equal(answer(model, inputs).logits, plain.logits)


def test_a_failed_prompt_does_not_disturb_the_next_one() -> None:
    model = model_of(FAMILY)
    good, other = (zoo.inputs(model, [prompt]) for prompt in (video_prompt(FAMILY), two_videos(FAMILY)))
    with kv.compress(model, "van", "50%"):
        expected = answer(model, good).logits
        with pytest.raises(Exception):  # noqa: B017, PT011 - transformers' own check or ours, by version
            answer(model, {**good, "pixel_values_videos": other["pixel_values_videos"][:48],
                           "video_grid_thw": other["video_grid_thw"][:1] * 0 + torch.tensor([[1, 6, 8]])})  # fmt: skip
        assert torch.equal(answer(model, good).logits, expected)


def test_the_cache_goes_on_without_us_or_says_why_not() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    with kv.compress(model, "van", "50%"):
        first = answer(model, inputs).output
        cache = answer(model, inputs).output.past_key_values
        turn = _next_turn(inputs, torch.cat([first.sequences, first.sequences[:, :4]], dim=1))
        inside = answer(model, turn, past_key_values=cache)
    outside = answer(model, turn, past_key_values=first.past_key_values)
    torch.testing.assert_close(outside.logits, inside.logits, rtol=0, atol=1e-5)
    with kv.compress(model, "van", "50%"):
        batch = zoo.inputs(model, zoo.default_prompts(FAMILY))
        padded = answer(model, batch).output
    turn = _next_turn(batch, torch.cat([padded.sequences, padded.sequences[:, :1]], dim=1))
    with pytest.raises(kv.CacheError, match="inside"):
        answer(model, turn, past_key_values=padded.past_key_values)


def test_text_only_prompts_pass_untouched() -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Text(12, seed=1)])])
    stock = answer(model, inputs)
    with kv.compress(model, "tar", "10%") as run:
        ours = answer(model, inputs)
    assert torch.equal(ours.logits, stock.logits)
    with pytest.raises(kv.CacheError, match="Nothing was compressed"):
        _ = run.report


def test_cache_operations() -> None:
    model = model_of(FAMILY)
    with kv.compress(model, "van", "50%"):
        cache = answer(model, zoo.inputs(model, [video_prompt(FAMILY)]), new=4).output.past_key_values
        assert type(cache.layers[0]) is CompressedLayer
        layer: Any = cache.layers[0]
        logical, physical = layer.logical, layer.physical
        cache.crop(-2)
        assert (layer.logical, layer.physical, layer.keys.shape[2]) == (logical - 2, physical - 2, physical - 2)
        assert layer.get_mask_sizes(1) == (physical - 1, logical - physical)
        with pytest.raises(kv.CacheError, match="crop"):
            cache.crop(-40)
        cache.batch_repeat_interleave(3)
        assert layer.tags.shape[0] == layer.keys.shape[0] == len(layer.rows) == 3
        cache.batch_select_indices(torch.tensor([0, 2]))
        assert layer.places.shape[0] == len(layer.rows) == 2
        cache.reset()
        assert (layer.logical, layer.physical, layer.get_seq_length()) == (0, 0, 0)


def test_misuse_is_explained() -> None:
    model = zoo.build(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    filled = DynamicCache(config=model.config)
    model(**inputs, past_key_values=filled, use_cache=True)
    with kv.compress(model, "van", "50%") as run:
        with pytest.raises(kv.UnsupportedModelError, match="already"), kv.compress(model, "tar", "50%"):
            pass
        answer(model, inputs, new=1)
        assert run.report.ratio == pytest.approx(0.5, abs=0.02)
        with pytest.raises(kv.CacheError, match="use_cache"):
            model(**inputs, use_cache=False)
        with pytest.raises(kv.CacheError, match="without compression"):
            model(input_ids=torch.full((1, 1), 50), past_key_values=filled, use_cache=True)
        with pytest.raises(kv.UnsupportedModelError, match="input_ids"):
            model(inputs_embeds=torch.randn(1, 5, 64), position_ids=torch.arange(5).expand(3, 1, -1))
    with pytest.raises(kv.UnknownNameError, match="Did you mean 'infinipot-v'"):
        kv.compress(model, "infinpot-v", "50%")
    with pytest.raises(kv.UnknownNameError, match="Did you mean 'tar_ratio'"):
        kv.compress(model, "infinipot-v", "50%", tar_ration=0.5)
    with pytest.raises(kv.UnknownNameError, match="tar works in the cache only: pass stage='cache', not 'input'"):
        kv.compress(model, "tar", "50%", stage="input")
    with pytest.raises(kv.UnknownNameError, match="positions"):
        kv.compress(model, "tar", "50%", positions="compakt")  # type: ignore[arg-type]
    model.get_decoder().config._attn_implementation = "flex_attention"
    with pytest.raises(kv.UnsupportedModelError, match="flex_attention"), kv.compress(model, "tar", "50%"):
        pass


def test_the_error_of_an_unsupported_model_names_what_it_lacks() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    )
    with pytest.raises(kv.UnsupportedModelError, match=r"'llama'.*get_video_features.*Supported: .*qwen2_5_vl"):
        kv.compress(llama, "tar", "50%")
    with pytest.raises(kv.UnsupportedModelError, match="head"):
        kv.compress(model_of(FAMILY).model, "tar", "50%")
    with pytest.raises(kv.UnsupportedModelError, match="loaded transformers model"):
        kv.compress("Qwen/Qwen2.5-VL-7B-Instruct", "tar", "50%")


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_a_model_dispatched_by_a_device_map(family: str) -> None:
    """Accelerate wraps every module's forward; two real devices need the GPU tests."""
    from accelerate import dispatch_model

    whole, spread = model_of(family), zoo.build(family, "sdpa")
    text = next(name for name, module in spread.named_modules() if module is spread.get_decoder())
    device_map = dict.fromkeys((name for name, _ in spread.named_children()), "cpu")
    device_map |= {f"{text}.layers.{number}": "cpu" for number in range(4)}
    dispatch_model(spread, device_map, main_device="cpu", force_hooks=True)
    assert hasattr(spread.get_decoder().layers[2], "_hf_hook")
    logits = []
    for model in (whole, spread):
        with kv.compress(model, "standby-novelty", "40%", n=4):
            logits.append(answer(model, zoo.inputs(model, [video_prompt(family)])).logits)
    assert torch.equal(*logits)
