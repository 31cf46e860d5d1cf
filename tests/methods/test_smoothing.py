"""Smoothing across layers: scores of all layers first, then eviction from the deepest one to the first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, video_prompt
from kvpress_video.methods.hermes import Hermes
from reference_masks import noted
from sessions import frames_for, tiny
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Entries, LayerScores
from kvpress_video.compressor.registry import make_method
from kvpress_video.errors import BudgetError
from kvpress_video.models import adapter_for

FAMILY = zoo.FAMILIES[0]
BANDS: dict[str, Any] = {"shallow": 0.25, "deep": 0.25, "summary": False, "probe": 3}
SHARES = (0.1, 0.3, 0.4)


@dataclass(frozen=True)
class Noted(Hermes):
    """Notes what each layer scores, without smoothing."""

    seen: ClassVar[dict[int, tuple[Tensor, Tensor]]] = {}

    def scores(self, entries: Entries) -> Tensor:
        found = super().scores(entries)
        self.seen[entries.context.layer] = entries.index[0, 0].clone(), found[0, 0].clone()
        return found


def kept_by(method: kv.Compressor, **options: Any) -> list[list[int]]:
    model = model_of(FAMILY)
    with kv.compress(model, method, "25%", **options) as run:
        answer(model, zoo.inputs(model, [video_prompt(FAMILY)]), new=1)
    return [kept[0, 0].tolist() for kept in run.kept]


@pytest.mark.parametrize("prefill", ["split", "whole"])
def test_scores_are_mixed_from_the_deepest_layer_to_the_first(prefill: str) -> None:
    """In one pass no layer's scores depend on what is evicted, so those without smoothing can be mixed afterwards."""
    Noted.seen.clear()
    plain = kept_by(Noted(**BANDS), prefill=prefill)
    smoothed = kept_by(Hermes(**BANDS, smoothing=SHARES), prefill=prefill)
    layers = len(Noted.seen)
    assert layers >= 4
    assert smoothed[-1] == plain[-1]
    assert smoothed != plain
    below = Noted.seen[layers - 1][1]
    for layer in reversed(range(layers - 1)):
        index, own = Noted.seen[layer]
        share = SHARES[(layer >= layers // 4) + (layer >= layers - layers // 4)]
        below = (1 - share) * own + share * below
        visual = [token for token in smoothed[layer] if token in set(index.tolist())]
        assert visual == index[below.topk(len(visual)).indices.sort().values].tolist()


@dataclass(frozen=True)
class Counted(Hermes):
    """Counts how often the scores of each layer are computed."""

    calls: ClassVar[list[int]] = []

    def scores(self, entries: Entries) -> Tensor:
        self.calls.append(entries.context.layer)
        return super().scores(entries)


@pytest.mark.parametrize("summary", [False, True])
def test_a_layer_is_scored_once(summary: bool) -> None:
    Counted.calls.clear()
    kept_by(Counted(**BANDS | {"summary": summary}, smoothing=SHARES), prefill="split")
    assert Counted.calls == list(reversed(range(len(Counted.calls))))
    assert len(Counted.calls) >= 4


def test_a_share_of_zero_is_no_smoothing() -> None:
    for options in ({"prefill": "split"}, {"chunk": 24}):
        assert kept_by(Hermes(**BANDS, smoothing=(0, 0, 0)), **options) == kept_by(Hermes(**BANDS), **options)


def test_a_share_of_one_gives_all_layers_the_choice_of_the_deepest() -> None:
    every = kept_by(Hermes(**BANDS, smoothing=(1, 1, 1)), prefill="split")
    assert all(one == other for one, other in pairwise(every))
    assert len({tuple(kept) for kept in kept_by(Hermes(**BANDS), prefill="split")}) > 1


def test_a_wrapper_smooths_as_its_base() -> None:
    wrapped, plain = (make_method("bucketed", base=Hermes(**BANDS, smoothing=how), free=1.0) for how in (SHARES, None))
    assert wrapped.needs == {"probe", "rope", "deeper"}
    assert kept_by(wrapped, chunk=24) == kept_by(Hermes(**BANDS, smoothing=SHARES), chunk=24)
    assert kept_by(wrapped, chunk=24) != kept_by(plain, chunk=24)


def test_rows_of_unequal_layout_are_smoothed_by_themselves() -> None:
    model, method = model_of(FAMILY), Hermes(**BANDS, smoothing=SHARES)
    prompts = [video_prompt(FAMILY), zoo.Prompt([*video_prompt(FAMILY).parts, zoo.Text(3, seed=9)])]
    inputs = zoo.inputs(model, prompts)
    padding = (inputs["attention_mask"] == 0).sum(dim=1)
    with kv.compress(model, method, "25%", prefill="split"):
        together = compressed(answer(model, inputs, new=1).output.past_key_values)
    for row, prompt in enumerate(prompts):
        with kv.compress(model, method, "25%", prefill="split"):
            alone = compressed(answer(model, zoo.inputs(model, [prompt]), new=1).output.past_key_values)
        for one, other in zip(together, alone, strict=True):
            mine = one.kept[row, 0][one.kept[row, 0] >= 0] - int(padding[row])
            assert mine.tolist() == other.kept[0, 0].tolist()


@pytest.mark.parametrize("options", [{}, {"chunk": 12}, {"positions": "compact"}], ids=str)
def test_a_budget_of_bytes_pays_for_the_pass_in_every_layer(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, adapter = model_of(FAMILY), adapter_for(model_of(FAMILY))
    inputs = zoo.inputs(model, [video_prompt(FAMILY, 12)])
    layers, entry = len(adapter.attentions), adapter.entry_bytes("positions" in options)
    budget = int(0.85 * inputs["input_ids"].shape[1] * layers * entry)
    method = Hermes(**BANDS, smoothing=SHARES)
    with noted(monkeypatch) as log, kv.compress(model, method, f"{budget}B", **options) as run:
        answer(model, inputs, new=1)
    assert run.report.ratio < 1
    assert 0.4 * budget < run.report.bytes <= run.report.peak_bytes <= budget
    assert log.peak <= budget


@pytest.mark.parametrize("bank", ["device", "cpu"])
def test_a_session_pays_for_the_chunk_in_every_layer(bank: str) -> None:
    adapter = adapter_for(model_of(FAMILY))
    entries = 240 if bank == "device" else 400
    budget = len(adapter.attentions) * entries * adapter.entry_bytes(True)
    session = tiny("hermes", f"{budget}B", FAMILY, text_room=70, bank_on=bank, smoothing=SHARES)
    for number in range(5):
        session.push(frames_for(FAMILY, 9, seed=number))
        session.ask("What is it?", max_new_tokens=3)
        assert session.stats.bytes <= session.stats.peak_bytes <= budget
    assert max(session.stats.entries) < session.stats.visual_tokens


def test_scores_are_looked_up_by_token() -> None:
    """Padding comes in front or between; what was not scored or is not there has its own score."""
    known = LayerScores(torch.tensor([[[-1, 4, 7, -1, 9]]]), torch.tensor([[[0.5, 0.1, torch.nan, 0.5, 0.3]]]))
    found = known.of(torch.tensor([[[3, 4, 7, 9, 11]]]), torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.1, 3.0, 0.3, 5.0]]]))


@pytest.mark.parametrize("smoothing", [(0.1, 0.3), (0.1, 0.3, 1.4), (0.1, float("nan"), 0.3)])
def test_wrong_shares(smoothing: tuple[float, ...]) -> None:
    with pytest.raises(BudgetError, match="three shares between 0 and 1"):
        make_method("hermes", smoothing=smoothing)
