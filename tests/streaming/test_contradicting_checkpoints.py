"""Files whose parts do not fit the model, or each other, although the checksum is right: each is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forged_sessions import NULL, edited, forge, parts, refused
from saved_sessions import lived
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Kind, Tags
from kvpress_video.streaming.checkpoint import write_snapshot


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def changed(tensors: dict[str, Tensor], name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return tensors | {name: change(tensors[name]).contiguous()}


TENSORS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "none at all": (lambda held: {}, "lacks the tensor layers.0.keys"),
    "no values": (lambda held: without(held, "layers.1.values"), "lacks the tensor layers.1.values"),
    "no tags": (lambda held: without(held, "layers.1.tags"), "lacks the tensor layers.1.tags"),
    "a layer too few": (lambda held: {name: part for name, part in held.items() if "layers.3" not in name},
                        "lacks the tensor layers.3.keys"),
    "a layer too many": (lambda held: held | {"layers.4.keys": held["layers.3.keys"].clone()},
                         "has an unexpected tensor, layers.4.keys"),
    "a stranger": (lambda held: held | {"weights": torch.zeros(3)}, "has an unexpected tensor, weights"),
    "a head too few": (lambda held: changed(held, "layers.0.keys", lambda part: part[:, :2]),
                       r"has layers.0.keys as \(1, 2, .* torch.float32, not \(1, 3,"),
    "an entry too few": (lambda held: changed(held, "layers.2.values", lambda part: part[:, :, 1:]),
                         "has layers.2.values as"),
    "no entries dimension": (lambda held: changed(held, "layers.2.tags", lambda part: part.flatten()),
                             r"has layers.2.(keys|tags) as"),
    "two rows": (lambda held: changed(held, "layers.2.places", lambda part: part.repeat(2, 1, 1, 1)),
                 "has layers.2.places as"),
    "half precision": (lambda held: changed(held, "layers.0.keys", Tensor.half), "has layers.0.keys as .*float16, not"),
    "long tags": (lambda held: changed(held, "layers.0.tags", Tensor.long), "has layers.0.tags as .* torch.int64, not"),
    "frames of fractions": (lambda held: changed(held, "waiting.frames", Tensor.float), "has waiting.frames as .*flo"),
    "times without frames": (lambda held: without(held, "waiting.frames"), "lacks the tensor waiting.frames"),
    "frames without times": (lambda held: without(held, "waiting.times"), "has an unexpected tensor, waiting.frames"),
    "a time too few": (lambda held: changed(held, "waiting.times", lambda part: part[1:]), "has waiting.frames as"),
}  # fmt: skip


@pytest.mark.parametrize("damage", TENSORS)
def test_tensors_that_cannot_be(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    change, reason = TENSORS[damage]
    metadata, _, tensors = parts(good)
    forge(tmp_path / "a.kvv", metadata, metadata["facts"], change(tensors))
    refused(tmp_path / "a.kvv", bundled, reason)


# --- Parts that fit their types, and not each other -------------------------------------------------------------------


ROW, TIME, TALK, INBOX = "session.stream.rows.1", "session.stream.timeline", "session.talk", "session.inbox"
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "a segment that was never seen": (
        {f"{ROW}.held": {"0": 100, "1": 5}},
        r"facts.session.stream.rows\[1\].held has 5 entries of segment 1, but 0 were seen",
    ),
    "an empty segment that was never seen": (
        {f"{ROW}.held": {"0": 100, "1": 0}},
        r"rows\[1\].held has 0 entries of segment 1, but 0 were seen",
    ),
    "more held than seen": ({f"{ROW}.held": {"0": 465}}, r"rows\[1\].held has 465 entries of segment 0, but 464 were"),
    "more held than the tensors have": ({f"{ROW}.held": {"0": 101}}, r"has layers.1.keys as .* 140, 32\) .* 141, 32\)"),
    "other tokens seen in a layer": (
        {f"{ROW}.seen": {"0": 460}},
        r"rows\[1\].seen is {0: 460}, not {0: 464} as in the gr",
    ),
    "another grid in a layer": (
        {f"{ROW}.grids": {"0": [29, 2, 8]}},
        r"rows\[1\].grids is .*columns=8\)}, but the timeline's grid is Grid\(frames=29, rows=4, columns=4\)",
    ),
    "no grid in a layer": ({f"{ROW}.grids": {}}, r"rows\[1\].grids is {}, but the timeline's grid is Grid"),
    "a grid of other tokens": (
        {f"{TIME}.grid": [30, 4, 4]},
        "facts.session.stream.timeline.last.frame is 28, but there are 30 frames",
    ),
    "a grid of fewer rows": (
        {f"{TIME}.grid": [29, 2, 8], **{f"session.stream.rows.{n}.grids": {"0": [29, 2, 8]} for n in range(4)}},
        r"layers.0.tags has frames, rows or columns outside 29×2×8",
    ),
    "a grid of a billion": ({f"{TIME}.grid": [29, 10**9, 10**9]}, r"rows\[0\].grids is .*, but the timeline's grid is"),
    "no grid": ({f"{TIME}.grid": NULL}, "facts.session.stream.timeline must have all of grid, runs and last, or none"),
    "no last frame": ({f"{TIME}.last": NULL}, "stream.timeline must have all of grid, runs and last, or none"),
    "no runs": ({f"{TIME}.runs": []}, "stream.timeline must have all of grid, runs and last, or none"),
    "padding": ({f"{ROW}.padding": 3}, r"rows\[1\] has padding or shifted positions, which sessions never have"),
    "padding anywhere": ({f"{ROW}.loose": True}, r"rows\[1\] has padding or shifted positions"),
    "moved positions": ({f"{ROW}.shift": 7}, r"rows\[1\] has padding or shifted positions"),
    "a layer at another position": (
        {f"{ROW}.following": 243},
        r"rows\[1\].following is 243, not 242 as in the first row",
    ),
    "all layers at another position": (
        {f"session.stream.rows.{n}.following": 10**15 for n in range(4)},
        r"rows\[0\].following is 1000000000000000, but text takes 40 and runs take 202 positions",
    ),
    "a start of a segment that is not held": (
        {f"{ROW}.starts": {"1": 4}},
        r"rows\[1\].starts places segment 1 at 4, which",
    ),
    "a start behind the entries": ({f"{ROW}.starts": {"0": 41}}, r"rows\[1\].starts places segment 0 at 41, which"),
    "a start where text is": (
        {f"{ROW}.starts": {"0": 3}},
        "layers.1.tags has text among the 100 video entries fr",
    ),
    "more tokens than there can be": ({"session.stream.logical": 2**31}, "facts.session.stream.logical is 2147483648"),
    "a token more": (
        {"session.stream.logical": 505},
        r"rows\[0\].following is 242, but text takes 41 and runs take 202",
    ),
    "a budget far below": ({"session.recipe.budget": 20}, "stream.rows hold 400 entries in all layers, far above"),
    "bytes far below": ({"session.recipe.budget": "200KB"}, "hold 560 entries in all layers, far above the budget"),
    "positions without axes": ({f"{TIME}.spatial": False}, "timeline.spatial is False, but the model has M-RoPE posi"),
    "a run that ends before it starts": (
        {f"{TIME}.runs.0.end": 3},
        r"stream.timeline.runs\[0\] ends at 3, before it starts at 4",
    ),
    "runs that overlap": (
        {f"{TIME}.runs.1.start": 120},
        r"timeline.runs\[1\] starts at 120, before the end of the previous",
    ),
    "a run of more rows": ({f"{TIME}.runs.0.least": 5}, r"timeline.runs\[0\].least is 5, but frames are 4×4"),
    "another last frame": ({f"{TIME}.last.frame": 27}, "stream.timeline.last.frame is 27, but there are 29 frames"),
    "a last frame outside of its run": (
        {f"{TIME}.last.position": 100.0},
        "last.position is 100, outside the last r",
    ),
    "a base after the last frame": (
        {f"{TIME}.base": {"position": 226.0, "seconds": 285.0, "frame": 28}},
        "stream.timeline.base is later than last",
    ),
    "a base before its run": (
        {f"{TIME}.base": {"position": 100.0, "seconds": 5.0, "frame": 3}},
        "stream.timeline.base.position is 100, before the start of the last run",
    ),
    "a base while text came last": (
        {f"{TIME}.base": {"position": 226.0, "seconds": 284.0, "frame": 28}},
        "facts.session.talk.watching is False, but stream.timeline.base has a value",
    ),
    "frames came last, without a base": (
        {f"{TALK}.watching": True},
        "talk.watching is True, but stream.timeline.base has no",
    ),
    "nothing begun": ({f"{TALK}.begun": False}, "talk.begun is False, but 504 tokens were seen"),
    "a token beyond the vocabulary": (
        {f"{TALK}.unsaid": [10**6]},
        "talk.unsaid has token 1000000, beyond the vocabulary of",
    ),
    "more than one unsaid token": (
        {f"{TALK}.unsaid": [3, 4]},
        "talk.unsaid has 2 tokens, but at most 1 can be pending",
    ),
    "no last time": ({f"{INBOX}.last_time": NULL}, "inbox must have all of count, last_time, size and untold, or none"),
    "no size": ({f"{INBOX}.size": NULL}, "inbox must have all of count, last_time, size and untold, or none"),
    "no frame counted": ({f"{INBOX}.count": 0}, "inbox must have all of count, last_time, size and untold, or none"),
    "a last time of no frame": ({f"{INBOX}.untold": 3}, "inbox.last_time is 390.0, but told and untold imply 391"),
    "fewer frames than in the cache": ({f"{INBOX}.count": 28}, "inbox.count is 28, but 29 temporal steps are cached"),
    "far more frames than in the cache": ({f"{INBOX}.count": 10**6}, "inbox.count is 1000000, but 3 are queued and 29"),
    "a last time before the cache": (
        {f"{INBOX}.last_time": 200.0, f"{INBOX}.told": 200.0},
        "facts.session.inbox.last_time is 200.0, before the last cached frame",
    ),
    "a gap where frames are": ({f"{TIME}.gaps": [[100, 130]]}, r"timeline.gaps\[0\] overlaps a run of frames"),
    "a gap that ends before it starts": (
        {f"{TIME}.gaps": [[130, 125]]},
        r"gaps\[0\] is \[130, 125\], but must ascend",
    ),
    "gaps that overlap": (
        {f"{TIME}.gaps": [[122, 126], [125, 130]]},
        r"gaps\[1\] is \[125, 130\], but must ascend",
    ),
    "a gap where text is": ({f"{TIME}.gaps": [[122, 126]]}, "following is 242, but text takes 40 and runs take 206"),
    "text that has left, and no gap": (
        {"session.stream.evicted_text": 4},
        "following is 242, but text takes 36 and runs take 202",
    ),
    "more text that has left than was seen": (
        {"session.stream.evicted_text": 41},
        "logical is 504, but 464 visual tokens were seen, and 41 text tokens were evicted",
    ),
    "more places of turns than turns": (
        {f"{TALK}.turns": [["what?", "yellow"]]},
        "talk.tokens locates 2 turns, but 1 were kept",
    ),
    "a turn of tokens to come": (
        {f"{TALK}.tokens.1.text": [490, 505]},
        r"talk.tokens\[1\] has tokens 490 to 505, which",
    ),
    "a turn that ends before it starts": ({f"{TALK}.tokens.1.text": [490, 480]}, r"talk.tokens\[1\] has tokens 490 to"),
    "a turn inside of another": (
        {f"{TALK}.tokens.1.opening.tokens": [350, 352]},
        r"talk.tokens\[1\] has tokens 350 to",
    ),
    "a turn of frames": (
        {f"{TALK}.tokens.0.opening.tokens": [330, 341]},
        r"layers.0.tags lacks some of the 45 text entries of its turns",
    ),
    "a turn that does not follow the one before": (
        {f"{TALK}.tokens.0.reopening": NULL},
        r"talk.tokens\[1\].opening does not begin at the end of the previous turn",
    ),
    "markup left open before a turn": (
        {f"{TALK}.opening": {"tokens": [340, 341], "closes_video": True}},
        "talk.opening has a value, but turns or frames followed",
    ),
    "a last time that is not the last": (
        {f"{INBOX}.last_time": 391.0, f"{INBOX}.told": 391.0},
        "waiting.times must ascend from the last cached frame to inbox.last_time, 391.0",
    ),
}


@pytest.mark.parametrize("damage", CONTRADICTIONS)
def test_facts_that_contradict_each_other(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    changes, reason = CONTRADICTIONS[damage]
    metadata, facts, tensors = parts(good)
    for where, value in changes.items():
        facts = edited(facts, where, value)
    forge(tmp_path / "a.kvv", metadata, json.dumps(facts), tensors)
    refused(tmp_path / "a.kvv", bundled, reason + ".*: copy it again, or save the session again")


def put(value: float, *where: Any) -> Callable[[Tensor], Tensor]:
    """A change of one value of the second head's last entry."""

    def change(part: Tensor) -> Tensor:
        part = part.clone()
        part[(0, 1, -1, *where)] = value
        return part

    return change


def first_of(kind: Kind, column: int, value: int) -> Callable[[Tensor], Tensor]:
    """A change of the second head's first tag of a kind."""

    def change(part: Tensor) -> Tensor:
        part = part.clone()
        part[0, 1, (part[0, 1, :, Tags.KIND] == kind).nonzero()[0], column] = value
        return part

    return change


INDICES = "must have ascending token indices from 0 to 503"
KINDS = "must have 100 video entries per head, and otherwise labels and text"
INFINITE = "layers.0.places has positions that are not finite"
SLOTS = "has frames, rows or columns outside 29×4×4"
VALUES: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "a key that is NaN": ("layers.1.keys", put(float("nan"), 3), "layers.1.keys holds NaN or infinity"),
    "a value that is infinite": ("layers.3.values", put(float("inf"), 0), "layers.3.values holds NaN or infinity"),
    "a value below all": ("layers.3.values", put(float("-inf"), 0), "layers.3.values holds NaN or infinity"),
    "tags of zero": ("layers.1.tags", torch.zeros_like, f"layers.1.tags {INDICES}"),
    "tags of ones": ("layers.1.tags", torch.ones_like, f"layers.1.tags {INDICES}"),
    "an index of a later token": ("layers.1.tags", put(504, Tags.INDEX), f"layers.1.tags {INDICES}"),
    "indices twice": ("layers.1.tags", lambda part: part[:, :, [0, *range(part.shape[2] - 1)]], INDICES),
    "indices backwards": ("layers.1.tags", lambda part: part.flip(2), INDICES),
    "an index far below zero": ("layers.1.tags", put(-(2**31), Tags.INDEX), INDICES),
    "an index far too great": ("layers.1.tags", put(2**31 - 1, Tags.INDEX), INDICES),
    "a first index below zero": ("layers.1.tags", first_of(Kind.TEXT, Tags.INDEX, -1), INDICES),
    "images": ("layers.1.tags", first_of(Kind.VIDEO, Tags.KIND, Kind.IMAGE), KINDS),
    "padding": ("layers.1.tags", first_of(Kind.VIDEO, Tags.KIND, Kind.PADDING), KINDS),
    "a kind that is none": ("layers.1.tags", first_of(Kind.VIDEO, Tags.KIND, 7), KINDS),
    "text for video": ("layers.1.tags", first_of(Kind.VIDEO, Tags.KIND, Kind.TEXT), KINDS),
    "another segment": ("layers.1.tags", first_of(Kind.VIDEO, Tags.SEGMENT, 1), SLOTS),
    "a frame to come": ("layers.1.tags", first_of(Kind.VIDEO, Tags.FRAME, 29), SLOTS),
    "a frame before all": ("layers.1.tags", first_of(Kind.VIDEO, Tags.FRAME, -1), SLOTS),
    "a row outside": ("layers.1.tags", first_of(Kind.VIDEO, Tags.ROW, 4), SLOTS),
    "a column far outside": ("layers.1.tags", first_of(Kind.VIDEO, Tags.COLUMN, 2**31 - 1), SLOTS),
    "text in a frame": ("layers.1.tags", first_of(Kind.TEXT, Tags.FRAME, 0), SLOTS),
    "a position that is NaN": ("layers.0.places", put(float("nan"), 0), INFINITE),
    "an infinite target": ("layers.0.places", put(float("inf"), 9), INFINITE),
    "infinite importance": ("layers.0.places", put(float("inf"), 3), "layers.0.places has infinite importance"),
    "a position to come": ("layers.0.places", put(243.0, 4), "layers.0.places has positions outside 0 to 242"),
    "a position below zero": ("layers.0.places", put(-1.0, 5), "layers.0.places has positions outside 0 to 242"),
    "times that run backwards": ("waiting.times", lambda part: part[[1, 0, 2]], "waiting.times must ascend"),
    "times that stand still": ("waiting.times", lambda part: part[[0, 2, 2]], "waiting.times must ascend"),
    "times before the cache": ("waiting.times", lambda part: torch.cat([part[:1] - 20, part[1:]]), "must ascend"),
    "a time that is NaN": ("waiting.times", lambda part: torch.cat([part[:1] * torch.nan, part[1:]]), "must ascend"),
    "another last time": ("waiting.times", lambda part: torch.cat([part[:2], part[2:] + 1]), "inbox.last_time, 390.0"),
}


@pytest.mark.parametrize("damage", VALUES)
def test_tensors_that_contradict_the_facts(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    name, change, reason = VALUES[damage]
    metadata, _, tensors = parts(good)
    forge(tmp_path / "a.kvv", metadata, metadata["facts"], changed(tensors, name, change))
    refused(tmp_path / "a.kvv", bundled, rf"is inconsistent \(.*{reason}.*: copy it again, or save the session again")


def test_a_session_that_contradicts_itself_is_not_written(tmp_path: Path, bundled: Any) -> None:
    """Such as one whose keys overflowed."""
    snapshot = lived(*bundled, budget=100, recent_ratio=0.25).snapshot()
    snapshot.tensors["layers.2.keys"][0, 0, 0, 0] = torch.nan
    with pytest.raises(kv.CacheError, match=r"cannot be written to .*a\.kvv: its snapshot .*layers.2.keys holds NaN"):
        write_snapshot(tmp_path / "a.kvv", snapshot, bundled[0])
    assert not list(tmp_path.iterdir())
