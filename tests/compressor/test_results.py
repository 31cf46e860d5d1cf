"""Validation of results: an unusable one is an error that names the method, layer, pass and entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, Kept, Places, make_method, top
from kvpress_video.contract.random_entries import GRID, first_frames, footage, later
from kvpress_video.errors import BudgetError, KVPressVideoError, MethodError

KEEP = 24
FIRST = r"in layer 0 \(first pass, 120 entries in 10 whole frames; 24 to keep\): "


def scored(entries: Entries) -> Tensor:
    return entries.keys.norm(dim=-1)


@dataclass(frozen=True)
class Scores(Compressor):
    change: Callable[[Tensor], Any]

    def scores(self, entries: Entries) -> Any:
        return self.change(scored(entries))


@dataclass(frozen=True)
class Selects(Compressor):
    change: Callable[[Tensor], Any]

    def select(self, entries: Entries, keep: int) -> Any:
        return self.change(top(scored(entries), keep))


@dataclass(frozen=True)
class Reduces(Compressor):
    change: Callable[[Tensor], Any]

    def reduce(self, entries: Entries, keep: int) -> Any:
        return self.change(top(scored(entries), keep))


@dataclass(frozen=True)
class Merges(Compressor):
    """Replaces parts of the entries that stay, or all of them."""

    parts: dict[str, Callable[[Tensor], Any]] = field(default_factory=dict)
    whole: Callable[[Entries, Entries], Any] = lambda kept, entries: kept

    def reduce(self, entries: Entries, keep: int) -> Kept:
        slots = top(scored(entries), keep)
        kept = entries.gather(slots)
        changed = {name: change(getattr(kept, name)) for name, change in self.parts.items()}
        return Kept(slots, self.whole(replace(kept, **changed), entries))


def with_one_nan(scores: Tensor) -> Tensor:
    scores = scores.clone()
    scores[0, 1, 7] = torch.nan
    return scores


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores * torch.nan, "240 of 240 scores are NaN"),
        (with_one_nan, "1 of 240 scores are NaN"),
        (lambda scores: scores[..., :-1], r"shape \(1, 2, 119\): expected .* \(1, 2, 120\)"),
        (lambda scores: torch.cat([scores, scores], dim=-1), r"shape \(1, 2, 240\)"),
        (lambda scores: scores[:, :1], r"shape \(1, 1, 120\)"),
        (lambda scores: scores[0], r"shape \(2, 120\)"),
        (lambda scores: scores.sum(), r"shape \(\)"),
        (lambda scores: scores.to(torch.complex64), "torch.complex64 tensor.*real floating-point"),
        (lambda scores: scores.long(), "torch.int64 tensor.*real floating-point"),
        (lambda scores: scores > 0, "torch.bool tensor.*real floating-point"),
        (lambda scores: scores.to("meta"), "on meta, the entries are on cpu"),
        (lambda scores: scores.tolist(), "returned list"),
        (lambda scores: None, "returned NoneType"),
    ],
)
def test_scores_that_rank_nothing(change: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^Scores {FIRST}.*{message}"):
        Scores(change).compress(footage(), KEEP)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda slots: slots[0, 0], MethodError, r"shape \(24,\): expected \(batch, kv_heads, keep\) = \(1, 2, 24\)"),
        (lambda slots: slots[:, :1], MethodError, r"shape \(1, 1, 24\)"),
        (lambda slots: slots[None], MethodError, r"shape \(1, 1, 2, 24\)"),
        (lambda slots: slots.int(), MethodError, "torch.int32 tensor.*int64"),
        (lambda slots: slots.float(), MethodError, "torch.float32 tensor.*int64"),
        (lambda slots: slots > 3, MethodError, "torch.bool tensor.*int64"),
        (lambda slots: slots.to("meta"), MethodError, "on meta, the entries are on cpu"),
        (lambda slots: slots.tolist(), MethodError, "list as slots"),
        (lambda slots: None, MethodError, "NoneType as slots"),
        (lambda slots: slots[..., :-1], BudgetError, "kept 23 entries where 24 were asked for"),
        (lambda slots: slots.flip(-1), BudgetError, r"ascending order, but \d+ follows a higher slot: sort them"),
        (lambda slots: slots * 0, BudgetError, "slot 0 is selected more than once: select different entries"),
        (lambda slots: slots + GRID.tokens, BudgetError, "between 0 and 119, got 1[2-9][0-9] to 2"),
        (lambda slots: slots - GRID.tokens, BudgetError, "between 0 and 119, got -1"),
    ],
)
@pytest.mark.parametrize("kind", [Selects, Reduces])
def test_slots_that_are_none(kind: Any, change: Any, error: type[KVPressVideoError], message: str) -> None:
    method = kind(change if kind is Selects else lambda slots: Kept(change(slots)))
    with pytest.raises(error, match=f"^{kind.__name__} {FIRST}.*{message}"):
        method.compress(footage(), KEEP)


def test_slots_are_validated_without_a_model_as_well() -> None:
    keys = torch.randn(2, GRID.tokens, 8)
    with pytest.raises(MethodError, match=r"Selects in layer 3 .*it returned slots of shape \(24,\)"):
        kv.select(Selects(lambda slots: slots[0, 0]), keys, keys, grid=GRID, keep=KEEP, layer=3, layers=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda slots: slots, r"reduce\(\) returned a torch.int64 tensor .*return Kept\(slots\)"),
        (lambda slots: (slots, None), r"reduce\(\) returned tuple"),
        (lambda slots: None, r"reduce\(\) returned NoneType"),
        (lambda slots: Kept, r"reduce\(\) returned the class Kept"),
        (lambda slots: Kept(slots, slots), r"torch.int64 tensor .* as merged entries"),
    ],
)
def test_results_that_are_not_kept(change: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^Reduces {FIRST}.*{message}"):
        Reduces(change).compress(footage(), KEEP)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"keys": lambda keys: keys * torch.nan}, "merged keys hold NaN"),
        ({"keys": lambda keys: keys / 0}, "merged keys hold NaN or infinity"),
        ({"values": lambda values: values * torch.nan}, "merged values hold NaN"),
        ({"places": lambda places: places * torch.nan}, "merged positions hold NaN"),
        ({"keys": lambda keys: keys.to(torch.complex64)}, "merged keys are torch.complex64 on cpu: expected torch.flo"),
        ({"keys": lambda keys: keys.double()}, "merged keys are torch.float64 on cpu"),
        ({"values": lambda values: values.half()}, "merged values are torch.float16 on cpu"),
        ({"values": lambda values: values.to("meta")}, "merged values are torch.float32 on meta"),
        ({"keys": lambda keys: keys[..., :4]}, r"merged keys are .*\(1, 2, 24, 4\): expected shape \(1, 2, 24, 8\)"),
        ({"values": lambda values: values[..., :4]}, r"merged values are .*\(1, 2, 24, 4\)"),
        ({"places": lambda places: places[..., :3]}, r"merged places are .*\(1, 2, 24, 3\)"),
        ({"keys": lambda keys: keys[:, :, 1:]}, r"merged keys are .*\(1, 2, 23, 8\)"),
        ({"keys": lambda keys: keys[0]}, r"merged keys are .*\(2, 24, 8\)"),
        ({"keys": lambda keys: None}, "merged keys are NoneType"),
    ],
)
def test_merged_entries_that_cannot_be_cached(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=f"^Merges {FIRST}{message}"):
        Merges(parts).compress(footage(), KEEP)


def test_merged_entries_may_not_be_the_cache() -> None:
    with pytest.raises(MethodError, match="merged keys share memory with the cache: clone them"):
        Merges(whole=lambda kept, entries: entries.slice(0, KEEP)).compress(footage(), KEEP)


def test_an_importance_that_was_not_captured_may_be_merged() -> None:
    def forget(places: Tensor) -> Tensor:
        return places.index_fill(-1, torch.tensor([Places.IMPORTANCE]), torch.nan)

    assert Merges({"places": forget}).compress(footage(), KEEP).importance.isnan().all()


@pytest.mark.parametrize("part", ["keys", "values", "tags", "places"])
def test_a_method_may_not_write_to_the_cache(part: str) -> None:
    def write(entries: Entries) -> None:
        getattr(entries, part)[..., 0, :] = 0

    entries = footage()
    entries = replace(entries, tags=entries.tags.clone())
    with pytest.raises(MethodError, match=f"{FIRST}it changed the cached entries in place.*clone"):
        Raises(write).compress(entries, KEEP)


def test_entries_under_inference_mode_are_compressed() -> None:
    """Their writes are not counted."""
    with torch.inference_mode():
        assert len(Selects(lambda slots: slots).compress(footage(), KEEP)) == KEEP


@dataclass(frozen=True)
class Raises(Compressor):
    """Does something with the entries before it keeps those with the longest keys."""

    act: Callable[[Entries], Any]

    def scores(self, entries: Entries) -> Tensor:
        self.act(entries)
        return scored(entries)


def test_an_exception_of_a_method_says_where_it_came_from() -> None:
    with pytest.raises(MethodError, match=f"^Raises {FIRST}KeyError: 'lost'") as caught:
        Raises(lambda entries: {}["lost"]).compress(footage(), KEEP)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [BudgetError("mine"), kv.MissingInputError("mine"), torch.OutOfMemoryError("mine"),
                                   MemoryError("mine"), KeyboardInterrupt("mine")])  # fmt: skip
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    def fail(entries: Entries) -> None:
        raise error

    with pytest.raises(type(error), match=r"^mine$") as caught:
        Raises(fail).compress(footage(), KEEP)
    assert caught.value is error


def fail(entries: Entries) -> None:
    raise ValueError("lost")


@pytest.mark.parametrize(
    ("kept", "frames", "described"),
    [
        (41, 7, "later pass, 77 of 120 entries left, in partial frames"),
        (36, 7, "later pass, 72 of 120 entries left, in partial frames"),  # as many as fill six frames
        (None, 7, "later pass, 60 of 120 entries left, in whole frames"),
    ],
)
def test_errors_of_a_later_pass_say_so(kept: int | None, frames: int, described: str) -> None:
    early = first_frames(footage(layer=2), frames)
    if kept is None:
        survivors = early.gather(torch.arange(12, 36).expand(1, 2, -1))
    else:
        survivors = Selects(lambda slots: slots).compress(early, kept)
    with pytest.raises(MethodError, match=rf"^Raises in layer 2 \({described}; 24 to keep\): ValueError: lost"):
        Raises(fail).compress(later(survivors, footage(layer=2), frames), KEEP)


@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_model_that_overflowed_is_named_as_the_cause(part: str) -> None:
    entries = footage()
    overflowed = replace(entries, **{part: getattr(entries, part).clone().fill_(torch.inf)})
    method = Scores(lambda scores: scores * torch.nan)
    with pytest.raises(MethodError, match="The model's own keys or values hold NaN or infinity"):
        method.compress(overflowed, KEEP)
    with pytest.raises(MethodError, match=r"so guard divisions by zero\.$"):
        method.compress(entries, KEEP)


@pytest.mark.parametrize("name", ["detachable:scorer=mine", "hermes"])
def test_methods_that_rank_by_other_scores_refuse_nan(name: str) -> None:
    """Sorting takes NaN for the highest score, without a word."""
    entries = footage(layer=3)
    if name == "hermes":
        queries = entries.context.queries
        assert queries is not None
        broken = replace(queries, states=queries.states * torch.nan)
        entries = replace(entries, context=replace(entries.context, queries=broken))
        method = make_method("hermes")
    else:
        method = make_method("detachable", scorer=Scores(lambda scores: scores * torch.nan))
    with pytest.raises(MethodError, match="scores are NaN"):
        method.compress(entries, 60)


def test_a_selection_by_nan_scores_is_refused_as_well() -> None:
    """`top` sorts NaN first on its own, and refuses it within a call of a method."""
    scores = torch.tensor([1.0, torch.nan, 3.0, 2.0])
    assert top(scores, 2).tolist() == [1, 2]
    method = Raises(lambda entries: top(scores, 2))
    with pytest.raises(MethodError, match=f"{FIRST}1 of 4 scores are NaN"):
        method.compress(footage(), KEEP)
    assert top(scores, 2).tolist() == [1, 2]


def test_where_looking_is_not_free_nan_becomes_the_lowest_score() -> None:
    """Nothing is read: the scores have no values to read."""
    entries = footage()
    nowhere = replace(
        entries, **{part: getattr(entries, part).to("meta") for part in ("keys", "values", "tags", "places")}
    )
    assert Scores(lambda scores: scores * torch.nan).compress(nowhere, KEEP).keys.is_meta


@pytest.mark.parametrize("scores", [torch.zeros(4, dtype=torch.complex64), torch.zeros(4, dtype=torch.bool)])
def test_top_takes_real_numbers(scores: Tensor) -> None:
    with pytest.raises(MethodError, match="real numbers"):
        top(scores, 2)
    assert top(torch.tensor([3, 1, 2]), 2).tolist() == [0, 2]


def test_top_takes_no_negative_number() -> None:
    with pytest.raises(BudgetError, match="cannot keep -1 of 4"):
        top(torch.zeros(4), -1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nan_on_a_gpu_ranks_lowest_without_waiting() -> None:
    entries = footage()
    moved = replace(entries, **{part: getattr(entries, part).cuda() for part in ("keys", "values", "tags", "places")})
    method = Scores(with_one_nan)
    method.compress(moved, GRID.tokens - 1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = method.compress(moved, GRID.tokens - 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert 7 not in kept.index[0, 1].tolist()
