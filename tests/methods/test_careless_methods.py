"""Careless methods in the whole chain: each is refused where it fails, and the model is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import zoo
from generation import answer, model_of, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, Kept, top

FAMILY = zoo.FAMILIES[0]


def scored(entries: Entries) -> Tensor:
    return entries.keys.float().norm(dim=-1)


@dataclass(frozen=True)
class Careless(Compressor):
    mistake: Callable[[Entries, int], Any]

    def reduce(self, entries: Entries, keep: int) -> Any:
        return self.mistake(entries, keep)


@dataclass(frozen=True)
class CarelessScores(Compressor):
    mistake: Callable[[Entries], Any]

    def scores(self, entries: Entries) -> Any:
        return self.mistake(entries)


def merged(change: Callable[[Tensor], Tensor]) -> Careless:
    def merge(entries: Entries, keep: int) -> Kept:
        slots = top(scored(entries), keep)
        kept = entries.gather(slots)
        return Kept(slots, replace(kept, keys=change(kept.keys)))

    return Careless(merge)


@pytest.mark.parametrize("capped", [False, True], ids=["one pass", "chunks"])
@pytest.mark.parametrize(
    "method",
    [
        CarelessScores(lambda entries: scored(entries) * torch.nan),
        CarelessScores(lambda entries: scored(entries)[..., :-1]),
        CarelessScores(lambda entries: scored(entries)[0, 0]),
        CarelessScores(lambda entries: scored(entries).to("meta")),
        CarelessScores(lambda entries: entries.values @ entries.keys),
        Careless(lambda entries, keep: top(scored(entries), keep)),
        Careless(lambda entries, keep: Kept(top(scored(entries), keep).flip(-1))),
        Careless(lambda entries, keep: Kept(top(scored(entries), keep) + len(entries))),
        Careless(lambda entries, keep: Kept(top(scored(entries), keep - 1))),
        merged(lambda keys: keys * torch.nan),
        merged(lambda keys: keys[..., :4]),
        merged(lambda keys: keys.double()),
    ],
)  # fmt: skip
def test_a_careless_method_is_refused(method: Compressor, capped: bool) -> None:
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    before = answer(model, inputs).logits
    with (
        kv.compress(model, method, 20 if capped else "50%", chunk=24 if capped else None),
        pytest.raises(kv.KVPressVideoError, match=rf"{type(method).__name__} in layer 0 \(first pass, \d+ entries in"),
    ):
        answer(model, inputs)
    assert torch.equal(answer(model, inputs).logits, before)


def test_a_mistake_that_shows_in_a_later_pass_alone_names_that_pass() -> None:
    """The method reshapes scores to whole frames, which survivors do not fill."""
    method = CarelessScores(lambda entries: scored(entries).unflatten(-1, (-1, entries.grid.patches)).flatten(-2))
    model = model_of(FAMILY)
    inputs = zoo.inputs(model, [video_prompt(FAMILY)])
    with kv.compress(model, method, "50%"):
        answer(model, inputs)
    with (
        kv.compress(model, method, 20, chunk=24),
        pytest.raises(kv.MethodError, match=r"layer 0 \(later pass, \d+ of \d+ entries left, in partial frames"),
    ):
        answer(model, inputs)
