"""One prefill for many compressions: to the bit what each would be alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, model_of, two_videos, video_prompt

import kvpress_video as kv

QWEN = zoo.FAMILIES[0]


def alone_and_shared(
    model: Any, inputs: dict, method: str, budget: Any, once: kv.SharedPrefill, **options: Any
) -> tuple[kv.Report, kv.Report]:
    """Logits, tokens and kept entries must be equal to the bit."""
    options |= SETTINGS.get(method, {})
    with kv.compress(model, method, budget, **options) as one:
        expected = answer(model, inputs)
    with kv.compress(model, method, budget, shared=once, **options) as other:
        found = answer(model, inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.tokens, expected.tokens)
    assert all(torch.equal(mine, its) for mine, its in zip(other.kept, one.kept, strict=True))
    return one.report, other.report


@pytest.mark.sampled
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_method_gets_what_it_would_get_alone(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)] * 2)
    once = kv.SharedPrefill()
    for method in METHODS:
        one, other = alone_and_shared(model, inputs, method, "50%", once)
        assert one == other
    assert once.reused >= len(METHODS) - 4  # the first, and those that ask with probes of three lengths


@pytest.mark.sampled
@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_batches_of_different_prompts_and_moved_positions(attention: str, positions: str) -> None:
    model = model_of(QWEN, attention)
    once = kv.SharedPrefill()
    for prompts in (zoo.default_prompts(QWEN), [two_videos(QWEN)], zoo.default_prompts(QWEN)):
        inputs = zoo.inputs(model, prompts)
        for method in ("van", "snapkv", "tar"):
            alone_and_shared(model, inputs, method, "50%", once, positions=positions)
    assert once.reused == 7


@contextmanager
def counting(model: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Lengths of the text model's passes, and patches of the vision tower's calls, as they come."""
    lengths: list[int] = []
    patches: list[int] = []

    def note_pass(module: Any, args: Any, kwargs: Any) -> None:
        lengths.append(kwargs["hidden_states"].shape[1])

    def note_patches(module: Any, args: Any, kwargs: Any) -> None:
        patches.append(len(args[0] if args else kwargs["hidden_states"]))

    attention, tower = model.get_decoder().layers[0].self_attn, model.base_model.visual
    hooks = [attention.register_forward_pre_hook(note_pass, with_kwargs=True)]
    hooks.append(tower.register_forward_pre_hook(note_patches, with_kwargs=True))
    yield lengths, patches
    for hook in hooks:
        hook.remove()


def test_the_video_is_read_once() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    with counting(model) as (lengths, patches):
        for method in ("tar", "van", "key-norm"):
            for budget in ("50%", "25%"):
                with kv.compress(model, method, budget, shared=once):
                    answer(model, inputs, new=1)
    assert sum(length > 20 for length in lengths) == 1
    assert sum(length <= 20 for length in lengths) == 6
    assert len(patches) == 1
    assert once.reused == 5


def test_another_question_shares_and_another_video_does_not() -> None:
    model = model_of(QWEN)
    size = zoo.grid(QWEN)
    video, other = zoo.Video(6, *size, seed=2), zoo.Video(6, *size, seed=9)
    once = kv.SharedPrefill()
    reports = [
        alone_and_shared(model, zoo.inputs(model, [zoo.Prompt([zoo.Text(4, seed=1), seen, asked])]), "van", "50%", once)
        for seen, asked in (
            (video, zoo.Text(8, seed=3)),
            (video, zoo.Text(5, seed=4)),
            (other, zoo.Text(8, seed=3)),
            (video, zoo.Text(8, seed=3)),
        )
    ]
    assert [shared.shared for _, shared in reports] == [False, True, False, True]
    assert not any(alone.shared for alone, _ in reports)


def test_more_queries_than_were_kept_are_computed_anew() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN, frames=10)])
    once = kv.SharedPrefill()
    shared = [
        alone_and_shared(model, inputs, "snapkv", "50%", once, window=window)[1].shared for window in (4, 100, 16)
    ]
    assert shared == [False, False, True]


def test_a_chunked_prefill_shares_the_vision_tower_alone() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    first = alone_and_shared(model, inputs, "van", 24, once, chunk=24)[1]
    with counting(model) as (lengths, patches), kv.compress(model, "tar", 24, chunk=24, shared=once) as run:
        answer(model, inputs, new=1)
    assert len(lengths) > 2
    assert not patches
    assert not first.shared
    assert not run.report.shared


def test_everything_kept_is_the_stock_model() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)] * 2)
    stock = answer(model, inputs)
    once = kv.SharedPrefill()
    for _ in range(2):
        with kv.compress(model, "full", "100%", shared=once):
            torch.testing.assert_close(answer(model, inputs).logits, stock.logits, rtol=0, atol=1e-5)
    assert once.reused == 1


def test_what_one_model_made_does_not_serve_another() -> None:
    inputs = zoo.inputs(model_of(QWEN), [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    for attention in ("sdpa", "eager", "sdpa"):
        alone_and_shared(model_of(QWEN, attention), inputs, "van", "50%", once)
    assert once.reused == 0


def test_new_weights_need_a_clear() -> None:
    model = zoo.build(QWEN, "sdpa")
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    alone_and_shared(model, inputs, "van", "50%", once)
    with torch.no_grad():
        model.get_decoder().layers[0].self_attn.k_proj.weight.mul_(2)
    once.clear()
    assert not alone_and_shared(model, inputs, "van", "50%", once)[1].shared


def test_a_pass_that_fails_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    last = model.get_decoder().layers[-1].mlp

    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, kv.compress(model, "van", "50%", shared=once):
        patch.setattr(last, "forward", fail)
        with pytest.raises(RuntimeError, match="out of"):
            answer(model, inputs)
    assert not alone_and_shared(model, inputs, "van", "50%", once)[1].shared


def test_the_time_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that ticks once a look: what the tower, the layers and the method take is counted, each once."""
    from kvpress_video.utils import timing as stopwatch

    ticks = iter(range(1_000_000))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(ticks)))
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    with kv.compress(model, "van", "50%") as run:
        answer(model, inputs)
    steps = 2 * len(run.report.entries)  # in each layer: what it holds, and the eviction
    assert run.report.compress_seconds == steps
    assert run.report.prefill_seconds == 1 + (1 + 2 * steps) - steps


# --- What must not be taken for the same ------------------------------------------------------------------------------


def test_pixels_that_were_written_over_are_another_video() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    alone_and_shared(model, inputs, "van", "50%", once)
    inputs["pixel_values_videos"].copy_(inputs["pixel_values_videos"].flip(0))
    assert not alone_and_shared(model, inputs, "van", "50%", once)[1].shared


def test_two_models_at_once_do_not_get_each_others_features() -> None:
    first, second = zoo.build(QWEN, "sdpa"), zoo.build(QWEN, "sdpa")
    with torch.no_grad():
        for parameter in second.base_model.visual.parameters():
            parameter.mul_(1.5)
    inputs = zoo.inputs(first, [video_prompt(QWEN)])
    with kv.compress(second, "van", "50%"):
        expected = answer(second, inputs)
    once = kv.SharedPrefill()
    with kv.compress(first, "van", "50%", shared=once), kv.compress(second, "van", "50%", shared=once):
        answer(first, inputs)
        assert torch.equal(answer(second, inputs).logits, expected.logits)


def test_learned_standby_tokens_are_told_apart_by_what_they_hold() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    width = model.config.vision_config.hidden_size
    tokens = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        alone_and_shared(model, inputs, "standby", "25%", once, tokens=tokens)
        tokens.normal_()
    pixels = [part for given, *_ in once._encoded for part in given.values() if len(part) != len(tokens)]
    copies = {part.data_ptr() for part in pixels if part.shape == inputs["pixel_values_videos"].shape}
    assert (len(once._encoded), len(copies)) == (3, 1)


def test_the_shared_flag_is_of_the_prefill_itself() -> None:
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    once = kv.SharedPrefill()
    first = kv.compress(model, "van", "50%", shared=once)
    alone_and_shared(model, inputs, "tar", "50%", once)
    once.clear()
    with first:
        answer(model, inputs)
        answer(model, inputs)
    assert [report.shared for report in first.reports] == [False, True]


@pytest.mark.parametrize("stage", ["cache", "input"])
def test_a_request_that_failed_is_not_counted_in_the_next(monkeypatch: pytest.MonkeyPatch, stage: Any) -> None:
    from kvpress_video.utils import timing as stopwatch

    ticks = iter(range(1_000_000))
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(ticks)))
    model = model_of(QWEN)
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    last = model.get_decoder().layers[-1].mlp

    def fail(*args: Any) -> None:
        raise RuntimeError("out of memory")

    with kv.compress(model, "random", "50%", stage=stage) as run:
        answer(model, inputs)
        with monkeypatch.context() as patch:
            patch.setattr(last, "forward", fail)
            with pytest.raises(RuntimeError, match="out of"):
                answer(model, inputs)
        answer(model, inputs)
    first, second = run.reports
    assert (second.prefill_seconds, second.compress_seconds) == (first.prefill_seconds, first.compress_seconds)
    assert min(first.prefill_seconds, first.compress_seconds) > 0


def test_a_deployment_refuses_to_pile_prefills_up() -> None:
    with pytest.raises(kv.UnknownNameError, match="shared"):
        kv.patch(zoo.build(QWEN, "sdpa"), "van", "50%", shared=kv.SharedPrefill())


@pytest.mark.parametrize("shared", [3, True, kv.SharedPrefill])
def test_what_is_no_shared_prefill_is_refused(shared: Any) -> None:
    with pytest.raises(kv.CacheError, match="shared must be a SharedPrefill, got"):
        kv.compress(model_of(zoo.FAMILIES[0]), "van", "50%", shared=shared)
