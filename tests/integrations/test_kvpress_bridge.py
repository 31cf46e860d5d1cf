"""Presses of kvpress on video models: what they are given, what is kept, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, two_videos, video_prompt
from kvpress_like import KeyNormPress, PrefillPress, WindowPress
from sessions import footage, tiny
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, make_method

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
PARTLY_ROTATED = [family for family in zoo.FAMILIES if family.startswith("qwen3_5")]
WAYS: list[dict[str, Any]] = [{}, {"prefill": "whole"}, {"budget": 20, "chunk": 24}, {"positions": "compact"}]


def kept_by(model: Any, method: Any, inputs: dict[str, Tensor], budget: Any = "50%", **options: Any) -> list[Tensor]:
    with kv.compress(model, method, budget, **options) as run:
        answer(model, inputs, new=2)
    return list(run.kept)


@pytest.mark.parametrize("family", [family for family in zoo.FAMILIES if family not in PARTLY_ROTATED])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_press_that_reads_keys_keeps_the_same_entries_as_our_method(family: str, options: dict[str, Any]) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [two_videos(family)])
    press = kept_by(model, kv.from_kvpress(KeyNormPress()), inputs, **options)
    own = kept_by(model, "key-norm", inputs, **options)
    assert all(map(torch.equal, press, own))


@pytest.mark.parametrize("family", PARTLY_ROTATED)
def test_heads_that_are_rotated_in_part_are_refused(family: str) -> None:
    model = model_of(family)
    with pytest.raises(kv.UnsupportedModelError, match="this model rotates a part of each"):
        kept_by(model, kv.from_kvpress(KeyNormPress()), zoo.inputs(model, [video_prompt(family)]))


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_press_sees_queries_as_the_model_makes_them(family: str, positions: Any) -> None:
    """With its norm of queries and the three axes of its positions: the last text attends as in SnapKV here."""
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    options = {"prefill": "whole", "positions": positions}
    press = kept_by(model, kv.from_kvpress(WindowPress()), inputs, **options)
    own = kept_by(model, make_method("snapkv", window=4, kernel=1), inputs, **options)
    assert all(map(torch.equal, press, own))


@dataclass(frozen=True)
class Scores(Compressor):
    """Notes the scores of a press over whole layers."""

    press: Any
    found: Any
    needs = kv.from_kvpress(KeyNormPress()).needs

    def scores(self, entries: Entries) -> Tensor:
        scores = kv.from_kvpress(self.press).scores(entries)
        self.found.append(scores)
        return scores


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_projected_and_rotated_again_are_those_of_the_cache(family: str) -> None:
    found: list[Tensor] = []
    model = model_of(family)
    kept_by(model, Scores(PrefillPress(), found), zoo.inputs(model, zoo.default_prompts(family)))
    assert found
    assert all(float(scores.abs().max()) < 1e-4 for scores in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_stays_and_the_budget_is_exact(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 12)])
    with kv.compress(model, kv.from_kvpress(WindowPress()), 30) as run:
        output = answer(model, inputs, new=2).output
    assert {a + b for a, b in zip(run.report.entries, run.report.label_entries, strict=True)} == {30}
    words = torch.isin(inputs["input_ids"][0], torch.tensor(zoo.WORDS)).nonzero().flatten()
    assert all(bool(torch.isin(words, head).all()) for kept in run.kept for head in kept[0])
    assert len(compressed(output.past_key_values)) == len(run.kept)


def test_rows_of_a_padded_batch_are_scored_without_their_padding() -> None:
    model = model_of("qwen2_5_vl")
    prompts = zoo.default_prompts("qwen2_5_vl")
    method = kv.from_kvpress(WindowPress())
    with kv.compress(model, method, "50%"):
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


def test_a_press_in_a_session() -> None:
    press, own = (tiny(method, 24, chunk=12) for method in (kv.from_kvpress(KeyNormPress()), "key-norm"))
    for session in (press, own):
        session.push(footage(20))
        session.ask("What?", max_new_tokens=3)
        session.push(footage(8, seed=1))
        session.flush()
    assert press.stats.entries == own.stats.entries
    for mine, its in zip(press.stream.layers, own.stream.layers, strict=True):
        assert torch.equal(mine.kept, its.kept)


def test_the_ratio_of_a_press_follows_the_budget() -> None:
    """Three quarters of 72 visual entries leave a layer that holds all tokens up to the last of them."""
    model, given = model_of("qwen2_5_vl"), KeyNormPress(compression_ratio=0.9)
    held = zoo.expected_layout("qwen2_5_vl", video_prompt("qwen2_5_vl"))[-1].token + 1
    method: Any = kv.from_kvpress(given)
    kept_by(model, method, zoo.inputs(model, [video_prompt("qwen2_5_vl")]), "25%")
    assert set(method.press.ratios) == {54 / held}
    assert given == KeyNormPress(compression_ratio=0.9)


def test_a_prefill_is_shared_with_a_press() -> None:
    model, once = model_of("qwen2_5_vl"), kv.SharedPrefill()
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    alone = kept_by(model, kv.from_kvpress(PrefillPress()), inputs)
    kept_by(model, "van", inputs, shared=once)
    found = [kept_by(model, kv.from_kvpress(PrefillPress()), inputs, shared=once) for _ in range(2)]
    assert once.reused
    for kept in found:
        assert all(map(torch.equal, kept, alone))


def test_a_press_that_takes_a_prefill_alone_fails_in_later_chunks() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    with pytest.raises(kv.MethodError, match=r"Press in layer 0 \(later pass.*only supports prefill"):
        kept_by(model, kv.from_kvpress(PrefillPress()), inputs, 20, chunk=24)


def test_its_settings_are_described() -> None:
    assert kv.from_kvpress(WindowPress(window=7)).describe() == {"press": "WindowPress", "window": 7}


def test_presses_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = SimpleNamespace(WindowPress=WindowPress, __all__=["WindowPress"])
    monkeypatch.setitem(sys.modules, "kvpress", installed)  # type: ignore[arg-type]
    assert kv.from_kvpress("WindowPress", window=3).describe() == {"press": "WindowPress", "window": 3}
    with pytest.raises(kv.UnknownNameError, match=r"press 'WindwPress'\. Did you mean 'WindowPress'"):
        kv.from_kvpress("WindwPress")


def test_without_kvpress_a_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    with pytest.raises(kv.KVPressVideoError, match=r"This needs kvpress .*'transformers<5.3'"):
        kv.from_kvpress("KnormPress")


@dataclass
class Short(KeyNormPress):
    """One score too few."""

    def score(self, *states: Any) -> Tensor:
        return super().score(*states)[..., 1:]


def test_mistakes() -> None:
    with pytest.raises(kv.MethodError, match=r"KeyNormPress is a class: pass an instance, KeyNormPress\("):
        kv.from_kvpress(KeyNormPress)
    with pytest.raises(kv.MethodError, match="dict has no score"):
        kv.from_kvpress({})
    with pytest.raises(kv.MethodError, match="KeyNormPress is already made: give window to its constructor"):
        kv.from_kvpress(KeyNormPress(), window=3)
    model = model_of("qwen2_5_vl")
    with pytest.raises(kv.MethodError, match=r"Short.score\(\) returned .*return one score per entry"):
        kept_by(model, kv.from_kvpress(Short()), zoo.inputs(model, [video_prompt("qwen2_5_vl")]))
    states = torch.randn(1, 24, 8)
    with pytest.raises(kv.MissingInputError, match="needs 'attention' and 'rope'"):
        kv.select(kv.from_kvpress(KeyNormPress()), states, states, grid=(2, 3, 4), keep=12)


def test_a_press_is_a_base_of_other_methods() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [video_prompt("qwen2_5_vl", 12)])
    for wrapper in ("pyramid", "chunk", "critical"):
        press, own = (
            kept_by(model, make_method(wrapper, base=base), inputs, "25%")
            for base in (kv.from_kvpress(KeyNormPress()), "key-norm")
        )
        assert all(map(torch.equal, press, own))
