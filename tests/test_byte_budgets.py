"""A budget of bytes holds at every moment: text, metadata, the chunk in work and the buffers of a bank are paid for."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, compressed, model_of, two_videos, video_prompt
from offloading import AWAY
from pairs import pairs
from reference_masks import noted
from sessions import STREAMED, UNMOVED, cache_of, footage, frames_for, tiny

import kvpress_video as kv
from kvpress_video.cache.byte_entries import longest_within
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.cache.staging import staging_room
from kvpress_video.models import adapter_for

QWEN = zoo.FAMILIES[0]
MODES: dict[str, dict[str, Any]] = {
    "chunked": {},
    "small chunks": {"chunk": 12},
    "compact": {"positions": "compact"},
    "split": {"prefill": "split"},
    "whole": {"prefill": "whole"},
}
FRAMES = 12

WORDY = ("internvl", "video_llama_3", "smolvlm")
"""Families that write many letters for a frame, each a token of the tiny models."""


def _fitting(
    family: str, prompts: list[zoo.Prompt], options: dict[str, Any], share: float
) -> tuple[int, dict[str, Any]]:
    """A budget of bytes that leaves a share of the entries, and the inputs."""
    model = model_of(family)
    inputs, adapter = zoo.inputs(model, prompts), adapter_for(model)
    rows, length = inputs["input_ids"].shape
    layers, entry = len(adapter.attentions), adapter.entry_bytes(options.get("positions") == "compact")
    return int(rows * (adapter.uncompressed_bytes(length) + share * length * layers * entry)), inputs


def _check(family: str, method: str, mode: str, prompts: list[zoo.Prompt], patch: pytest.MonkeyPatch) -> None:
    options = MODES[mode]
    budget, inputs = _fitting(family, prompts, options, 0.85)
    model, adapter = model_of(family), adapter_for(model_of(family))
    with noted(patch) as log, kv.compress(model, method, f"{budget}B", **options, **SETTINGS.get(method, {})) as run:
        answer(model, inputs, new=1)
    rows, length = inputs["input_ids"].shape
    assert run.report.ratio < 1
    assert run.report.bytes <= run.report.peak_bytes <= budget
    assert log.peak + rows * adapter.uncompressed_bytes(length) <= budget
    if mode not in ("split", "whole"):
        assert run.report.bytes > 0.6 * budget


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_in_every_mode(method: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(QWEN, method, mode, [video_prompt(QWEN, FRAMES)], monkeypatch)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_family_in_every_mode(family: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(family, "van", mode, [video_prompt(family, FRAMES)], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "family", "mode"), pairs(METHODS, zoo.FAMILIES, [*MODES]))
def test_every_method_on_every_family_in_every_mode(
    method: str, family: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (method, mode) == ("kvzip", "split") and len(adapter_for(model_of(family)).attentions) == 2:
        with pytest.raises(kv.BudgetError, match="ask for at least"):  # one of two layers holds the clip twice
            _check(family, method, mode, [video_prompt(family, FRAMES)], monkeypatch)
        return
    _check(family, method, mode, [video_prompt(family, FRAMES)], monkeypatch)


@pytest.mark.parametrize("method", ["van", "snapkv", "per-layer", "streammem"])
@pytest.mark.parametrize("mode", MODES)
def test_rows_of_a_batch_pay_together(method: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of unequal layout are padded, rows of one video are read once; both hold the budget."""
    _check(QWEN, method, mode, [video_prompt(QWEN, FRAMES), two_videos(QWEN)], monkeypatch)
    _check(QWEN, method, mode, [video_prompt(QWEN, FRAMES)] * 3, monkeypatch)


def test_dropping_before_the_cache_needs_no_room_for_it() -> None:
    budget, inputs = _fitting(QWEN, [video_prompt(QWEN, FRAMES)], {}, 0.3)
    with kv.compress(model_of(QWEN), "random", f"{budget}B", stage="input") as run:
        answer(model_of(QWEN), inputs, new=1)
    entry = adapter_for(model_of(QWEN)).entry_bytes(False) * 4
    assert budget - entry < run.report.bytes == run.report.peak_bytes <= budget


def test_what_fits_whole_pays_for_no_chunk() -> None:
    budget, inputs = _fitting(QWEN, [video_prompt(QWEN, FRAMES)], {}, 1.0)
    for mode in MODES.values():
        if "positions" not in mode:
            with kv.compress(model_of(QWEN), "van", f"{budget}B", **mode) as run:
                answer(model_of(QWEN), inputs, new=1)
            assert run.report.ratio == 1
            assert run.report.bytes == run.report.peak_bytes == budget


def _check_least(family: str, method: str, options: dict[str, Any]) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES)])

    def run(budget: int) -> kv.Report:
        with kv.compress(model, method, f"{budget}B", **options) as compression:
            answer(model, inputs, new=1)
        return compression.report

    named = 10_000
    for _ in range(3):  # text and frames, then the label of a frame
        try:
            run(named)
            break
        except kv.BudgetError as error:
            named = int(re.findall(r"\((\d+) bytes\)", str(error))[0])
    report = run(named)
    assert report.peak_bytes <= named
    with pytest.raises(kv.BudgetError, match=rf"\({named} bytes\)"):
        run(named - 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", [QWEN, *zoo.LABELLED[:1]])
def test_the_least_budget_that_an_error_names_is_enough(family: str, mode: str) -> None:
    _check_least(family, "van", MODES[mode])


@pytest.mark.parametrize(
    "options", [{}, {"quantize": "4:q_group_size=8,residual_length=8"}], ids=["plain", "quantised"]
)
@pytest.mark.parametrize("method", ["per-layer:shares=(.3,2.02,.86,.82)", "pyramid:beta=2", "mod", "transv"])
def test_the_least_budget_of_unequal_layers_is_enough(method: str, options: dict[str, Any]) -> None:
    _check_least(QWEN, method, options)


def test_what_text_reads_of_evicted_entries_may_not_take_more_than_what_stays() -> None:
    budget, inputs = _fitting(QWEN, [video_prompt(QWEN, FRAMES)], {}, 0.45)
    with (
        kv.compress(model_of(QWEN), "transv", f"{budget}B"),
        pytest.raises(kv.BudgetError, match=r"36 visual entries per layer plus .* 144 of which one layer evicts"),
    ):
        answer(model_of(QWEN), inputs, new=1)


def test_the_longest_layer_within_some_bytes_is_found_exactly() -> None:
    for most, fixed, capped in itertools.product((0, 1, 7, 400), (0, 900), (3, 60, 1000)):

        def bytes_of(length: int, fixed: int = fixed, capped: int = capped) -> int:
            return fixed + 7 * length + 30 * staging_room(min(2 * length, capped))

        for amount in range(0, 20_000, 37):
            fitting = [length for length in range(most + 1) if bytes_of(length) <= amount]
            assert longest_within(amount, most, bytes_of) == max(fitting, default=0)


def test_a_chunk_too_large_for_the_budget_is_an_error_that_says_so() -> None:
    budget, inputs = _fitting(QWEN, [video_prompt(QWEN, FRAMES)], {}, 0.2)
    with (
        kv.compress(model_of(QWEN), "van", f"{budget}B", chunk=1000),
        pytest.raises(kv.BudgetError, match=r"plus 108 more of a chunk .* or read smaller chunks"),
    ):
        answer(model_of(QWEN), inputs, new=1)


def test_a_chunk_is_a_third_of_what_text_and_rows_leave() -> None:
    model, sizes = model_of(QWEN), []
    update = CompressedLayer.update

    def noting(layer: CompressedLayer, keys: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(keys.shape[2])
        return update(layer, keys, *args, **kwargs)

    for rows in (1, 2):
        inputs = zoo.inputs(model, [video_prompt(QWEN, 30)] * rows)
        entry = adapter_for(model).entry_bytes(False)
        sizes.clear()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(CompressedLayer, "update", noting)
            with kv.compress(model, "van", f"{rows * 4 * 123 * entry}B"):
                answer(model, inputs, 1)
        assert max(sizes[4:-4]) == 36  # 108 of 123 entries are for frames


def test_a_later_prompt_begins_with_the_generated_text_and_says_so() -> None:
    """Generated text comes on top of a budget; the report of the next prompt tells, and the cache is inside again."""
    model = model_of(QWEN)
    budget, inputs = _fitting(QWEN, [video_prompt(QWEN, FRAMES)], {}, 0.7)
    with kv.compress(model, "van", f"{budget}B") as run:
        first = answer(model, inputs, new=60).output
        held = sum(layer.bytes for layer in compressed(first.past_key_values))
        assert run.report.peak_bytes <= budget < held
        start = first.sequences.shape[1] - 1
        again = zoo.inputs(model, [zoo.Prompt([zoo.Video(6, 3, 4, seed=9), zoo.Text(3, seed=4)])])
        length = start + again["input_ids"].shape[1]
        again |= {
            "attention_mask": torch.ones(1, length, dtype=torch.long),
            "position_ids": torch.arange(start, length).expand(3, 1, -1),
        }
        again.pop("mm_token_type_ids", None)
        model(**again, past_key_values=first.past_key_values, use_cache=True)
    assert run.report.bytes <= budget < held <= run.report.peak_bytes


# --- Sessions ---------------------------------------------------------------------------------------------------------


def _session(method: str, family: str, budget: int, rounds: int, **options: Any) -> kv.VideoSession:
    """Frames and questions by turns, some too long for what is left free, some on top of each other."""
    session = tiny(method, f"{budget}B", family, text_room=70, **options, **SETTINGS.get(method, {}))
    for number in range(rounds):
        session.push(frames_for(family, 5 + 4 * (number % 3), seed=number))
        for _ in range(number % 3):
            session.ask("What is it? " * (1 + number % 2), max_new_tokens=5)
            assert session.stats.bytes <= session.stats.peak_bytes <= budget
        if number == 3:
            session = session.fork()
    session.flush()
    assert session.stats.peak_bytes <= budget
    assert max(session.stats.entries) < session.stats.visual_tokens
    return session


def _budget(family: str, entries: int, positions: str = "compact") -> int:
    """Bytes of so many entries, twice as many where labels are long, and of the layers that are not compressed."""
    adapter = adapter_for(model_of(family))
    entries *= 2 if family in WORDY else 1
    held = len(adapter.attentions) * entries * adapter.entry_bytes(positions == "compact")
    return held + adapter.uncompressed_bytes(10_000) + 7


@pytest.mark.sampled
@pytest.mark.parametrize("bank", ["device", *AWAY])
@pytest.mark.parametrize("method", METHODS)
def test_sessions_of_every_method(method: str, bank: str) -> None:
    session = _session(method, QWEN, _budget(QWEN, 200 if bank == "device" else 340), 8, bank_on=bank)
    staged = session.stream.layers[0].staging_bytes
    assert (staged > 0) == (bank != "device")
    held = sum(part.nbytes for part in cache_of(session))
    assert session.stats.bytes == held <= session.stats.peak_bytes - staged


@pytest.mark.sampled
@pytest.mark.parametrize("labels", ["spread", "drop", "keep"])
@pytest.mark.parametrize(
    ("family", "positions"),
    [(each, positions) for each in STREAMED for positions in ("keep", "compact")[: 1 if each in UNMOVED else 2]],
)
def test_sessions_of_every_family(family: str, positions: Any, labels: Any) -> None:
    if labels == "keep" and adapter_for(model_of(family)).labelled:
        with pytest.raises(kv.BudgetError, match="at least"):  # labels fill the budget as text
            _session("van", family, _budget(family, 260, positions), 12, positions=positions, labels=labels)
        return
    _session("van", family, _budget(family, 260, positions), 12, positions=positions, labels=labels)


@pytest.mark.slow
@pytest.mark.parametrize("family", STREAMED)
@pytest.mark.parametrize("method", METHODS)
def test_sessions_of_every_method_on_every_family(method: str, family: str) -> None:
    budget = _budget(family, 320)
    labels = "drop" if method == "vfl-drop" else "spread"  # its last layers hold few entries, fewer than a label here
    if (method, family) == ("memory-bank", "video_llama_3"):
        with pytest.raises(kv.BudgetError, match="leave out patches of similar frames"):
            _session(method, family, budget, 12, labels=labels)
        return
    _session(method, family, budget, 12, labels=labels)


def test_frames_read_again_are_no_text() -> None:
    _session("kvzip", "qwen3_vl", _budget("qwen3_vl", 320), 7)


@pytest.mark.sampled
@pytest.mark.parametrize("chunk", [1, 4, 40])
@pytest.mark.parametrize(
    "method",
    ["infinipot-v", *(pytest.param(each, marks=pytest.mark.slow) for each in ("snapkv", "per-layer", "streammem"))],
)
def test_sessions_with_chunks_of_any_size(method: str, chunk: int) -> None:
    """Also where a frame is larger than a chunk."""
    for family in (QWEN, *STREAMED[-1:]):
        _session(method, family, _budget(family, 280), 9, chunk=chunk)
    _session(method, QWEN, _budget(QWEN, 480), 9, chunk=chunk, bank_on="cpu")


def test_the_first_frame_of_a_session_that_cannot_hold_it_is_an_error_with_the_least_budget() -> None:
    def watch(budget: int) -> kv.VideoSession:
        session = tiny("van", f"{budget}B", text_room=20, chunk=4)
        session.push(footage(2))
        session.push(footage(6))
        return session

    with pytest.raises(kv.BudgetError) as caught:
        watch(20_000)
    least = int(re.findall(r"\((\d+) bytes\)", str(caught.value))[0])
    assert watch(least).stats.peak_bytes <= least
    with pytest.raises(kv.BudgetError):
        watch(least - 1)
