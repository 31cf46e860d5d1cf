"""A patched model: what it answers, from one thread or many, what it counts, and what is left when it is removed."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.video.prompt import prompt_text

if TYPE_CHECKING:
    from pathlib import Path

    from kvpress_video.benchmarks.world import Clip

METHOD, BUDGET = "infinipot-v", 48
NEW = 6


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    """Eight clips of four lengths."""
    from kvpress_video.benchmarks.world import make_clip

    folder: Path = tmp_path_factory.mktemp("footage")
    return [make_clip(folder / f"{n}.mp4", 4 + 2 * (n % 4), ("still", "moving")[n % 2], 10**9 + n) for n in range(8)]


def inputs_of(processor: Any, *clips: Clip) -> Any:
    """One row per clip, each with a question of its own, padded on the left."""
    videos = [kv.read_video(clip.path) for clip in clips]
    return processor(
        text=[prompt_text(processor, clip.questions[clip.seed % 3].text) for clip in clips],
        videos=[video.frames for video in videos],
        video_metadata=[video.metadata for video in videos],
        fps=videos[0].fps,
        do_sample_frames=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def logits(model: Any, inputs: Any, **options: Any) -> Tensor:
    """(batch, new tokens, vocabulary), greedy."""
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, **options}
    output = model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **options)
    return torch.stack(output.logits, dim=1)


def traces(model: Any) -> dict[str, Any]:
    """Everything that a hook or a wrapper leaves on the modules."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    found = {}
    for name, module in model.named_modules():
        methods = {key: value for key, value in module.__dict__.items() if callable(value)}
        found[name] = ([len(module.__dict__[hook]) for hook in hooks], methods)
    return found


def test_everything_is_compressed_until_the_patch_is_removed(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    inputs = inputs_of(processor, footage[3])
    stock, before = logits(model, inputs), traces(model)
    with kv.compress(model, METHOD, BUDGET):
        compressed = logits(model, inputs)
    assert not torch.equal(stock, compressed)
    handle = kv.patch(model, METHOD, BUDGET)
    assert torch.equal(logits(model, inputs), compressed)
    assert torch.equal(logits(model, inputs), compressed)
    for _ in range(2):
        handle.remove()
        assert traces(model) == before
    assert torch.equal(logits(model, inputs), stock)


def test_methods_that_the_model_had_of_its_own_come_back(bundled: Any) -> None:
    """Placing a model on devices leaves it with a forward of its own."""
    model, _ = bundled
    own = {"generate": model.generate, "forward": model.forward}
    for name, method in own.items():
        setattr(model, name, method)
    try:
        with kv.patch(model, METHOD, BUDGET):
            assert all(model.__dict__[name] is not method for name, method in own.items())
        assert all(model.__dict__[name] is method for name, method in own.items())
    finally:
        del model.generate, model.forward


@pytest.mark.parametrize(("method", "budget", "options"), [
    ("infinipot-v", BUDGET, {}),
    ("infinipot-v", "25%", {"tar_ratio": 0.25, "positions": "compact"}),
    ("standby", BUDGET, {"stage": "input"}),
])  # fmt: skip
def test_threads_get_the_answers_that_they_would_get_alone(
    bundled: Any, footage: list[Clip], method: str, budget: Any, options: dict[str, Any]
) -> None:
    model, processor = bundled
    requests = [inputs_of(processor, clip) for clip in footage]
    with kv.compress(model, method, budget, **options):
        alone = [logits(model, inputs) for inputs in requests]
    with kv.patch(model, method, budget, **options) as handle, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda inputs: logits(model, inputs), requests * 2))
    for got, wanted in zip(together, alone * 2, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert handle.stats.requests == handle.stats.prefills == 16


def test_a_batch_of_requests_equals_the_requests(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    with kv.patch(model, METHOD, BUDGET):
        together = logits(model, inputs_of(processor, *footage[:4]))
        for clip, row in zip(footage[:4], together, strict=True):
            torch.testing.assert_close(row, logits(model, inputs_of(processor, clip))[0], rtol=0, atol=1e-4)


def test_a_forward_of_ones_own_is_compressed_too(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    inputs = inputs_of(processor, footage[2])
    with kv.compress(model, METHOD, BUDGET), torch.no_grad():
        wanted = model(**inputs).logits
    with kv.patch(model, METHOD, BUDGET) as handle, torch.no_grad():
        output = model(**inputs)
    assert torch.equal(output.logits, wanted)
    assert handle.stats.requests == 0
    assert handle.stats.prefills == 1
    assert handle.stats.entries == BUDGET


def test_requests_without_a_video_are_answered_as_before(bundled: Any) -> None:
    model, processor = bundled
    texts = ["how many flashes were there?", "where was the heart?"]
    inputs = processor(text=texts, padding=True, padding_side="left", return_tensors="pt")
    stock = logits(model, inputs)
    with kv.patch(model, METHOD, BUDGET) as handle:
        torch.testing.assert_close(logits(model, inputs), stock, rtol=0, atol=1e-5)
    assert str(handle.stats) == "requests: 1, prefills: 0, visual tokens: 0"


def test_statistics_are_those_of_the_requests(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    requests = [inputs_of(processor, footage[n]) for n in (0, 3, 1)]
    with kv.compress(model, METHOD, BUDGET) as run:
        outputs = [model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True) for inputs in requests]
    held = [sum(layer.bytes for layer in output.past_key_values.layers) for output in outputs]
    tokens = [inputs["input_ids"].shape[1] for inputs in requests]
    per_token = 4 * 3 * 32 * 2 * 4  # layers, KV heads, width, keys and values, bytes of a float32
    with kv.patch(model, METHOD, BUDGET) as handle:
        empty = handle.stats
        for inputs in requests:
            model.generate(**inputs, max_new_tokens=1)
    stats = handle.stats
    assert (stats.requests, stats.prefills, stats.visual_tokens) == (3, 3, 16 * (4 + 10 + 6))
    assert (stats.bytes, stats.full_bytes) == (held[-1], tokens[-1] * per_token)
    assert stats.peak_full_bytes == tokens[1] * per_token
    assert stats.peak_bytes == max(report.peak_bytes for report in run.reports) >= max(held)
    assert stats.entries == BUDGET
    assert stats.report == run.reports[-1]
    assert str(stats) == (
        "requests: 3, prefills: 3, visual tokens: 320; the latest cache: 48 visual entries per layer and head, "
        f"{held[-1] / 2**20:.2f} MiB instead of {stats.full_bytes / 2**20:.2f} MiB; "
        f"the most at any moment: {stats.peak_bytes / 2**20:.2f} MiB instead of {stats.peak_full_bytes / 2**20:.2f} MiB"
    )
    assert empty.requests == 0
    with pytest.raises(FrozenInstanceError):
        stats.requests = 0  # type: ignore[misc]


def test_a_failed_request_is_counted_and_blocks_no_other(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    inputs = inputs_of(processor, footage[0])
    with kv.patch(model, METHOD, BUDGET) as handle, ThreadPoolExecutor(1) as pool:
        with pytest.raises(kv.CacheError, match="use_cache=False"):
            model.generate(**inputs, max_new_tokens=1, use_cache=False)
        assert pool.submit(logits, model, inputs).result(timeout=60).shape[1] == NEW
        assert handle.stats.requests == 2


def test_a_second_patch_is_refused_and_the_first_stays(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    inputs, before = inputs_of(processor, footage[1]), traces(model)
    with kv.patch(model, METHOD, BUDGET) as handle:
        wanted = logits(model, inputs)
        patched = traces(model)
        with pytest.raises(kv.UnsupportedModelError, match=r"call remove\(\) on the handle that kv.patch\(\) returned"):
            kv.patch(model, "tar", "50%")
        with pytest.raises(kv.UnsupportedModelError, match="being compressed already"), kv.compress(model, "tar", 8):
            pass
        assert traces(model) == patched
        assert torch.equal(logits(model, inputs), wanted)
        assert handle.stats.requests == 2
    assert traces(model) == before


@pytest.mark.parametrize(("method", "budget", "error"), [
    ("infinipot", 48, kv.UnknownNameError), ("tar", "48 entries", kv.BudgetError), ("tar", 0, kv.BudgetError),
])  # fmt: skip
def test_wrong_settings_leave_the_model_alone(bundled: Any, method: str, budget: Any, error: type[Exception]) -> None:
    model, _ = bundled
    before = traces(model)
    with pytest.raises(error):
        kv.patch(model, method, budget)
    assert traces(model) == before


class Interrupt:
    """A logits processor that does something once, in the middle of a request."""

    def __init__(self, action: Any) -> None:
        self.action = action
        self.calls = 0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            self.action()
        return scores


def test_removing_waits_for_the_request_in_flight(bundled: Any, footage: list[Clip]) -> None:
    """Padded rows go on only with the hooks: without them the request would fail."""
    model, processor = bundled
    inputs, before = inputs_of(processor, *footage[:2]), traces(model)
    handle = kv.patch(model, METHOD, BUDGET)
    wanted = logits(model, inputs)
    remover = threading.Thread(target=handle.remove)

    def remove() -> None:
        remover.start()
        remover.join(timeout=0.3)
        assert remover.is_alive()

    assert torch.equal(logits(model, inputs, logits_processor=[Interrupt(remove)]), wanted)
    remover.join(timeout=60)
    assert traces(model) == before


def test_removing_from_within_a_request_is_refused(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    inputs = inputs_of(processor, footage[0])
    with kv.patch(model, METHOD, BUDGET) as handle:
        wanted = logits(model, inputs)
        with pytest.raises(kv.CacheError, match="from within a request"):
            logits(model, inputs, logits_processor=[Interrupt(handle.remove)])
        assert torch.equal(logits(model, inputs), wanted)


def test_neither_caches_nor_reports_pile_up(bundled: Any, footage: list[Clip]) -> None:
    model, processor = bundled
    inputs, before = inputs_of(processor, footage[0]), _reports()
    with kv.patch(model, METHOD, BUDGET) as handle:
        caches = []
        for _ in range(4):
            output = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
            caches += [weakref.ref(layer) for layer in output.past_key_values.layers]
            model(**inputs)
        del output
        gc.collect()
        assert not any(cache() for cache in caches)
        assert _reports() <= before + 1
        assert handle.stats.prefills == 8


def _reports() -> int:
    return sum(isinstance(kept, kv.Report) for kept in gc.get_objects())


def test_a_patched_model_can_be_unloaded(footage: list[Clip]) -> None:
    """Nobody has to keep the handle, and the patch keeps nobody."""
    model, processor = kv.load_bundled(device="cpu")
    kv.patch(model, METHOD, BUDGET)
    model.generate(**inputs_of(processor, footage[0]), max_new_tokens=1)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
