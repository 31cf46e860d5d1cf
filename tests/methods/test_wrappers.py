"""Methods around other methods: what the base is given, and how much it may keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt

import kvpress_video as kv
from kvpress_video.compressor.base import checked_layer_budgets
from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import footage, thinned
from kvpress_video.errors import BudgetError

at_first_and_later = pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(), 7, 36)], ids=["first pass", "later pass"]
)


@at_first_and_later
@pytest.mark.parametrize("base", ["infinipot-v", "novelty", "standby-novelty", "snapkv", "diversity", "random"])
def test_dual_rate_of_one_is_its_base(entries: Entries, base: str) -> None:
    wrapped = make_method("dual-rate", base=base, q=1)
    assert torch.equal(wrapped.select(entries, 35), make_method(base).select(entries, 35))


@at_first_and_later
@pytest.mark.parametrize("q", [2, 3, 20])
def test_states_are_held_until_the_next_refresh(entries: Entries, q: int) -> None:
    lengths = entries.values.norm(dim=-1)
    frames, patches = entries.frame, entries.patch
    expected = lengths.clone()
    for row, head, slot in torch.ones_like(lengths).nonzero().tolist():
        refreshed = (frames[row, head] == frames[row, head, slot] // q * q) & (
            patches[row, head] == patches[row, head, slot]
        )
        if refreshed.any():
            expected[row, head, slot] = lengths[row, head, refreshed][0]
    torch.testing.assert_close(make_method("dual-rate", base="van", q=q).scores(entries), expected)


def test_what_stays_are_the_entries_themselves() -> None:
    entries = footage()
    kept = make_method("dual-rate", q=4).compress(entries, 35)
    assert torch.equal(kept.keys, entries.gather(kept.index.long()).keys)


@pytest.mark.parametrize(("keep", "n", "left"), [(10, 1, 2), (11, 3, 2), (1, 2, 2), (30, 2, 7)])
def test_layers_share_what_the_last_ones_do_not_use(keep: int, n: int, left: int) -> None:
    budgets = checked_layer_budgets(make_method("vfl-drop", n=n, left=left), keep, 5)
    assert budgets[5 - n :] == (min(left, keep),) * n
    assert sum(budgets) == 5 * keep
    assert max(budgets[: 5 - n]) - min(budgets[: 5 - n]) <= 1


def test_dropping_in_all_layers_is_an_error() -> None:
    with pytest.raises(BudgetError, match="n=4 leaves none of 4 layers"):
        make_method("vfl-drop", n=4).layer_budget(10, 0, 4)


def test_the_last_layers_keep_both_ends_and_the_others_what_the_base_keeps() -> None:
    method, entries = make_method("vfl-drop:base=van,n=2"), footage()
    late = replace(entries, context=replace(entries.context, layer=2))
    assert method.select(late, 2)[0].tolist() == [[0, 119]] * 2
    early = replace(entries, context=replace(entries.context, layer=1))
    assert torch.equal(method.select(early, 35), make_method("van").select(early, 35))


def test_memory_of_the_last_layers_is_freed() -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 7)])
    with kv.compress(model, "vfl-drop:n=2", "50%") as run:
        cache = answer(model, inputs, new=1).output.past_key_values
    assert run.report.entries[2:] == (2, 2)
    assert run.report.ratio == pytest.approx(0.5, abs=0.01)
    text = run.report.text_entries
    assert [layer.keys.shape[2] for layer in cache.layers] == [held + text for held in run.report.entries]


def test_shares_of_the_swap_are_budgets_of_layers() -> None:
    method = make_method("vfl", base="van")
    assert checked_layer_budgets(method, 100, 4) == (30, 202, 86, 82)
    assert torch.equal(method.select(footage(), 35), make_method("van").select(footage(), 35))
    assert "swap" in method.source


@at_first_and_later
@pytest.mark.parametrize("base", ["tar", "van", "snapkv", "diversity"])
def test_reversed_keeps_what_its_base_scores_lowest(entries: Entries, base: str) -> None:
    lowest = make_method(base).scores(entries).argsort(dim=-1, stable=True)[..., :35].sort().values
    assert torch.equal(make_method("reversed", base=base).select(entries, 35), lowest)
