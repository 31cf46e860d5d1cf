"""Validation of declarations: a method that is declared wrongly fails before it sees a video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import zoo
from generation import model_of
from kvpress_video.methods.key_norm import KeyNorm
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor import Compressor, Entries, check_observer, make_method
from kvpress_video.compressor.base import checked_banked, checked_layer_budgets
from kvpress_video.contract.random_entries import footage
from kvpress_video.errors import BudgetError, KVPressVideoError, MethodError, MissingInputError, UnknownNameError


@dataclass(frozen=True)
class Sound(Compressor):
    """Declared as it should be; the mistakes below derive from it."""

    def scores(self, entries: Entries) -> Tensor:
        return entries.keys.norm(dim=-1)


@dataclass(frozen=True)
class Misspelt(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"query"})


@dataclass(frozen=True)
class OneWord(Sound):
    needs: ClassVar[Any] = "queries"


@dataclass(frozen=True)
class Listed(Sound):
    needs: ClassVar[Any] = ["queries"]


@dataclass(frozen=True)
class Elsewhere(Sound):
    stages: ClassVar[tuple[str, ...]] = ("cach",)


@dataclass(frozen=True)
class OneStage(Sound):
    stages: ClassVar[Any] = "cache"


@dataclass(frozen=True)
class SourceAsSetting(Sound):
    source: str = "ours"  # type: ignore[misc]


@dataclass(frozen=True)
class NoStage(Sound):
    stages: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Blind(Sound):
    window: Any = 0
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})


@dataclass(frozen=True)
class Silent(Sound):
    needs: ClassVar[frozenset[str]] = frozenset({"queries"})


@dataclass(frozen=True)
class Empty(Compressor):
    share: float = 0.5


@dataclass(frozen=True)
class Exchanges(Sound):
    fresh: Any = 0
    recall_share: Any = 0.0


class Scoreless(Exchanges):
    scores = Compressor.scores

    def select(self, entries: Entries, keep: int) -> Tensor:
        return torch.arange(keep).expand(*entries.keys.shape[:2], -1)

    def frame_scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        return keys[:, 0, 0]


class Undecorated(Sound):
    share: float = 0.5


class OwnInit(Sound):
    def __init__(self, share: float) -> None:
        pass


class Duck:
    def scores(self, entries: Entries) -> Tensor:
        return entries.keys.norm(dim=-1)


MISTAKES: list[tuple[Any, type[KVPressVideoError], str]] = [
    (KeyNorm, MethodError, r"KeyNorm is a class: pass an instance, KeyNorm\("),
    (Duck(), MethodError, "a name or a Compressor, got Duck"),
    (None, MethodError, "got NoneType None"),
    (25, MethodError, "got int 25"),
    (Misspelt(), UnknownNameError, "need of Misspelt 'query'. Did you mean 'queries'"),
    (OneWord(), MethodError, "OneWord.needs must be a set of names, got 'queries'"),
    (Listed(), MethodError, "Listed.needs must be a set of names"),
    (Elsewhere(), UnknownNameError, "stage of Elsewhere 'cach'. Did you mean 'cache'"),
    (OneStage(), MethodError, "OneStage.stages must be a tuple of names, got 'cache'"),
    (SourceAsSetting(), MethodError, "makes settings of source, .*ClassVar, or not at all, e.g. source = 'ours'"),
    (NoStage(), MethodError, "NoStage.stages must be a tuple of names"),
    (Blind(), MethodError, "setting window must be a whole number above zero, got 0"),
    (Blind(2.5), MethodError, "got 2.5"),
    (Blind(True), MethodError, "got True"),
    (Blind("all"), MethodError, "got 'all'"),
    (Silent(), MissingInputError, "no setting window"),
    (Empty(), MethodError, r"Empty implements neither scores\(\) nor select\(\) nor reduce\(\)"),
    (Exchanges(fresh=-1), MethodError, "Exchanges.fresh must be a whole number of frames from 0, got -1"),
    (Exchanges(fresh="all"), MethodError, "got 'all'"),
    (Exchanges(recall_share=2), MethodError, "Exchanges.recall_share must be a share between 0 and 1, got 2"),
    (Exchanges(recall_share=float("nan")), MethodError, "between 0 and 1, got nan"),
    (Exchanges(recall_share=0.5), MethodError, r"brings frames back, and lacks frame_scores\(\)"),
    (Scoreless(recall_share=0.5), MethodError, r"brings frames back, and lacks scores\(\)"),
    (Undecorated(), MethodError, r"Undecorated is not a dataclass, so its settings \(share\) are unknown"),
    (OwnInit(1), MethodError, r"OwnInit is not a dataclass, so its settings \(__init__\) are unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "error", "message"), MISTAKES)
def test_a_mistake_is_an_error_at_once(method: Any, error: type[KVPressVideoError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_method(method)
    with pytest.raises(error, match=message):
        check_observer(method)
    with pytest.raises(error, match=message):
        kv.compress(model_of(zoo.FAMILIES[0]), method, "50%")


def test_wrappers_check_what_they_wrap() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'queries'"):
        make_method("per-layer", base=Misspelt())
    with pytest.raises(MethodError, match="KeyNorm is a class"):
        make_method("detachable", scorer=KeyNorm)


def test_sound_methods_are_taken_as_they_are() -> None:
    class Plain(Sound):
        note: ClassVar[str] = "no setting"

    for method in (Sound(), Plain(), Blind(np.int64(3)), make_method("snapkv")):
        assert make_method(method) is method


@dataclass(frozen=True)
class Spreads(Sound):
    """Answers with the budgets of a function."""

    answer: Callable[[int, int, int], Any] = lambda keep, layer, layers: keep

    def layer_budget(self, keep: int, layer: int, layers: int) -> Any:
        return self.answer(keep, layer, layers)


def test_layer_budgets_are_taken_where_they_add_up() -> None:
    assert checked_layer_budgets(Sound(), 10, 3) == (10, 10, 10)
    assert checked_layer_budgets(make_method("per-layer"), 10, 4) == (15, 15, 5, 5)
    assert checked_layer_budgets(Spreads(lambda keep, layer, layers: np.int64(layer)), 1, 3) == (0, 1, 2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda keep, layer, layers: 10**9, "3 layers 3000000000 entries together, more than the 30 of 10 per layer"),
        (
            lambda keep, layer, layers: keep + (layer == 2),
            "31 entries together, more than the 30 of 10 per layer",
        ),
        (lambda keep, layer, layers: -1, r"layer_budget\(keep=10, layer=0, layers=3\) returned -1"),
        (lambda keep, layer, layers: keep * 0.5, "returned 5.0"),
        (lambda keep, layer, layers: float("nan"), "returned nan"),
        (lambda keep, layer, layers: True, "returned True"),
        (lambda keep, layer, layers: None, "returned None"),
        (lambda keep, layer, layers: torch.tensor(keep), "returned tensor"),
        (lambda keep, layer, layers: keep / (layer - 1), "layer=0.*returned -10.0"),
        (lambda keep, layer, layers: [keep][layer], "layer=1.*IndexError"),
    ],
)
def test_layer_budgets_that_nobody_asked_for(answer: Any, message: str) -> None:
    with pytest.raises(MethodError, match=message):
        checked_layer_budgets(Spreads(answer), 10, 3)


def test_errors_of_a_layer_budget_pass_unchanged() -> None:
    with pytest.raises(BudgetError, match="3 shares for 2 layers"):
        checked_layer_budgets(make_method("per-layer", shares=(1, 1, 1)), 10, 2)


@dataclass(frozen=True)
class Banks(Sound):
    answers: list[Any] = field(default_factory=list)

    def banked(self, entries: Entries) -> Any:
        return self.answers[0]


@pytest.mark.parametrize(("answer", "message"), [(121, "at most 120"), (-1, "returned -1"), (1.5, "returned 1.5"),
                                                 (None, "returned None")])  # fmt: skip
def test_a_bank_with_missing_entries(answer: Any, message: str) -> None:
    assert checked_banked(Banks([7]), footage()) == 7
    with pytest.raises(MethodError, match=message):
        checked_banked(Banks([answer]), footage())
    with pytest.raises(MethodError, match="IndexError"):
        checked_banked(Banks(), footage())
