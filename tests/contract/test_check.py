"""`check_method()`: a sound method passes, and of a careless one it says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, Kept, top
from kvpress_video.compressor.base import NEEDS
from kvpress_video.compressor.registry import method_names
from kvpress_video.contract import check
from kvpress_video.contract.on_entries import ON_ENTRIES
from kvpress_video.contract.on_models import on_model

QUICK = ("full", "standby")
FAMILY = "qwen2_5_vl"


def length(entries: Entries) -> Tensor:
    return entries.keys.float().norm(dim=-1)


@dataclass(frozen=True)
class Sound(Compressor):
    """Keep the longest keys."""

    def scores(self, entries: Entries) -> Any:
        return length(entries)


@dataclass(frozen=True)
class Scores(Compressor):
    change: Callable[[Entries], Any]

    def scores(self, entries: Entries) -> Any:
        return self.change(entries)

    def describe(self) -> dict[str, object]:
        return {"change": "a function"}


@dataclass(frozen=True)
class Reduces(Compressor):
    change: Callable[[Entries, int], Any]

    def reduce(self, entries: Entries, keep: int) -> Any:
        return self.change(entries, keep)

    def describe(self) -> dict[str, object]:
        return {"change": "a function"}


@dataclass(frozen=True)
class Remembers(Compressor):
    calls: list[int] = field(default_factory=list)

    def scores(self, entries: Entries) -> Tensor:
        self.calls.append(0)
        return length(entries) * (-1) ** len(self.calls)


@dataclass(frozen=True)
class Misspelt(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"query"})


@dataclass(frozen=True)
class Greedy(Sound):
    def layer_budget(self, keep: int, layer: int, layers: int) -> int:
        return keep + layer


@dataclass(frozen=True)
class Banks(Sound):
    def banked(self, entries: Entries) -> int:
        return len(entries) + 1


@dataclass(frozen=True)
class HidesSettings(Sound):
    share: float = 0.5

    def describe(self) -> dict[str, object]:
        return {}


@dataclass(frozen=True)
class TensorSetting(Sound):
    weights: Tensor = field(default_factory=lambda: torch.ones(3))


@dataclass(frozen=True)
class Refuses(Sound):
    def select(self, entries: Entries, keep: int) -> Tensor:
        raise kv.BudgetError("not today")


@dataclass(frozen=True)
class InputOnly(Sound):
    stages: ClassVar[tuple[str, ...]] = ("input",)

    def select(self, entries: Entries, keep: int) -> Tensor:
        if entries.values.shape[-1] == 0:
            return top(entries.values.norm(dim=-1), keep - 1)
        return super().select(entries, keep)


def overwrite(entries: Entries) -> Tensor:
    entries.keys.float().numpy()[...] = 0.0
    return length(entries) + entries.frame


def halved(entries: Entries, keep: int) -> Kept:
    slots = top(length(entries), keep)
    return Kept(slots, replace(entries.gather(slots), keys=entries.gather(slots).keys / 2))


def in_fp32(entries: Entries, keep: int) -> Kept:
    slots = top(length(entries), keep)
    return Kept(slots, replace(entries.gather(slots), keys=entries.gather(slots).keys.float()))


def standardised(entries: Entries) -> Tensor:
    frame = entries.frame.float()
    return length(entries) * (frame - frame.mean(-1, keepdim=True)) / frame.std(-1, keepdim=True)


def by_frame(entries: Entries) -> Tensor:
    return length(entries).unflatten(-1, (entries.grid.frames, -1)).softmax(dim=-1).flatten(-2)


def ranks_rows(entries: Entries) -> Tensor:
    return (entries.keys.float() - entries.keys.float().mean(0, keepdim=True)).norm(dim=-1) + length(entries) / 1e3


def whole_frames(entries: Entries, keep: int) -> Kept:
    slots = torch.arange(keep // entries.grid.patches * entries.grid.patches)
    return Kept(slots.expand(*entries.keys.shape[:2], -1))


def undeclared(entries: Entries) -> Tensor:
    queries: Any = entries.context.queries
    return length(entries) + queries.states.sum()


def unsorted(entries: Entries, keep: int) -> Kept:
    return Kept(length(entries).topk(keep).indices)


BROKEN: list[tuple[Any, str]] = [
    (Sound, r"Sound is a class: pass an instance, Sound\(…\)"),
    (Misspelt(), "need of Misspelt 'query'. Did you mean 'queries'"),
    (Scores(lambda entries: length(entries)[..., 1:]), r"shape \(1, 2, 119\): expected one score per entry"),
    (Scores(lambda entries: entries.frame), r"torch.int32 tensor .*e.g. scores.float\(\)"),
    (Scores(lambda entries: entries.key), r"has no attribute 'key' \(.*test_check.py, line \d+\)"),
    (Scores(standardised), "12 entries in 1 whole frame; 5 to keep.* 24 of 24 scores are NaN.*guard divisions"),
    (Scores(lambda entries: length(entries) * torch.inf), "all 120 entries of a head infinite scores.*guard overflows"),
    (Scores(undeclared), 'has no attribute .states.; entries.context.queries is None .*declare "queries" in needs'),
    (Scores(by_frame), "later pass.*in later passes the entries do not fill the grid: tell them by entries.frame"),
    (Scores(lambda entries: torch.rand(entries.keys.shape[:3])), "draw random numbers from a generator with a fixed"),
    (Remembers(), "keep nothing between calls"),
    (Scores(lambda entries: entries.keys.mul_(2).norm(dim=-1)), r"changed the cached entries in place: work on copies"),
    (Scores(overwrite), r"Scores changes the cached entries in place: work on copies, e.g. entries.keys.clone\(\)"),
    (Scores(ranks_rows), "a row in a batch of two than of the row alone: compare entries within a row only"),
    (Reduces(lambda entries, keep: top(length(entries), keep)), r"reduce\(\) returned a torch.int64.*return Kept\(sl"),
    (Reduces(unsorted), r"ascending order, but \d+ follows a higher slot: sort .* or select with top\("),
    (Reduces(whole_frames), "kept 24 entries where 35 were asked for: keep exactly as many, or raise BudgetError"),
    (Reduces(halved), "may keep all 120 entries of a first pass, and changes them"),
    (Reduces(in_fp32), "merged keys are torch.float32 on cpu: expected torch.bfloat16"),
    (Greedy(), r"layer_budget\(\) gives 8 layers 508 entries together, more than the 480"),
    (Banks(), r"banked\(\) of 120 entries returned 121: return at most 120"),
    (HidesSettings(), r"describe\(\) leaves out the settings share"),
    (TensorSetting(), "gives the setting weights as Tensor: result rows hold plain numbers"),
    (Refuses(), "Refuses refuses every budget that was tried, such as 24 of 120: not today"),
    (InputOnly(), "kept 23 entries where 24 were asked for"),
]


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FAMILIES", ())


@pytest.mark.usefixtures("without_models")
@pytest.mark.parametrize(("method", "message"), BROKEN)
def test_says_what_is_wrong(method: Any, message: str) -> None:
    with pytest.raises(kv.MethodError, match=message):
        kv.check_method(method)


@pytest.mark.usefixtures("without_models")
def test_one_cause_is_told_once_and_two_are_told_together() -> None:
    with pytest.raises(kv.MethodError) as caught:
        kv.check_method(Scores(lambda entries: length(entries)[..., 1:]))
    assert str(caught.value).startswith("Scores makes 1 mistake\n")
    assert str(caught.value).count("expected one score per entry") == 1

    @dataclass(frozen=True)
    class Both(Greedy):
        share: float = 0.5

        def describe(self) -> dict[str, object]:
            return {}

    with pytest.raises(kv.MethodError, match=r"Both makes 2 mistakes\n.*508 entries.*\n.*settings share"):
        kv.check_method(Both())


@pytest.mark.usefixtures("without_models")
def test_advice_makes_no_method_wrong() -> None:
    report = kv.check_method(Scores(lambda entries: entries.keys.norm(dim=-1)))
    (note,) = report.notes
    assert "score in fp32" in note
    assert not report.failed
    assert repr(report) == str(report)
    assert str(report).startswith(f"Scores passes all {len(report.passed)} checks\n")


@pytest.mark.usefixtures("without_models")
def test_what_random_entries_lack_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "audio", ())

    @dataclass(frozen=True)
    class Hears(Sound):
        needs: ClassVar[frozenset[str]] = frozenset({"audio"})

    assert kv.check_method(Hears()).notes == ("not tried on random entries, which lack audio",)


def test_a_method_that_needs_a_calibration_is_tried_on_models_that_store_it() -> None:
    report = kv.check_method("van:pooling=variation")
    assert "not tried on random entries: Pooling by variation needs the model's thresholds" in report.notes[0]
    assert sum(FAMILY in rule for rule in report.passed) >= 7


@pytest.mark.usefixtures("without_models")
def test_refusals_are_noted() -> None:
    (note,) = kv.check_method("sink-window", sinks=2).notes
    assert note.startswith("refuses budgets such as 0 of 120: A budget of 0 entries leaves no window after 2 sinks")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
                                  for name in method_names()])  # fmt: skip
def test_every_method_of_ours_keeps_the_contract(name: str) -> None:
    report = kv.check_method(name)
    assert not report.failed
    assert not any("fp32" in note for note in report.notes)
    assert sum(FAMILY in rule for rule in report.passed) >= {"full": 1, "router-similarity": 0}.get(name, 7)


def test_a_method_that_no_bundled_model_can_serve_is_not_tried_on_them() -> None:
    notes = kv.check_method("router-similarity").notes
    assert [note.partition(" is dense")[0] for note in notes] == [
        "not tried on qwen2_5_vl: Qwen2_5_VLForConditionalGeneration",
        "not tried on qwen3_vl: Qwen3VLForConditionalGeneration",
    ]


def breaks_only_in_models(change: Callable[[Entries], Tensor]) -> Scores:
    """The models' entries are those with more heads than the random ones."""
    return Scores(lambda entries: change(entries) if entries.keys.shape[1] > 2 else length(entries))


def test_what_goes_wrong_in_a_model_only_is_told() -> None:
    first_half = breaks_only_in_models(lambda entries: length(entries)[..., : len(entries) // 2])
    with pytest.raises(kv.MethodError, match=r"Scores makes 1 mistake\n.* in layer 0 .*\(1, 3, 128\)"):
        kv.check_method(first_half)
    across = breaks_only_in_models(lambda entries: length(entries) - 9 * ranks_rows(entries))
    (rule,) = [trial for trial in on_model(FAMILY) if "padded batch" in trial.rule]
    assert "of a row in a padded batch than of the row alone" in rule.outcome(across).wrong
    assert not rule.outcome(Sound()).wrong


def test_a_model_that_holds_too_much_or_answers_nothing_is_seen() -> None:
    rules = {trial.rule.partition(" (")[0]: trial for trial in on_model(FAMILY)}
    overflow = Reduces(lambda entries, keep: Kept(s := top(length(entries), keep), _vast(entries.gather(s))))
    wrong = rules["meets a ratio exactly, with the positions of entries as they were"].outcome(overflow).wrong
    assert "the model answers NaN after Reduces compressed its cache to 50%" in wrong

    @dataclass(frozen=True)
    class Frugal(Sound):
        def layer_budget(self, keep: int, layer: int, layers: int) -> int:
            return keep - 1

    for rule in ("meets a number of tokens exactly, in chunks", "meets its budget in a stream, with compact positions"):
        assert "Frugal holds 252 entries per head over 4 layers where" in rules[rule].outcome(Frugal()).wrong


def _vast(entries: Entries) -> Entries:
    return replace(entries, values=torch.full_like(entries.values, 3e38))


def test_rules_read_as_the_end_of_a_sentence() -> None:
    for trial in (*ON_ENTRIES, *on_model(FAMILY)):
        assert trial.rule[0].islower()
        assert trial.rule[-1] != "."
