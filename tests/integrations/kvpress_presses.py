"""Presses of an installed kvpress on video models, through the bridge and by themselves; `make test-kvpress` runs this,
where transformers is old enough.

The file's name keeps it out of other runs, whose environments cannot hold kvpress.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvpress
import pytest
import torch
import zoo
from generation import answer, compressed, model_of, video_prompt
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextAttention

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, make_method

logging.getLogger("kvpress").setLevel(logging.ERROR)  # it warns of every model it was not tested with

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
FRAMES = 12
RATIO = 0.75  # of the entries to evict
PRESSES: dict[str, Any] = {
    "Knorm": kvpress.KnormPress(),
    "Random": kvpress.RandomPress(seed=0),
    "StreamingLLM": kvpress.StreamingLLMPress(),
    "SnapKV": kvpress.SnapKVPress(window_size=4),
    "TOVA": kvpress.TOVAPress(),
    "PyramidKV": kvpress.PyramidKVPress(window_size=4),
    "ExpectedAttention": kvpress.ExpectedAttentionPress(n_future_positions=16),
    "LagKV": kvpress.LagKVPress(lag_size=12),
    "KeyDiff": kvpress.KeyDiffPress(),
    "LeverageScore": kvpress.LeverageScorePress(),
    "NonCausalAttn": kvpress.NonCausalAttnPress(chunk_size=32),
    "CUR": kvpress.CURPress(),
    "Compactor": kvpress.CompactorPress(chunk_size=32),
    "CriticalKV": kvpress.CriticalKVPress(kvpress.SnapKVPress(window_size=4)),
}
ALIKE: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "Knorm": (kvpress.KnormPress(), "key-norm", {}),
    "SnapKV": (kvpress.SnapKVPress(window_size=4, kernel_size=1), "snapkv", {"window": 4, "kernel": 1}),
    "TOVA": (kvpress.TOVAPress(), "tova", {}),
}


def kept_by(model: Any, method: Any, inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    with kv.compress(model, method, "25%", **options) as run:
        answer(model, inputs, new=2)
    return list(run.kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("prefill", ["split", "whole"])
def test_a_press_keeps_text_and_its_budget(press: str, family: str, prefill: Any) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES)])
    words = torch.isin(inputs["input_ids"][0], torch.tensor(zoo.WORDS)).nonzero().flatten()
    torch.manual_seed(0)
    with kv.compress(model, kv.from_kvpress(PRESSES[press]), "25%", prefill=prefill) as run:
        found = answer(model, inputs, new=2)
    rows, columns = zoo.grid(family)
    frames = FRAMES * rows * columns + run.report.label_tokens
    assert set(map(sum, zip(run.report.entries, run.report.label_entries, strict=True))) == {int(frames / 4 + 0.5)}
    assert all(bool(torch.isin(words, head).all()) for kept in run.kept for head in kept[0])
    assert found.logits.isfinite().all()
    assert len(compressed(found.output.past_key_values)) == len(run.kept)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ALIKE)
def test_a_press_keeps_the_same_entries_as_the_method_of_this_package(name: str, family: str) -> None:
    """Text after the video asks, so that kvpress protects no frame of its own accord."""
    press, method, settings = ALIKE[name]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES)])
    expected = kept_by(model, make_method(method, **settings), inputs, prefill="whole")
    found = kept_by(model, kv.from_kvpress(press), inputs, prefill="whole")
    assert all(map(torch.equal, found, expected))


def test_presses_by_name() -> None:
    assert kv.from_kvpress("SnapKVPress", window_size=32).describe()["window_size"] == 32
    with pytest.raises(kv.UnknownNameError, match="Did you mean 'KnormPress'"):
        kv.from_kvpress("KnromPress")


@pytest.mark.parametrize("press", [kvpress.ThinKPress(), kvpress.AdaKVPress(kvpress.KnormPress())], ids=str)
def test_presses_that_score_nothing_are_refused(press: Any) -> None:
    with pytest.raises(kv.MethodError, match=r"has no score\("):
        kv.from_kvpress(press)


# --- By themselves ----------------------------------------------------------------------------------------------------

ATTENTIVE = ["SnapKV", "TOVA", "PyramidKV", "CriticalKV"]
"""Presses that read attention weights where the model returns them, as it does under eager attention."""
CRASHES = {
    **dict.fromkeys(["SnapKV", "TOVA", "PyramidKV", "NonCausalAttn", "Compactor", "CriticalKV"], RuntimeError),
    "ExpectedAttention": IndexError,
}
"""What presses raise on Qwen2.5-VL, whose rotation has three axes."""
MISLED = {*CRASHES, "LeverageScore"}
"""Presses whose queries or keys lack the norms of Qwen3-VL."""


def noting(press: Any, found: list[Tensor]) -> Any:
    """Return a copy of a press that notes its scores, layer by layer."""
    press = copy.deepcopy(press)
    press.compression_ratio = RATIO
    kind: Any = type(press)

    class Noting(kind):
        def score(self, *given: Any, **named: Any) -> Tensor:
            found.append(super().score(*given, **named))
            return found[-1]

    press.__class__ = Noting
    return press


@torch.no_grad()
def alone(press: str, family: str, attention: str = "sdpa") -> list[Tensor]:
    """Return the scores of every layer, (1, heads, tokens), in a prefill under kvpress, on a model of its own."""
    model, found = zoo.build(family, attention), []
    torch.manual_seed(0)
    with noting(PRESSES[press], found)(model):
        model(**prompt(family))
    return found


@dataclass(frozen=True)
class Scored(Compressor):
    """The scores of a press through the bridge, whose ratio stays as it is."""

    press: Any
    needs = kv.from_kvpress(kvpress.KnormPress()).needs

    def scores(self, entries: Entries) -> Tensor:
        return kv.from_kvpress(self.press).scores(entries)


def bridged(press: str, family: str, attention: str = "sdpa") -> list[Tensor]:
    """Return the scores that a press gives through the bridge, as `alone` does."""
    found: list[Tensor] = []
    torch.manual_seed(0)
    with kv.compress(model_of(family, attention), Scored(noting(PRESSES[press], found)), "25%", prefill="whole"):
        answer(model_of(family, attention), prompt(family), new=1)
    return found


def prompt(family: str) -> dict[str, Tensor]:
    return zoo.inputs(model_of(family), [video_prompt(family, FRAMES)])


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(mine, its, rtol=1e-5, atol=1e-6) for mine, its in zip(one, other, strict=True))


@pytest.fixture
def norms_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kvpress apply the norms of queries and keys in Qwen3-VL, as it does in Qwen3."""
    monkeypatch.setattr(kvpress.utils, "Qwen3Attention", Qwen3VLTextAttention)


@pytest.mark.parametrize("press", PRESSES)
def test_presses_that_rotate_crash_on_three_axes(press: str) -> None:
    if press in CRASHES:
        with pytest.raises(CRASHES[press]):
            alone(press, "qwen2_5_vl")
    else:
        assert same(alone(press, "qwen2_5_vl"), bridged(press, "qwen2_5_vl"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("press", ATTENTIVE)
def test_the_bridge_scores_by_the_weights_that_the_model_returns(press: str, family: str) -> None:
    assert same(alone(press, family, "eager"), bridged(press, family, "eager"))


@pytest.mark.usefixtures("norms_known")
@pytest.mark.parametrize("press", PRESSES)
def test_the_bridge_scores_with_the_norms_of_the_model(press: str) -> None:
    assert same(alone(press, "qwen3_vl"), bridged(press, "qwen3_vl"))


@pytest.mark.parametrize("press", PRESSES)
def test_presses_that_project_score_wrongly_without_norms(press: str) -> None:
    assert same(alone(press, "qwen3_vl"), bridged(press, "qwen3_vl")) == (press not in MISLED)


def overlap(found: Tensor, right: Tensor, visual: Tensor) -> float:
    """Return the share of the visual entries with the highest scores that have the highest right scores too."""
    keep = round((1 - RATIO) * int(visual.sum()))
    mine, its = (
        torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(keep).indices, True)
        for scores in (found[..., visual], right[..., visual])
    )
    return float((mine & its).sum() / its.sum())


def text_evicted(layers: list[Tensor], words: Tensor) -> float:
    """Return how many tokens of text a press evicts per head by itself, on average."""
    keep = kvpress.utils.compute_n_kept(len(words), RATIO)
    return sum(
        int(words.sum()) - float(words[scores.topk(keep).indices].sum(-1).float().mean()) for scores in layers
    ) / len(layers)


def row(press: str) -> str:
    """Write what a press does by itself as a row of the table in `docs/kvpress.md`."""
    cells = [press]
    for family in FAMILIES:
        ids = prompt(family)["input_ids"][0]
        words, visual = torch.isin(ids, torch.tensor(zoo.WORDS)), torch.isin(ids, torch.tensor([zoo.VIDEO, zoo.IMAGE]))
        if family == "qwen2_5_vl" and press in CRASHES:
            cells += [CRASHES[press].__name__, ""]
            continue
        found = alone(press, family)
        share = overlap(found[0], bridged(press, family)[0], visual)
        cells += [f"{share:.0%}", f"{text_evicted(found, words):.1f}"]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


@pytest.mark.parametrize("press", PRESSES)
def test_the_documentation_says_what_a_press_does_by_itself(press: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "kvpress.md").read_text(encoding="utf-8")
    assert row(press) in page.splitlines()
