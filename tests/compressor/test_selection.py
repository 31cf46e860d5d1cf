"""`select()` on bare tensors: every method, with what it needs given, as in a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import zoo
from generation import METHODS, answer, model_of, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Context, Entries, Kept, Rope, make_method, top
from kvpress_video.compressor.base import NEEDS
from kvpress_video.contract.random_entries import GRID, HEAD_DIM, ROPE, footage

PREFIX, HEADS = 5, 2
ENTRIES = footage()
DRAW = torch.Generator().manual_seed(3)
TEXT = torch.randn(2, HEADS, PREFIX, HEAD_DIM, generator=DRAW)
KEYS, VALUES = (
    torch.cat([text, part[0]], dim=1) for text, part in zip(TEXT, (ENTRIES.keys, ENTRIES.values), strict=True)
)
QUERIES = torch.randn(2 * HEADS, 40, HEAD_DIM, generator=DRAW)
IMPORTANCE = ENTRIES.importance[0, 0]
GIVEN = {"importance": IMPORTANCE, "queries": QUERIES, "rope": ROPE, "context": ENTRIES.context}
ARGUMENTS = {
    "queries": "queries",
    "probe": "queries",
    "reconstruction": "queries",
    "vision_attention": "importance",
    "rope": "rope",
}


def selected(method: Any, keep: int | str = "25%", **options: Any) -> Tensor:
    return kv.select(method, KEYS, VALUES, grid=GRID, keep=keep, prefix=PREFIX, layers=4, **options)


SERVED = [name for name in METHODS if make_method(name).needs <= ARGUMENTS.keys() | set(vars(ENTRIES.context))]


def test_serves_nearly_all() -> None:
    assert len(SERVED) > 17


@pytest.mark.parametrize("name", SERVED)
def test_serves_every_method(name: str) -> None:
    chosen = selected(name, "50%", **GIVEN)
    assert chosen.shape == (HEADS, GRID.tokens // 2)
    assert (chosen.diff(dim=-1) > 0).all()
    assert torch.equal(chosen, selected(name, GRID.tokens // 2, **GIVEN))


@pytest.mark.parametrize("name", METHODS)
def test_names_the_argument_that_is_missing(name: str) -> None:
    for need in make_method(name).needs & ARGUMENTS.keys():
        given = {argument: value for argument, value in GIVEN.items() if argument != ARGUMENTS[need]}
        with pytest.raises(kv.MissingInputError, match=f"needs .*'{need}'.* pass {ARGUMENTS[need]}=…,"):
            selected(name, **given)


def test_several_missing_arguments_are_named_together() -> None:
    with pytest.raises(kv.MissingInputError, match=r"StreamMem needs 'probe' and 'rope'.* pass queries=… and rope=…"):
        selected("streammem")


def test_every_need_has_an_argument_or_an_error_that_says_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "audio", ())

    @dataclass(frozen=True)
    class Hears(Compressor):
        needs: ClassVar[frozenset[str]] = frozenset({"audio"})

        def scores(self, entries: Entries) -> Tensor:
            return entries.keys.norm(dim=-1)

    with pytest.raises(kv.MissingInputError, match="Hears needs 'audio', which bare tensors do not hold: use kv"):
        selected(Hears(), **GIVEN)


def test_other_needs_are_read_from_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "loudness", ())

    @dataclass(frozen=True)
    class Louder(Context):
        loudness: Tensor | None = None

    @dataclass(frozen=True)
    class Hears(Compressor):
        needs: ClassVar[frozenset[str]] = frozenset({"loudness"})

        def scores(self, entries: Entries) -> Tensor:
            context: Any = entries.context
            found: Tensor = context.loudness
            return found

    loudness = torch.rand(1, HEADS, GRID.tokens)
    assert torch.equal(selected(Hears(), 30, context=Louder(loudness=loudness)), top(loudness, 30)[0])
    with pytest.raises(kv.MissingInputError, match=r"needs 'loudness'.* pass context=Context\(loudness=…\)"):
        selected(Hears(), context=Louder())


def test_attention_is_that_of_the_formula() -> None:
    """A softmax over all keys, those of the prefix included, of the last `window` queries."""
    states = QUERIES[:, -7:].double().unflatten(0, (HEADS, -1)) / HEAD_DIM**0.5
    paid = (states @ KEYS.double()[:, None].transpose(-1, -2)).softmax(dim=-1)[..., PREFIX:].mean(dim=(1, 2))
    expected = top(paid, 30)
    assert torch.equal(selected("snapkv", 30, queries=QUERIES, window=7, kernel=1), expected)
    assert not torch.equal(selected("snapkv", 30, queries=QUERIES, window=9, kernel=1), expected)
    assert torch.equal(selected("snapkv", 30, queries=QUERIES[:, -7:], kernel=1), expected)


def test_positions_are_those_that_keys_are_rotated_to() -> None:
    """Rotated to the given positions, keys are un-rotated to what they were."""
    plain, positions = ENTRIES.keys[0].clone(), ENTRIES.position[0, 0] * torch.tensor([3.0, 1, 1]) + 11
    rotated = torch.cat([TEXT[0], ROPE.rotate(plain, positions)], dim=1)
    still = Rope(ROPE.frequencies * 0, ROPE.axes)

    def frames(keys: Tensor, **options: Any) -> Tensor:
        return kv.select("memory-bank", keys, VALUES, grid=GRID, keep=36, prefix=PREFIX, **options)

    expected = frames(torch.cat([TEXT[0], plain], dim=1), rope=still)
    assert torch.equal(frames(rotated, rope=ROPE, positions=positions), expected)


def test_a_method_that_only_merges_is_served() -> None:
    @dataclass(frozen=True)
    class Halves(Compressor):
        def reduce(self, entries: Entries, keep: int) -> Kept:
            slots = top(entries.values.norm(dim=-1), keep)
            return Kept(slots, replace(entries.gather(slots), keys=entries.gather(slots).keys / 2))

    assert torch.equal(selected(Halves(), 30), selected("van", 30))


def test_importance_reaches_the_method() -> None:
    expected = IMPORTANCE.topk(30).indices.sort().values.expand(HEADS, -1)
    assert torch.equal(selected("standby", 30, importance=IMPORTANCE), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": IMPORTANCE[:-1]}, r"importance of shape \(119,\) must be \(120,\)"),
        ({"positions": torch.zeros(120, 2)}, r"positions of shape \(120, 2\) must be \(120, 3\)"),
        ({"queries": QUERIES[:3]}, r"queries of shape \(3, 40, 8\) must be .*multiple of the 2 KV heads"),
        ({"queries": QUERIES[..., :4]}, r"must be \(attention_heads, n, 8\)"),
        ({"queries": QUERIES[:, :0]}, r"queries of shape \(4, 0, 8\)"),
        (
            {"grid": (9, 3, 4), "suffix": 12, "importance": None},
            "40 queries cannot be those of the 12 tokens in the suffix",
        ),
        ({"keep": "quarter"}, "keep='quarter': give a number of entries, or a share such as '25%'"),
        ({"keep": 121}, "between 1 and the 120 visual entries, got 121"),
        ({"keep": "0%"}, "got '0%'"),
        ({"grid": (10, 3, 5)}, r"5 \+ 10·3·5 \+ 0 = 155"),
        ({"grid": (40, 3)}, r"three whole numbers above zero, \(frames, rows, columns\), got \(40, 3\)"),
        ({"grid": (10.0, 3, 4)}, r"got \(10.0, 3, 4\)"),
        ({"grid": (-10, -3, 4)}, "three whole numbers above zero"),
        ({"grid": "10×3×4"}, "got '10×3×4'"),
        ({"prefix": -1}, "prefix must be a number of text entries from 0, got -1"),
        ({"layer": 4, "layers": 4}, "one of 4 layers, from 0, got 4"),
        ({"layer": -1}, "got -1"),
        ({"importance": IMPORTANCE.tolist()}, "importance must be a torch tensor, got list"),
        ({"queries": QUERIES.numpy()}, "queries must be a torch tensor, got ndarray"),
    ],
)
def test_unusable_inputs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(kv.BudgetError, match=message):
        kv.select(
            "snapkv", KEYS, VALUES, **{"grid": GRID, "keep": 30, "prefix": PREFIX, "window": 40, **GIVEN, **options}
        )


@pytest.mark.parametrize("name", ["snapkv:window=4", "hermes:probe=3,shallow=0,deep=1,summary=False", "memory-bank"])
def test_selects_what_a_model_keeps(name: str) -> None:
    """The queries, keys and positions of a model's first layer, given by hand."""
    family = zoo.FAMILIES[0]
    model, prompt = model_of(family, "eager"), video_prompt(family)
    inputs, slots = zoo.inputs(model, [prompt]), zoo.expected_layout(family, prompt)
    first, last = slots[0].token, slots[-1].token + 1
    attention, text = zoo.attentions(model)[0], model.get_decoder()
    hidden = given_to(attention, "hidden_states", model, inputs)
    positions = given_to(text, "position_ids", model, inputs)[-3:, 0].T
    rope = Rope.of(text)

    def projected(layer: Any) -> Tensor:
        return layer(hidden)[0].unflatten(-1, (-1, 16)).transpose(0, 1)

    with kv.compress(model, name, 18, prefill="whole") as run:
        answer(model, inputs, new=1)
    kept = run.kept[0][0]
    chosen = kv.select(
        name,
        rope.rotate(projected(attention.k_proj), positions),
        projected(attention.v_proj),
        grid=(6, *zoo.grid(family)),
        keep=18,
        prefix=first,
        suffix=len(positions) - last,
        layers=4,
        queries=rope.rotate(projected(attention.q_proj), positions)[:, last:],
        rope=rope,
        positions=positions[first:last],
    )
    visual = torch.stack([head[(head >= first) & (head < last)] - first for head in kept])
    assert torch.equal(chosen, visual)


def given_to(module: Any, name: str, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Argument of a module in the prefill, by name."""
    seen: dict[str, Any] = {}
    handle = module.register_forward_pre_hook(lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True)
    try:
        answer(model, inputs, new=1)
    finally:
        handle.remove()
    found: Tensor = seen[name]
    return found
