"""Achieved equals asked: every method × ratio × family, and every way to write a budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, UNEVEN, answer, compressed, model_of, two_videos, video_prompt
from pairs import pairs

import kvpress_video as kv
from kvpress_video.budget import Budget
from kvpress_video.cache.proportional import allocate
from kvpress_video.compression import check_achieved
from kvpress_video.errors import BudgetError
from kvpress_video.models import adapter_for

RATIOS = (0.75, 0.5, 0.25, 0.125)
FRAMES = 12


@pytest.mark.parametrize(("method", "family", "ratio"), pairs(METHODS, zoo.FAMILIES, RATIOS))
def test_achieved_entries_equal_the_budget(method: str, family: str, ratio: float) -> None:
    model = model_of(family)
    rows, columns = zoo.grid(family)
    visual = FRAMES * rows * columns
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES)])
    crowded = method in UNEVEN or (method == "vfl-drop" and len(adapter_for(model).attentions) < 3)
    if crowded and ratio > 2 / 3:  # its first layers would need more than there is
        with (
            kv.compress(model, method, ratio, **SETTINGS.get(method, {})),
            pytest.raises(kv.BudgetError, match="layer 0"),
        ):
            answer(model, inputs)
        return
    with kv.compress(model, method, ratio, **SETTINGS.get(method, {})) as run:
        output = answer(model, inputs, new=2).output
    labels = run.report.label_tokens
    keep = int(ratio * (visual + labels) + 0.5)
    text = inputs["input_ids"].shape[1] - visual - labels
    words = torch.isin(inputs["input_ids"][0], torch.tensor(zoo.WORDS)).nonzero().flatten()
    for layer, kept in zip(compressed(output.past_key_values), run.kept, strict=True):
        assert all(bool(torch.isin(words, head).all()) for head in kept[0])  # text is never evicted
        if method not in (*UNEVEN, "vfl", "vfl-drop"):
            assert kept.shape[2] == text + keep
        held = kept[kept >= 0].reshape(kept.shape)
        assert (held.diff(dim=-1) > 0).all()
        assert layer.keys.shape[2] == kept.shape[2] + 1  # one new token was fed back
    assert sum(kept.shape[2] for kept in run.kept) == len(run.kept) * (text + keep)
    assert sum(run.report.entries) + sum(run.report.label_entries) == keep * len(run.kept)
    assert run.report.visual_tokens == visual
    assert run.report.ratio == pytest.approx(keep / (visual + labels))


@pytest.mark.parametrize("stage", ["cache", "input"])
@pytest.mark.parametrize("budget", [17, "17", "25%", 0.25])
def test_all_spellings_of_a_budget(budget: Any, stage: Any) -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    with kv.compress(model, "random", budget, stage=stage) as run:
        answer(model, zoo.inputs(model, [two_videos(family)]))
    total = 2 * 3 * 12
    assert run.report.entries == ((17 if budget in (17, "17") else total // 4),) * 4


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("kib", [64, 97, 150])
def test_bytes_count_everything_the_cache_holds(kib: int, positions: Any) -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, FRAMES), two_videos(family)])
    seen: list[int] = []

    def measure(module: Any, args: Any, output: Any) -> None:
        tensors = [
            part
            for layer in output.past_key_values.layers
            for part in (layer.keys, layer.values, layer.tags, layer.places)
        ]
        seen.append(sum(part.numel() * part.element_size() for part in tensors))

    with kv.compress(model, "van", f"{kib}KiB", positions=positions) as run:
        handle = model.get_decoder().register_forward_hook(measure)
        try:
            answer(model, inputs, new=1)
        finally:
            handle.remove()
    entry = 4 * 2 * 2 * (2 * 16 * 4 + 4 * (6 + (10 if positions == "compact" else 4)))
    assert seen[0] == run.report.bytes <= kib * 1024 < run.report.bytes + entry


def test_more_than_the_video_keeps_all_of_it_and_says_so() -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    with kv.compress(model, "tar", 10_000) as run:
        answer(model, zoo.inputs(model, [video_prompt(family)]))
    assert run.report.ratio == 1
    assert run.report.asked == "10000 tokens"


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("25%", 0.25, "ratio"),
        (0.25, 0.25, "ratio"),
        ("0.5", 0.5, "ratio"),
        (1.0, 1.0, "ratio"),
        (6144, 6144, "tokens"),
        ("6144", 6144, "tokens"),
        ("256MiB", 256 * 2**20, "bytes"),
        ("1.5 GB", 1.5e9, "bytes"),
        ("12kb", 12e3, "bytes"),
    ],
)
def test_parse(text: Any, amount: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(amount, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "a quarter", "-5", "25 pounds", "0", 0, -3, "150%", 0.0, True, "6144.0"])
def test_unreadable_budgets(text: Any) -> None:
    with pytest.raises(kv.BudgetError, match=r"Write e\.g\. '25%', 6144 or '256MiB'\.$"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("value", "read", "other"),
    [
        (1, "one visual entry", "'100%'"),
        ("1", "one visual entry", "'100%'"),
        (np.int64(1), "one visual entry", "'100%'"),
        (1.0, "100%", "'1 token'"),
        ("1.0", "100%", "'1 token'"),
        (np.float32(1), "100%", "'1 token'"),
    ],
)
def test_a_budget_of_one_warns_how_it_is_read(value: Any, read: str, other: str) -> None:
    with pytest.warns(UserWarning, match=rf"is read as {read}.* or {other}") as found:
        Budget.parse(value)
    assert [warning.filename for warning in found] == [__file__]


def test_what_the_warning_says_to_write_means_the_same_without_one() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Budget.parse("1 token") == Budget.parse("1.0 tokens") == Budget.parse(Budget(1, "tokens"))
        assert Budget.parse("100%") == Budget(1.0, "ratio")
        for budget in (Budget(1.0, "ratio"), Budget(0.25, "ratio"), Budget(1, "tokens"), Budget(1, "bytes")):
            assert Budget.parse(budget.exact) == budget


def test_the_warning_points_at_the_line_that_wrote_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the package, to the caller outside of it, and once for each of its lines."""
    model = model_of(zoo.FAMILIES[0])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(2):
            kv.compress(model, "tar", 1.0)
        kv.compress(model, "tar", 1.0)
    assert [warning.filename for warning in found] == [__file__] * 2


@pytest.mark.parametrize(
    "value",
    [float("nan"), -float("inf"), np.float64("nan"), np.bool_(True), 10**400, -(10**400), Fraction(10**400), "9" * 5000,
     "9" * 400 + "%", "9" * 400 + " tokens", "9" * 400 + "GiB", "1.5 tokens", "inf", "nan", "1e400", 1e300, b"25%",
     np.array([5, 6]), 2 + 0j],
)  # fmt: skip
def test_numbers_that_are_no_budget(value: Any) -> None:
    with pytest.raises(kv.BudgetError, match="budget"):
        Budget.parse(value)


@pytest.mark.parametrize(
    ("amount", "unit"),
    [(float("nan"), "tokens"), (float("nan"), "ratio"), (float("inf"), "bytes"), (0, "tokens"), (-1, "bytes"),
     (10**400, "tokens"), (True, "tokens"), ("5", "tokens"), (2.0, "ratio")],
)  # fmt: skip
def test_amounts_that_are_no_budget(amount: Any, unit: Any) -> None:
    with pytest.raises(kv.BudgetError, match=r"budget|ratio"):
        Budget(amount, unit)


def test_a_unit_that_does_not_exist() -> None:
    with pytest.raises(kv.UnknownNameError, match=r"Unknown unit of a budget 'token'. Did you mean 'tokens'"):
        Budget(5, "token")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int8(64), Budget(64, "tokens")),
        (Fraction(1, 4), Budget(0.25, "ratio")),
        (np.float16(0.5), Budget(0.5, "ratio")),
        (25.0, Budget(25, "tokens")),
    ],
)
def test_numbers_of_other_types(value: Any, expected: Budget) -> None:
    assert Budget.parse(value) == expected


@pytest.mark.parametrize("method", ["detachable", "sink-window"])
def test_a_budget_that_a_method_cannot_reach_is_an_error_and_loses_nothing(method: str) -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    before = answer(model, inputs)
    settings: dict[str, Any] = {"scorer": "van"} if method == "detachable" else {}
    with kv.compress(model, method, 4, **settings), pytest.raises(kv.BudgetError):
        answer(model, inputs)
    assert torch.equal(answer(model, inputs).logits, before.logits)


def test_bytes_below_the_text_are_an_error_that_says_how_many_it_takes() -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    with kv.compress(model, "van", "1KiB"), pytest.raises(kv.BudgetError, match=r"at least 0\.0"):
        answer(model, inputs)


def test_a_ratio_below_one_entry_is_an_error() -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    with kv.compress(model, "van", 0.001), pytest.raises(kv.BudgetError, match="leaves no visual entry"):
        answer(model, zoo.inputs(model, [video_prompt(family)]))


def test_allocation_is_exact_proportional_and_capped() -> None:
    assert allocate(10, {0: 10, 1: 30}, {0: 10, 1: 30}) == {0: 3, 1: 7}
    assert allocate(7, {0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 1}) == {0: 1, 1: 1, 2: 1}
    assert allocate(9, {0: 30, 1: 30}, {0: 2, 1: 30}) == {0: 2, 1: 7}
    for total in range(1, 60):
        assert sum(allocate(total, {0: 13, 1: 28, 2: 19}, {0: 13, 1: 28, 2: 19}).values()) == total


# --- What was achieved ------------------------------------------------------------------------------------------------


@dataclass
class Held:
    """As much of a report as the check reads."""

    entries: tuple[int, ...]
    visual_tokens: int = 128
    label_entries: tuple[int, ...] = ()
    label_tokens: int = 0
    bytes: int = 1000
    method: str = "tar"


@pytest.mark.parametrize(
    ("budget", "held"),
    [("50%", (64, 64)), ("50%", (96, 32)), ("50%", (20, 20)), ("64", (64, 64)), ("1000B", (128, 128))],
)
def test_a_budget_that_was_kept(budget: str, held: tuple[int, ...]) -> None:
    check_achieved(Budget.parse(budget), Held(held))  # type: ignore[arg-type]


@pytest.mark.parametrize(("budget", "held"), [("50%", (64, 65)), ("64", (65, 64)), ("999B", (1, 1))])
def test_a_budget_that_was_not_kept_is_an_error(budget: str, held: tuple[int, ...]) -> None:
    with pytest.raises(BudgetError, match="tar holds"):
        check_achieved(Budget.parse(budget), Held(held))  # type: ignore[arg-type]
