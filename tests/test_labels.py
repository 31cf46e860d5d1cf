"""Labels cost budget: frames and their text together hold to it, in every family, with every method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, answer, compressed, model_of, two_videos, video_prompt
from pairs import pairs
from reference_masks import masked_answer, noted, view_of
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Kind, Tags

FIRST = "qwen3_vl"
BUDGET = 60
MINE = SETTINGS | {
    "per-layer": {"shares": (1.1, 0.9)},
    "pyramid": {"beta": 1.1},
    "detachable": {"scorer": "van", "window": 0.8},
}


def label_frames(tags: Tensor) -> set[int]:
    """Frames of the labels among tags (entries, Tags.WIDTH)."""
    return set(tags[tags[:, Tags.KIND] == Kind.LABEL][:, Tags.FRAME].tolist())


CASES = [
    pytest.param(method, family, labels, marks=() if method == "infinipot-v" or family == FIRST else pytest.mark.slow)
    for method, family, labels in pairs(METHODS, zoo.LABELLED, ["spread", "drop"])
]


@pytest.mark.sampled
@pytest.mark.parametrize(("method", "family", "labels"), CASES)
def test_frames_and_labels_are_exactly_the_budget(method: str, family: str, labels: Any) -> None:
    model = model_of(family)
    rows, columns = zoo.grid(family)
    held = {}
    for frames in (14, 28):
        inputs = zoo.inputs(model, [video_prompt(family, frames)])
        with kv.compress(model, method, BUDGET, labels=labels, **MINE.get(method, {})) as run:
            output = answer(model, inputs, new=2).output
        report = run.report
        layers = compressed(output.past_key_values)
        assert sum(report.entries) + sum(report.label_entries) == BUDGET * len(layers)
        assert report.visual_tokens == frames * rows * columns
        assert report.label_tokens + report.visual_tokens + report.text_entries == inputs["input_ids"].shape[1]
        for layer, visual, named in zip(layers, report.entries, report.label_entries, strict=True):
            kinds = layer.tags[0, ..., Tags.KIND]
            assert ((kinds == Kind.VIDEO).sum(dim=-1) == visual).all()
            assert ((kinds == Kind.LABEL).sum(dim=-1) == named).all()
            assert (layer.tags[0, ..., Tags.INDEX].diff(dim=-1) > 0).all()
            found = [label_frames(head) for head in layer.tags[0]]
            assert all(frames_of_head == found[0] for frames_of_head in found)
            assert (frames - 1 in found[0]) == (labels == "spread")
        held[frames] = report.bytes, report.text_entries
    windows = family == "gemma3"  # whose sliding layers fill with the prompt
    assert held[14] == held[28] or (windows and held[14][1] == held[28][1])


@pytest.mark.slow
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_thousands_of_frames_hold_what_fifty_do(family: str) -> None:
    model, found, peaks = model_of(family), {}, []
    for frames in (50, 400, 4000):
        inputs = zoo.inputs(model, [video_prompt(family, frames)])
        with kv.compress(model, "infinipot-v", 120) as run:
            answer(model, inputs, new=2)
        report = run.report
        assert {sum(layer) for layer in zip(report.entries, report.label_entries, strict=True)} == {120}
        found[frames] = report.bytes, report.text_entries
        peaks.append(report.peak_bytes)
        print(f"{family}: {frames} frames, {report.visual_tokens + report.label_tokens} visual and label tokens: "
              f"120 entries a layer, {report.text_entries} of text, {report.bytes} bytes")  # fmt: skip
    if family == "gemma3":  # its sliding layers keep the newest tokens, whichever those are
        assert found[50][1] == found[400][1] == found[4000][1]
        assert found[400][0] == found[4000][0]
    else:
        assert found[50] == found[400] == found[4000]
    assert max(peaks) < 1.01 * min(peaks)  # numbers and times of later frames have more digits


@pytest.mark.parametrize("labels", ["spread", "drop", "keep"])
@pytest.mark.parametrize("family", zoo.LABELLED)
def test_a_budget_that_holds_everything_changes_nothing(family: str, labels: Any) -> None:
    model = model_of(family, "eager")
    inputs = zoo.inputs(model, [two_videos(family)])
    stock = answer(model, inputs)
    for budget in ("100%", 10_000):
        with kv.compress(model, "van", budget, labels=labels) as run:
            ours = answer(model, inputs)
        assert torch.equal(ours.tokens, stock.tokens)
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
        assert run.report.ratio == 1


@pytest.mark.parametrize("family", [family for family in zoo.LABELLED if family != "gemma3"])  # it attends both ways
@pytest.mark.parametrize("method", ["van", "tar", "snapkv", "recent"])
@pytest.mark.parametrize("labels", ["spread", "drop"])
def test_answers_equal_the_stock_model_that_cannot_see_what_was_evicted(
    family: str, method: str, labels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(family, "eager")
    prompt = video_prompt(family, 9)
    inputs = zoo.inputs(model, [prompt])
    length = inputs["input_ids"].shape[1]
    with noted(monkeypatch) as log, kv.compress(model, method, 70, labels=labels, chunk=30, **SETTINGS.get(method, {})):
        ours = answer(model, inputs)
    columns = [index[0] for _, _, index in log.came[0] if index.shape[1] > 1]
    assert len(columns) > 3
    masked = masked_answer(model, inputs, ours.tokens, view_of(log, length, columns))
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", zoo.LABELLED)
def test_a_ratio_is_a_share_of_frames_and_labels(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 20)])
    with kv.compress(model, "tar", "30%") as run:
        answer(model, inputs, new=1)
    report = run.report
    seen = report.visual_tokens + report.label_tokens
    assert report.entries[0] + report.label_entries[0] == int(0.3 * seen + 0.5)
    assert report.ratio == pytest.approx(int(0.3 * seen + 0.5) / seen)
    assert 0 < report.label_entries[0] <= report.entries[0]
    assert f"of {report.label_tokens} label entries" in str(report)


@pytest.mark.parametrize("family", zoo.LABELLED)
@pytest.mark.parametrize("prefill", ["whole", "split"])
def test_rows_of_a_padded_batch_hold_what_they_would_alone(family: str, prefill: Any) -> None:
    model = model_of(family)
    prompts = [video_prompt(family, 12), video_prompt(family, 5)]
    with kv.compress(model, "van", "50%", prefill=prefill) as run:
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    assert len(run.reports) == 3
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", zoo.LABELLED)
def test_a_budget_without_room_for_a_label_and_its_frame_names_the_least_that_has(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 12)])
    with kv.compress(model, "van", 2), pytest.raises(kv.BudgetError, match=r"ask for (\d+) or more") as raised:
        answer(model, inputs, new=1)
    least = int(str(raised.value).split("ask for ")[1].split()[0])
    with kv.compress(model, "van", least) as run:
        answer(model, inputs, new=1)
    assert run.report.entries == (least - max(run.report.label_entries),) * len(run.report.entries)
    with kv.compress(model, "van", 4, labels="drop") as run:
        answer(model, inputs, new=1)
    assert set(run.report.entries) == {4}


@pytest.mark.parametrize("family", [family for family in zoo.LABELLED if family != "gemma3"])
@pytest.mark.parametrize("labels", ["spread", "drop"])
def test_labels_go_before_prefill_too(family: str, labels: Any) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 12)])
    with kv.compress(model, "random", "40%", stage="input", labels=labels) as run:
        answer(model, inputs, new=2)
    seen = run.report.visual_tokens + run.report.label_tokens
    assert run.report.entries[0] + run.report.label_entries[0] == int(0.4 * seen + 0.5)


@pytest.mark.parametrize("family", zoo.LABELLED)
def test_labels_of_evicted_frames_free_their_positions(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 24)])
    ends = {}
    for positions in ("keep", "compact"):
        with kv.compress(model, "van", "25%", positions=positions):  # type: ignore[arg-type]
            cache = model(**inputs, use_cache=True).past_key_values
        entries = compressed(cache)[0].places[0, 0]
        present = entries[:, 4:7] if positions == "compact" else entries[:, :3]
        ends[positions] = float(present.max())
        video = compressed(cache)[0].tags[0, 0, :, Tags.KIND] == Kind.VIDEO
        assert (present[video][:, 0].diff() >= 0).all()
    assert ends["compact"] < 0.6 * ends["keep"]


def test_labels_of_an_unlabelled_family_make_no_difference() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 8)])
    answers = []
    for labels in ("spread", "drop", "keep"):
        with kv.compress(model, "van", 40, labels=labels) as run:  # type: ignore[arg-type]
            answers.append(answer(model, inputs).logits)
        assert run.report.label_tokens == 0
    assert all(torch.equal(logits, answers[0]) for logits in answers)


def test_unknown_labels_are_refused() -> None:
    with pytest.raises(kv.UnknownNameError, match="labels"):
        kv.compress(model_of("qwen2_5_vl"), "van", 40, labels="sprea")  # type: ignore[arg-type]
