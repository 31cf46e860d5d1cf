"""Every method and variant on the rules of the contract that need no model; cards, and errors of settings."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kvpress_video import select
from kvpress_video.compressor.base import FIDELITIES, Compressor
from kvpress_video.compressor.entries import Entries, Grid, Places, Tags
from kvpress_video.compressor.registry import make_method, method_class, method_names
from kvpress_video.contract.on_entries import ON_ENTRIES, check_kept, same, second_pass
from kvpress_video.contract.random_entries import GRID, footage, unanswered
from kvpress_video.contract.trial import Trial
from kvpress_video.errors import BudgetError, KVPressVideoError, MissingInputError, UnknownNameError

CARDS = Path(__file__).parents[2] / "docs" / "methods"
VARIANTS = [
    "ada:base=infinipot-v,alpha=0.0",
    "average-pooling:temporal=2",
    "bucketed:base=evs,free=0.2,capacity=3",
    "chunk:base=standby,rows=2,columns=2",
    "critical:base=key-norm",
    "detachable:scorer=van,window=0.7",
    "detachable:scorer=van,window=0.7,per_frame=2",
    "detachable:scorer=van,window=0.7,per_frame=3,thinner=infinipot-v",
    "dual-rate:q=1,base=key-norm",
    "dual-rate:q=3,base=snapkv",
    "fresh:base=van,n=2",
    "fresh:base=average-pooling,n=1",
    "hermes:smoothing=(0.1, 0.3, 0.4)",
    "hermes:summary=False",
    "infinipot-v:entries=official",
    "infinipot-v:paper,thresholds=(0.1,0.2,0.3)",
    "infinipot-v:pooling=True,recent_ratio=0.125",
    "lagkv:lag=12",
    "leverage:sketch=6",
    "memory-bank:order=newest,compare=all",
    "mod:layers=deep,router=snapkv",
    "novelty:last_frame=0",
    "novelty:reference=global",
    "otsu:recent=0,alike=1.0",
    "per-layer:base=snapkv",
    "pyramid:base=infinipot-v",
    "rekv:base=standby,share=0.5",
    "residual:means=0.0",
    "slots:top_k=3",
    "standby-novelty:reference=global",
    "streammem:prototypes=1.0",
    "tar:entries=official",
    "transv:layer=0,router=snapkv",
    "van:pooling=True",
    "vfl-drop:base=van,n=4",
    "vidcom2:reference=past",
]
METHODS = [*(name for name in method_names() if name != "full"), *VARIANTS]
every_method = pytest.mark.parametrize("method", [make_method(name) for name in METHODS], ids=METHODS)
BELOW_A_FRAME = {f"{keep} of 120" for keep in (0, 1, 3, 11)}
REFUSED = {"detachable": BELOW_A_FRAME, "sink-window": BELOW_A_FRAME, "memory-bank": {"96 of 96"}}
"""Budgets that a method may refuse: a window without room, and survivors of another method."""


def _tried(name: str, trial: Trial) -> bool:
    return trial.applies(make_method(name)) and not unanswered(make_method(name).needs)


PAIRS = [(name, trial) for name in METHODS for trial in ON_ENTRIES if _tried(name, trial)]


@pytest.mark.parametrize(("name", "trial"), PAIRS, ids=[f"{name}-{trial.rule}" for name, trial in PAIRS])
def test_keeps_every_rule(name: str, trial: Trial) -> None:
    outcome = trial.outcome(make_method(name))
    assert not outcome.wrong
    refused = {budget for method, budgets in REFUSED.items() if name.startswith(method) for budget in budgets}
    assert outcome.refusals.keys() <= refused


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_card_that_names_its_settings(name: str) -> None:
    made = method_class(name)
    card = (CARDS / f"{name}.md").read_text()
    assert all(f"`{field.name}`" in card for field in fields(made))
    assert f"({name}.md)" in (CARDS / "README.md").read_text()
    assert made.source


def test_the_cards_and_the_command_explain_a_fidelity_alike() -> None:
    cards = (CARDS / "README.md").read_text()
    assert [fidelity for fidelity, meaning in FIDELITIES.items() if f"- **{fidelity}**: {meaning}" not in cards] == []


# Errors say what was wrong, which value, and what to do.

WRONG_SETTINGS: list[tuple[str, dict[str, Any], type[KVPressVideoError], str]] = [
    ("ada", {"alpha": 1.5}, BudgetError, "alpha is a share of the budget between 0 and 1, got 1.5"),
    ("ada", {"base": "uniform"}, UnknownNameError, "Uniform cannot be the base of Ada: that takes one score"),
    ("pyramid", {"base": "ada"}, BudgetError, "Ada makes heads differ and cannot be the base of Pyramid"),
    ("average-pooling", {"temporal": 0}, BudgetError, "temporal must be at least 1 frame, got 0"),
    ("chunk", {"rows": 0}, BudgetError, "at least 1 patch, got 0 and 3"),
    ("chunk", {"base": "uniform"}, UnknownNameError, "Uniform cannot be the base of Chunk: that takes one score"),
    ("critical", {"first": 1.5}, BudgetError, "first is a share of the budget between 0 and 1, got 1.5"),
    ("critical", {"epsilon": -1.0}, BudgetError, "epsilon must be a number from 0, got -1.0"),
    ("detachable", {"window": 0.0}, BudgetError, "window is a share up to 1.0"),
    ("detachable", {"window": 1.5}, BudgetError, "got 1.5"),
    ("detachable", {"window": float("nan")}, BudgetError, "got nan"),
    ("detachable", {"window": "half"}, UnknownNameError, "detachable cannot be made with window='half'"),
    ("expected-attention", {"window": 0}, BudgetError, "at least one query, got 0"),
    ("expected-attention", {"future": 0}, BudgetError, "at least one position, got 0"),
    ("expected-attention", {"epsilon": float("nan")}, BudgetError, "got nan"),
    ("focus", {"margin": float("nan")}, BudgetError, "margin must be a number of logits, or None"),
    ("fresh", {"n": -1}, BudgetError, "n must be a number of frames from 0, got -1"),
    ("hermes", {"shallow": float("nan")}, BudgetError, "together at most 1, got nan"),
    ("hermes", {"forgetting": (float("nan"), 1.0)}, BudgetError, "two rates above zero"),
    ("hermes", {"recency": 0.5}, UnknownNameError, r"'recency' of hermes takes tuple\[float, float\], got 0.5"),
    ("hermes", {"smoothing": 3}, UnknownNameError, r"'smoothing' of hermes takes tuple\[.*\] \| None, got 3"),
    ("hermes", {"smoothing": "low"}, UnknownNameError, "hermes cannot be made with smoothing='low'"),
    ("per-layer", {"shares": (1, float("nan"))}, BudgetError, "above zero"),
    ("per-layer", {"shares": (1, float("inf"))}, BudgetError, "above zero"),
    ("tar", {"recent_ratio": float("nan")}, BudgetError, "got nan"),
    ("detachable", {"bank": 0}, BudgetError, "bank must be at least 1"),
    ("detachable", {"per_frame": 0}, BudgetError, "per_frame must be at least 1"),
    ("detachable", {"scorer": "infinipot-v"}, UnknownNameError, "'novelty'"),
    ("detachable", {"scorer": "average-pooling"}, UnknownNameError, "one score per entry"),
    ("detachable", {"scorer": "rekv"}, UnknownNameError, "ReKV as scorer would read no more than the cache"),
    ("detachable", {"scorer": "standy"}, UnknownNameError, "Did you mean 'standby'"),
    ("infinipot-v", {"tar_ratio": 1.2}, BudgetError, "tar_ratio is a share between 0 and 1, got 1.2"),
    ("infinipot-v", {"entries": "offical"}, UnknownNameError, "Did you mean 'official'"),
    ("memory-bank", {"order": "new"}, UnknownNameError, "Did you mean 'newest'"),
    ("memory-bank", {"compare": "neighbors"}, UnknownNameError, "Did you mean 'neighbours'"),
    ("mod", {"keep": 0.0}, BudgetError, "keep is a share above 0 and at most 1, got 0.0"),
    ("mod", {"layers": "interlaced"}, UnknownNameError, "Did you mean 'interleaved'"),
    ("mod", {"layers": (0, 2)}, BudgetError, r"indices of layers from 1, such as \(1, 3\), got \(0, 2\)"),
    ("mod", {"router": "infinipot-v"}, UnknownNameError, "InfiniPotV cannot be a router"),
    ("mod", {"router": "snapkv", "base": "hermes"}, BudgetError, "need inputs with settings of their own"),
    ("novelty", {"reference": "patches"}, UnknownNameError, "Did you mean 'patch'"),
    ("novelty", {"last_frame": -0.1}, BudgetError, "got -0.1"),
    ("kvzip", {"probe": 0}, BudgetError, "probe must be at least one token, got 0"),
    ("lagkv", {"sinks": -1}, BudgetError, "sinks must not be negative, got -1"),
    ("lagkv", {"lag": 0}, BudgetError, "lag must be at least 1 entry, got 0"),
    ("leverage", {"sketch": 0}, BudgetError, "sketch must be at least 1 dimension, got 0"),
    ("leverage", {"seed": -1}, BudgetError, "seed must not be negative, got -1"),
    (
        "per-layer",
        {"base": "per-layer"},
        BudgetError,
        "PerLayer makes layers differ and cannot be the base of PerLayer",
    ),
    ("per-layer", {"shares": ()}, BudgetError, "shares must be one or more"),
    ("per-layer", {"shares": (1, 0)}, BudgetError, "above zero"),
    ("per-layer", {"base": "key-nrom"}, UnknownNameError, "Did you mean 'key-norm'"),
    ("pyramid", {"beta": 0.5}, BudgetError, "beta must be at least 1, got 0.5"),
    ("pyramid", {"beta": float("nan")}, BudgetError, "got nan"),
    ("dual-rate", {"q": 0}, BudgetError, "q must be at least 1 frame, got 0"),
    ("dual-rate", {"base": "average-pooling"}, BudgetError, "AveragePooling merges entries"),
    ("dual-rate", {"base": "per-layer"}, BudgetError, "wrap it around DualRate"),
    ("vfl-drop", {"n": 0}, BudgetError, "n must be at least 1, got 0"),
    ("vfl-drop", {"left": 0}, BudgetError, "left must be at least 1, got 0"),
    ("per-layer", {"shares": ()}, BudgetError, "shares must be one or more"),
    ("per-layer", {"shares": (1, 0)}, BudgetError, "above zero"),
    ("per-layer", {"base": "key-nrom"}, UnknownNameError, "Did you mean 'key-norm'"),
    ("reconstruction", {"ridge": 0.0}, BudgetError, "ridge must be above zero, got 0.0"),
    ("rekv", {"share": 0.0}, BudgetError, "share must be above 0 and at most 1, got 0.0"),
    ("slots", {"top_k": 0}, BudgetError, "top_k must be at least 1, got 0"),
    ("slots", {"temperature": float("nan")}, BudgetError, "got nan"),
    ("sink-window", {"sinks": -1}, BudgetError, "got -1"),
    ("snapkv", {"window": 0}, BudgetError, "at least one query"),
    ("snapkv", {"kernel": 4}, BudgetError, "odd"),
    ("standby", {"n": 0}, BudgetError, "got 0"),
    ("standby", {"tokens": torch.zeros(8)}, BudgetError, r"\(n, vision width\), got \(8,\)"),
    ("standby-novelty", {"n": -1}, BudgetError, "got -1"),
    ("standby-novelty", {"reference": "globe"}, UnknownNameError, "Did you mean 'global'"),
    ("tar", {"recent_ratio": 2}, BudgetError, "got 2"),
    ("tar", {"entries": "strict"}, UnknownNameError, "tracked"),
    ("transv", {"layer": -1}, BudgetError, "index of a layer, from 0, got -1"),
    ("transv", {"alpha": float("nan")}, BudgetError, "alpha must be a finite number, got nan"),
    ("van", {"entries": "trackd"}, UnknownNameError, "Did you mean 'tracked'"),
    ("van", {"pooling": "variaton"}, UnknownNameError, "Did you mean 'variation'"),
    ("van", {"thresholds": (0.3, 0.2, 0.4)}, BudgetError, "three ascending numbers"),
    ("infinipot-v", {"thresholds": (0.1, 0.2)}, BudgetError, "three ascending numbers"),
]


@pytest.mark.parametrize(("name", "settings", "error", "message"), WRONG_SETTINGS)
def test_wrong_settings(name: str, settings: dict[str, Any], error: type[KVPressVideoError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_method(name, **settings)


def test_full_cannot_compress() -> None:
    keys = torch.randn(2, 12, 4)
    assert select("full", keys, keys, grid=(1, 3, 4), keep=12).tolist() == [list(range(12))] * 2
    with pytest.raises(BudgetError, match="100%"):
        make_method("full").compress(footage(), 119)


@pytest.mark.parametrize("method", ["standby", "standby-novelty", "detachable"])
def test_importance_that_was_not_captured(method: str) -> None:
    entries = footage()
    places = entries.places.clone()
    places[0, :, 7, Places.IMPORTANCE] = torch.nan
    with pytest.raises(MissingInputError, match="importance"):
        make_method(method).compress(replace(entries, places=places), 60)


def test_queries_that_were_not_captured() -> None:
    entries = footage()
    with pytest.raises(MissingInputError, match="queries"):
        make_method("snapkv").compress(replace(entries, context=replace(entries.context, queries=None)), 60)


def test_a_sink_window_without_a_window() -> None:
    with pytest.raises(BudgetError, match="at least 5"):
        make_method("sink-window").compress(footage(), 4)


def test_official_needs_whole_frames() -> None:
    ragged = footage().slice(5, GRID.tokens)
    for name in ("tar", "infinipot-v"):
        with pytest.raises(BudgetError, match="12 patches, but 115 entries leave 7 over: use entries='tracked'"):
            make_method(name, entries="official").compress(ragged, 36)


def test_learned_tokens_set_their_number() -> None:
    for name in ("standby", "standby-novelty"):
        method = make_method(name, tokens=torch.zeros(16, 32))
        assert method.describe()["n"] == 16
        assert method.describe()["tokens"] == [16, 32]


@pytest.mark.parametrize("wrapper", [{"method": "detachable", "scorer": "standby-novelty"},
                                     {"method": "chunk", "base": "standby-novelty"},
                                     {"method": "per-layer", "base": "standby-novelty"}])  # fmt: skip
def test_wrappers_ask_for_what_the_wrapped_method_needs(wrapper: dict[str, Any]) -> None:
    method = make_method(**wrapper)
    assert method.needs == {"vision_attention"}
    assert method.observer == make_method("standby-novelty")


def test_tags_of_another_segment_change_only_the_random_sample() -> None:
    entries = footage()
    other = replace(entries, tags=entries.tags + torch.eye(Tags.WIDTH, dtype=torch.int32)[Tags.SEGMENT])
    made = {name: make_method(name) for name in METHODS}
    changed = [name for name in made if not torch.equal(made[name].select(entries, 36), made[name].select(other, 36))]
    assert changed == ["random"]


def on_cuda(entries: Entries) -> Entries:
    queries, rope, weight = entries.context.queries, entries.context.rope, entries.context.output_weight
    assert queries is not None
    assert rope is not None
    assert weight is not None
    queries = replace(queries, **{part.name: getattr(queries, part.name).cuda() for part in fields(queries)})
    rope = replace(rope, frequencies=rope.frequencies.cuda(), axes=rope.axes.cuda())
    context = replace(entries.context, queries=queries, rope=rope, output_weight=weight.cuda())
    moved = {name: getattr(entries, name).cuda() for name in ("keys", "values", "tags", "places")}
    return replace(entries, **moved, context=context)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_method
@pytest.mark.parametrize("passes", [1, 2])
def test_on_a_gpu_as_on_the_host_without_waiting_for_it(method: Compressor, passes: int) -> None:
    entries = footage(Grid(24, 12, 12), batch=2, layer=1)
    if passes == 2:
        entries = second_pass(method, entries, 1440, frames=20)
    expected, moved = method.compress(entries, 1440), on_cuda(entries)
    first = method.compress(moved, 1440)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = method.compress(moved, 1440)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert same(first, kept)
    check_kept(kept, moved, 1440)
    assert (kept.index.cpu() == expected.index).float().mean() > 0.99  # rounding may swap two that nearly tie
