"""Files whose facts cannot be right although the checksum is: each is refused with the place and the value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forged_sessions import edited, forge, parts, refused

import kvpress_video as kv

FACTS: dict[str, tuple[str, Any, str]] = {
    "no session": ("", {"session": 3}, "facts.session should be an object, not 3"),
    "no object": ("", [1, 2], r"facts should be an object, not \[1, 2\]"),
    "a list for a session": ("session", [], r"facts.session should be an object, not \[\]"),
    "a number for a method": (
        "session.recipe.method",
        3,
        "facts.session.recipe.method should be a valid string, not 3",
    ),
    "a list for a budget": (
        "session.recipe.budget",
        [200],
        r"facts.session.recipe.budget should be a whole number .*, text or null, not \[200\]",
    ),
    "unknown positions": (
        "session.recipe.positions",
        "drift",
        "facts.session.recipe.positions should be 'keep' or 'compact', not 'drift'",
    ),
    "no chunk": ("session.recipe.chunk", None, "facts.session.recipe.chunk: Field required"),
    "a word for a chunk": ("session.recipe.chunk", "many", "recipe.chunk should be a valid integer, not 'many'"),
    "a chunk of a billion": (
        "session.recipe.chunk",
        10**12,
        "facts.session.recipe: chunk must be at most 2147483647 visual tokens, got 1000000000000",
    ),
    "a bank of entries": ("session.recipe.bank_on", 28672, "recipe.bank_on should be a valid string, not 28672"),
    "infinite fps": ("session.recipe.fps", float("inf"), "recipe.fps should be a finite number, not inf"),
    "no fps": ("session.recipe.fps", 0, "facts.session.recipe: fps must be a number above zero, got 0"),
    "an infinite setting": (
        "session.recipe.tar_ratio",
        [float("inf")],
        r"facts.session.recipe.tar_ratio should be a finite number, .* not \[inf\]",
    ),
    "a ratio for a budget": (
        "session.recipe.budget",
        "25%",
        "facts.session.recipe: 25% is not a cap",
    ),
    "a budget of 400 digits": ("session.recipe.budget", "9" * 400, r"facts.session.recipe: A budget must be below 2"),
    "a budget of 300 digits": ("session.recipe.budget", "9" * 300, r"facts.session.recipe: A budget must be below 2"),
    "true for a count": ("session.stream.logical", True, "stream.logical should be a valid integer, not True"),
    "below zero": ("session.stream.logical", -1, "stream.logical should be greater than or equal to 0, not -1"),
    "400 digits": ("session.stream.logical", 10**400, "stream.logical should be less than or equal to 90071992547409"),
    "400 digits of seconds": ("session.inbox.told", 10**400, "facts.session.inbox.told should be a finite number"),
    "400 digits of a segment": (
        "session.stream.rows.1.held",
        {"9" * 400: 3},
        r"facts.session.stream.rows\[1\].held.9{40}.\[key\] should be less than or equal to 9007199254740992",
    ),
    "a fraction for a count": ("session.inbox.count", 1.5, "inbox.count should be a valid integer, not 1.5"),
    "a number in words": ("session.stream.peak_bytes", "9", "stream.peak_bytes should be a valid integer, not '9'"),
    "rows no list": ("session.stream.rows", {}, "facts.session.stream.rows should be a valid array, not {}"),
    "a row too few": ("session.stream.rows.3", None, "describes 3 layers, but the model has 4"),
    "a row without a count": (
        "session.stream.rows.2.padding",
        None,
        r"facts.session.stream.rows\[2\].padding: Field required",
    ),
    "a segment by name": (
        "session.stream.rows.1.held",
        {"one": 3},
        r"facts.session.stream.rows\[1\].held.one.\[key\] should be a valid integer, .*, not 'one'",
    ),
    "a flat grid": (
        "session.stream.rows.0.grids",
        {"0": [3, 4]},
        r"facts.session.stream.rows\[0\].grids.0\[2\]: Field required",
    ),
    "a run without an end": (
        "session.stream.timeline.runs",
        [{"start": 1}],
        r"facts.session.stream.timeline.runs\[0\].end: Field required",
    ),
    "a moment of words": (
        "session.stream.timeline.last.position",
        "now",
        "facts.session.stream.timeline.last.position should be a valid number, not 'now'",
    ),
    "a moment below zero": (
        "session.stream.timeline.last.position",
        -3.5,
        "facts.session.stream.timeline.last.position should be greater than or equal to 0, not -3.5",
    ),
    "half a turn": ("session.talk.turns", [["what?"]], r"facts.session.talk.turns\[0\]\[1\]: Field required"),
    "an answer that is none": (
        "session.talk.turns",
        [["what?", None]],
        r"talk.turns\[0\]\[1\] should be a valid string, not None",
    ),
    "a word for a token": ("session.talk.unsaid", ["a"], r"talk.unsaid\[0\] should be a valid integer, not 'a'"),
    "yes for true": ("session.talk.watching", "yes", "talk.watching should be a valid boolean, not 'yes'"),
    "no number for a time": (
        "session.inbox.last_time",
        float("nan"),
        "facts.session.inbox.last_time should be a finite number, not nan",
    ),
    "a time out of range": (
        "session.inbox.last_time",
        1e300,
        r"facts.session.inbox.last_time should be less than or equal to .*, not 1e\+300",
    ),
    "half a size": ("session.inbox.size", [112], r"facts.session.inbox.size\[1\]: Field required"),
    "a size of a billion": (
        "session.inbox.size",
        [10**9, 112],
        r"facts.session.inbox.size\[0\] should be less than or equal to 16384, not 1000000000",
    ),
    "something more": ("session.mood", "good", "facts.session.mood: Extra inputs are not permitted"),
    "something more in a row": (
        "session.stream.rows.0.mood",
        "good",
        r"facts.session.stream.rows\[0\].mood: Extra inputs are not permitted",
    ),
    "no model": ("model", None, "facts.model: Field required"),
    "a model's name": ("model", "Qwen", "facts.model should be an object, not 'Qwen'"),
    "something more about the model": ("model.mood", "good", "facts.model.mood: Extra inputs are not permitted"),
    "a number for a model's weights": ("model.weights", 3, "facts.model.weights should be a valid string, not 3"),
    "another model's weights": ("model.weights", "0" * 64, "was made with a model with other weights"),
    "another model's parameters": ("model.parameters", "0", "whose parameters have other names, shapes or dtypes"),
    "another architecture": ("model.architecture", "Other", "of class Other, not Qwen2_5_VLForConditionalGeneration"),
    "another configuration": ("model.config.tie_word_embeddings", 1, "with tie_word_embeddings=1, not False"),
    "places of other positions": ("session.recipe.positions", "keep", r"has layers.0.places as .* 10\) .*, not .* 4\)"),
    "frames of another size": (
        "session.inbox.size",
        [112, 56],
        r"has waiting.frames as \(3, 112, 112, 3\) torch.uint8, not",
    ),
    "an empty cache": (
        "session.stream.logical",
        0,
        r"is inconsistent \(facts.session.stream.logical is 0, but 464 ",
    ),
}


@pytest.mark.parametrize("damage", FACTS)
def test_facts_that_cannot_be(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    where, value, reason = FACTS[damage]
    metadata, facts, tensors = parts(good)
    forge(tmp_path / "a.kvv", metadata, json.dumps(edited(facts, where, value)), tensors)
    refused(tmp_path / "a.kvv", bundled, reason)


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, "facts", "{} {}"])
def test_facts_that_are_no_json(text: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    metadata, _, tensors = parts(good)
    forge(tmp_path / "a.kvv", metadata, text, tensors)
    refused(tmp_path / "a.kvv", bundled, "has invalid facts .*: copy it again")


def test_a_method_or_a_setting_that_is_not_installed(good: Path, tmp_path: Path, bundled: Any) -> None:
    metadata, facts, tensors = parts(good)
    changes: dict[str, Any] = {"method": "infinipot-w", "tar_share": 0.5, "tar_ratio": "half", "bank_on": "moon"}
    for name, value in changes.items():
        forge(tmp_path / "a.kvv", metadata, json.dumps(edited(facts, f"session.recipe.{name}", value)), tensors)
        with pytest.raises(
            kv.UnknownNameError, match=rf"^{tmp_path}/a\.kvv: .*{value if name != 'tar_share' else name}"
        ):
            kv.VideoSession.load(tmp_path / "a.kvv", *bundled)


def test_a_budget_that_no_memory_holds(good: Path, tmp_path: Path, bundled: Any) -> None:
    """Room for it is reserved when the session is built."""
    metadata, facts, tensors = parts(good)
    for budget in (2**40, str(2**62)):
        forge(tmp_path / "a.kvv", metadata, json.dumps(edited(facts, "session.recipe.budget", budget)), tensors)
        refused(tmp_path / "a.kvv", bundled, "cannot be loaded: ")
