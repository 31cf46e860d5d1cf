"""Files that are no sessions, not whole, or not as they were written: each is refused with its reason, none loads."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import random
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from saved_sessions import lived, same
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Kind, Tags
from kvpress_video.streaming.checkpoint import read_snapshot, write_snapshot
from kvpress_video.streaming.tensor_file import TensorFile

BUNDLED = Path(kv.__file__).parent / "data" / "bundled"
NULL = object()
Parts = tuple[dict[str, str], dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="module")
def good(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a session with frames that wait."""
    path = tmp_path_factory.mktemp("good") / "good.kvv"
    lived(*bundled, budget=100).save(path)
    return path


def parts(path: Path) -> Parts:
    """A file's metadata, facts and tensors."""
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return metadata, json.loads(metadata["facts"]), tensors


def forge(path: Path, metadata: dict[str, str], facts: str, tensors: dict[str, Tensor]) -> None:
    """Write a file whose checksum is right."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    save_file(tensors, path, metadata | {"facts": facts, "sha256": digest.hexdigest()})


def refused(path: Path, bundled: Any, reason: str) -> None:
    with pytest.raises(kv.CacheError, match=reason) as caught:
        kv.VideoSession.load(path, *bundled)
    assert str(caught.value).startswith(f"{path} ")


def header(data: bytes) -> int:
    """Where the tensors' bytes begin."""
    return 8 + int.from_bytes(data[:8], "little")


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_forged_file_is_one_that_loads_while_nothing_is_wrong(good: Path, tmp_path: Path, bundled: Any) -> None:
    metadata, facts, tensors = parts(good)
    forge(tmp_path / "a.kvv", metadata, json.dumps(facts), tensors)
    assert (tmp_path / "a.kvv").stat().st_size == good.stat().st_size
    assert same(read_snapshot(tmp_path / "a.kvv", bundled[0]).tensors, lived(*bundled, budget=100).snapshot().tensors)


# --- Whole files ------------------------------------------------------------------------------------------------------


def test_no_file(tmp_path: Path, bundled: Any) -> None:
    refused(tmp_path / "a.kvv", bundled, "does not exist: check the path")
    refused(tmp_path, bundled, "is a folder: give the path of a session's file")


CUT, OTHER = "is cut off or damaged .*: copy it again", "is not a session's file, it begins with b'"
CHANGED = "has changed since it was written, its checksum is .*: copy it again"
BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is empty"),
    "five bytes": (lambda data: data[:5], "is cut off after 5 bytes"),
    "nine bytes": (lambda data: data[:9], CUT),
    "cut in the facts": (lambda data: data[:700], CUT),
    "cut after the facts": (lambda data: data[: header(data)], CUT),
    "cut in half": (lambda data: data[: len(data) // 2], CUT),
    "cut by a byte": (lambda data: data[:-1], CUT),
    "a byte too many": (lambda data: data + b"\0", CUT),
    "written twice": (lambda data: data + data, CUT),
    "zeros of the same size": (lambda data: bytes(len(data)), OTHER),
    "text": (lambda data: b"A session, once.\n" * 100, OTHER),
    "JSON": (lambda data: b'{"format": "kvpress-video session", "version": "2"}', OTHER),
    "a pickle": (lambda data: pickle.dumps({"layers.0.keys": [1.0]}), OTHER),
    "an archive": (lambda data: b"PK\x03\x04" + bytes(100), OTHER + "PK"),
    "its beginning lost": (lambda data: data[64:], OTHER),
    "a flipped bit in the first tensor": (lambda data: flipped(data, 8 * header(data)), CHANGED),
    "a flipped bit in the middle": (lambda data: flipped(data, 8 * ((header(data) + len(data)) // 2) + 3), CHANGED),
    "the last bit flipped": (lambda data: flipped(data, 8 * len(data) - 1), CHANGED),
    "another question": (lambda data: data.replace(b"the large", b"the small"), CHANGED),
    "another time": (lambda data: data.replace(b'last_time\\": 390', b'last_time\\": 391'),
                     "contradicts itself .facts.session.inbox.last_time is 391.0, but told and untold make it 390.0"),
    "other checksum": (lambda data: re.sub(rb'"sha256":"....', b'"sha256":"0000', data), CHANGED),
    "tensors exchanged": (lambda data: data.replace(b"s.0.keys", b"s.9.keys").replace(b"s.1.keys", b"s.0.keys")
                          .replace(b"s.9.keys", b"s.1.keys"), CHANGED),
    "a shape turned": (lambda data: data.replace(b'"waiting.times":{"dtype":"F64"', b'"waiting.times":{"dtype":"I64"'),
                       r"has waiting.times as \(3,\) torch.int64, not \(3,\) torch.float64: copy it again"),
    "of another version": (lambda data: data.replace(b'"version":"2"', b'"version":"3"'),
                           "is of version '3' and this package reads '2': use the version of kvpress-video that"),
    "of another format": (lambda data: data.replace(b'"kvpress-video session"', b'"kvpress-video Session"'),
                          "holds tensors but no session, its format is 'kvpress-video Session': give a file that"),
    "without a checksum": (lambda data: data.replace(b'"sha256":', b'"SHA256":'), "is damaged, it is described by SHA"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BYTES)
def test_damaged_bytes(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    change, reason = BYTES[damage]
    data = good.read_bytes()
    assert change(data) != data
    (tmp_path / "a.kvv").write_bytes(change(data))
    refused(tmp_path / "a.kvv", bundled, reason)


def test_files_of_other_makers(tmp_path: Path, bundled: Any) -> None:
    refused(BUNDLED / "model.safetensors", bundled, "holds tensors but no session, its format is 'pt'")
    save_file({"layers.0.keys": torch.zeros(3)}, tmp_path / "a.kvv")
    refused(tmp_path / "a.kvv", bundled, "holds tensors but no session, its format is None")
    torch.save({"layers.0.keys": torch.zeros(3)}, tmp_path / "b.kvv")
    refused(tmp_path / "b.kvv", bundled, OTHER)


def test_any_flipped_bit(good: Path, tmp_path: Path, bundled: Any) -> None:
    data, path, draw = good.read_bytes(), tmp_path / "a.kvv", random.Random(0)
    ends = 8 * header(data), 8 * len(data)
    bits = [*range(64), *draw.sample(range(64, ends[0]), 150), *draw.sample(range(*ends), 100)]
    for bit in bits:
        path.write_bytes(flipped(data, bit))
        with pytest.raises(kv.CacheError):
            read_snapshot(path, bundled[0])


def test_any_cut(good: Path, tmp_path: Path, bundled: Any) -> None:
    data, path, draw = good.read_bytes(), tmp_path / "a.kvv", random.Random(1)
    for length in [*range(12), *draw.sample(range(12, header(data)), 30), *draw.sample(range(len(data)), 60)]:
        path.write_bytes(data[:length])
        with pytest.raises(kv.CacheError, match=r"cut off|empty"):
            read_snapshot(path, bundled[0])


# --- Content that is wrong although the checksum is right -------------------------------------------------------------

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
        "facts.session.recipe: 25% of an endless stream caps noth",
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
    "a row too few": ("session.stream.rows.3", None, "tells of 3 layers, and the model has 4"),
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
        r"contradicts itself \(facts.session.stream.logical is 0, but 464 ",
    ),
}


def edited(facts: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """Facts with another value at a place, null for NULL, and without it for None."""
    wrong: Any = {"facts": deepcopy(facts)}
    *path, last = ["facts", *filter(None, where.split("."))]
    inside = wrong
    for name in path:
        inside = inside[int(name)] if isinstance(inside, list) else inside[name]
    key = int(last) if isinstance(inside, list) else last
    if value is None:
        del inside[key]
    else:
        inside[key] = None if value is NULL else value
    assert wrong["facts"] != facts
    return wrong["facts"]


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
    refused(tmp_path / "a.kvv", bundled, "has facts that cannot be right .*: copy it again")


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
                         "has a tensor too many, layers.4.keys"),
    "a stranger": (lambda held: held | {"weights": torch.zeros(3)}, "has a tensor too many, weights"),
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
    "frames without times": (lambda held: without(held, "waiting.times"), "has a tensor too many, waiting.frames"),
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
        "facts.session.stream.timeline.last.frame is 28, of 30 frames",
    ),
    "a grid of fewer rows": (
        {f"{TIME}.grid": [29, 2, 8], **{f"session.stream.rows.{n}.grids": {"0": [29, 2, 8]} for n in range(4)}},
        r"layers.0.tags has frames, rows or columns outside of 29×2×8",
    ),
    "a grid of a billion": ({f"{TIME}.grid": [29, 10**9, 10**9]}, "facts.session.stream.logical is 504, but 29000000"),
    "no grid": ({f"{TIME}.grid": NULL}, "facts.session.stream.timeline needs grid, runs and last together"),
    "no last frame": ({f"{TIME}.last": NULL}, "stream.timeline needs grid, runs and last together"),
    "no runs": ({f"{TIME}.runs": []}, "stream.timeline needs grid, runs and last together"),
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
        r"rows\[1\].starts puts segment 1 at 4, where",
    ),
    "a start behind the entries": ({f"{ROW}.starts": {"0": 41}}, r"rows\[1\].starts puts segment 0 at 41, where"),
    "a start where text is": (
        {f"{ROW}.starts": {"0": 3}},
        "layers.1.tags has text among the 100 entries of video fr",
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
        r"timeline.runs\[1\] starts at 120, before the end of the one",
    ),
    "a run of more rows": ({f"{TIME}.runs.0.least": 5}, r"timeline.runs\[0\].least is 5, with frames of 4×4"),
    "another last frame": ({f"{TIME}.last.frame": 27}, "stream.timeline.last.frame is 27, of 29 frames"),
    "a last frame outside of its run": (
        {f"{TIME}.last.position": 100.0},
        "last.position is 100, outside of the last r",
    ),
    "a base after the last frame": (
        {f"{TIME}.base": {"position": 226.0, "seconds": 285.0, "frame": 28}},
        "stream.timeline.base comes after last: time runs backwards",
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
        "talk.unsaid has 2 tokens, but an answer left at most 1",
    ),
    "no last time": ({f"{INBOX}.last_time": NULL}, "inbox needs count, last_time, size and untold together"),
    "no size": ({f"{INBOX}.size": NULL}, "inbox needs count, last_time, size and untold together"),
    "no frame counted": ({f"{INBOX}.count": 0}, "inbox needs count, last_time, size and untold together"),
    "a last time of no frame": ({f"{INBOX}.untold": 3}, "inbox.last_time is 390.0, but told and untold make it 391"),
    "fewer frames than in the cache": ({f"{INBOX}.count": 28}, "inbox.count is 28, but 29 temporal steps are cached"),
    "far more frames than in the cache": ({f"{INBOX}.count": 10**6}, "inbox.count is 1000000, but 3 are queued and 29"),
    "a last time before the cache": (
        {f"{INBOX}.last_time": 200.0, f"{INBOX}.told": 200.0},
        "facts.session.inbox.last_time is 200.0, before the last cached frame",
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


INDICES = "needs ascending token indices from 0 to 503"
KINDS = "needs 100 entries of video per head and text otherwise"
INFINITE = "layers.0.places has positions that are not finite"
SLOTS = "has frames, rows or columns outside of 29×4×4"
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
    "a position to come": ("layers.0.places", put(243.0, 4), "layers.0.places has positions outside of 0 to 242"),
    "a position below zero": ("layers.0.places", put(-1.0, 5), "layers.0.places has positions outside of 0 to 242"),
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
    refused(
        tmp_path / "a.kvv", bundled, rf"contradicts itself \(.*{reason}.*: copy it again, or save the session again"
    )


def test_a_session_that_contradicts_itself_is_not_written(tmp_path: Path, bundled: Any) -> None:
    """Such as one whose keys overflowed."""
    snapshot = lived(*bundled, budget=100).snapshot()
    snapshot.tensors["layers.2.keys"][0, 0, 0, 0] = torch.nan
    with pytest.raises(kv.CacheError, match=r"cannot be written to .*a\.kvv: its snapshot .*layers.2.keys holds NaN"):
        write_snapshot(tmp_path / "a.kvv", snapshot, bundled[0])
    assert not list(tmp_path.iterdir())


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


# --- Sizes ------------------------------------------------------------------------------------------------------------


def claim(
    path: Path, facts: dict[str, Any], shapes: dict[str, tuple[str, list[int]]], metadata: dict[str, str]
) -> None:
    """Write a sparse file: a header, and as many zeros as its tensors take."""
    head: dict[str, Any] = {"__metadata__": metadata | {"facts": json.dumps(facts), "sha256": "0" * 64}}
    end = 0
    for name, (dtype, shape) in shapes.items():
        size = {"F32": 4, "I32": 4, "U8": 1, "F64": 8}[dtype] * math.prod(shape)
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    assert path.stat().st_blocks * 512 <= 16384


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are read."""
    names: list[str] = []
    stock = TensorFile.read

    def note(file: TensorFile, name: str) -> Tensor:
        names.append(name)
        return stock(file, name)

    monkeypatch.setattr(TensorFile, "read", note)
    return names


DTYPES = {torch.float32: "F32", torch.int32: "I32", torch.uint8: "U8", torch.float64: "F64"}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[str, list[int]]]:
    return {name: (DTYPES[tensor.dtype], list(tensor.shape)) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", ["layers.0.keys", "layers.3.tags", "waiting.frames", "waiting.times", "another"])
def test_a_file_that_claims_30_gigabytes_is_not_read(
    name: str, good: Path, tmp_path: Path, bundled: Any, read: list[str]
) -> None:
    metadata, facts, tensors = parts(good)
    shapes = shapes_of(tensors)
    dtype, shape = shapes.get(name, ("F32", [1]))
    shape = [30 * 2**30 // 8, *shape[1:]] if len(shape) == 1 else [*shape[:-2], 10**8, shape[-1]]
    claim(tmp_path / "a.kvv", facts, shapes | {name: (dtype, shape)}, metadata)
    assert (tmp_path / "a.kvv").stat().st_size > 2**30
    refused(tmp_path / "a.kvv", bundled, "(has|as a tensor too many,) .*: copy it again")
    assert not read


def test_a_consistent_claim_is_read_no_further_than_its_first_tags(
    good: Path, tmp_path: Path, bundled: Any, read: list[str]
) -> None:
    """Three gigabytes of zeros, all of whose sizes agree."""
    entries = 840_000
    metadata, facts, tensors = parts(good)
    steps, text = entries // 16, facts["session"]["stream"]["logical"] - 464
    grid = [steps, 4, 4]
    start = facts["session"]["stream"]["timeline"]["runs"][0]["start"]
    changes: dict[str, Any] = {
        "recipe.budget": entries,
        "stream.logical": entries + text,
        "stream.timeline.grid": grid,
        "stream.timeline.runs": [{"start": start, "end": start + steps, "least": 4}],
        "stream.timeline.last": {"position": start + steps - 1.0, "seconds": 284.0, "frame": steps - 1},
        "inbox.count": 2 * steps + 3,
    }
    for layer in range(4):
        counted = {"held": {"0": entries}, "seen": {"0": entries}, "grids": {"0": grid}, "following": steps + text}
        changes |= {f"stream.rows.{layer}.{name}": value for name, value in counted.items()}
    for where, value in changes.items():
        facts = edited(facts, f"session.{where}", value)
    shapes = shapes_of(tensors)
    shapes |= {
        name: (dtype, [1, 3, entries + text, shape[-1]]) for name, (dtype, shape) in shapes.items() if "layers" in name
    }
    claim(tmp_path / "a.kvv", facts, shapes, metadata)
    assert (tmp_path / "a.kvv").stat().st_size > 3 * 2**30
    refused(tmp_path / "a.kvv", bundled, r"layers.0.tags needs ascending token indices .*: copy it again")
    assert read == ["layers.0.tags"]


@pytest.mark.parametrize("name", ["layers.0.tags", "layers.2.keys", "waiting.frames"])
def test_a_file_that_is_truncated_while_it_is_read(
    name: str, good: Path, tmp_path: Path, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a mapped one would end the process."""
    path, stock = tmp_path / "a.kvv", TensorFile.read
    path.write_bytes(good.read_bytes())

    def read(file: TensorFile, part: str) -> Tensor:
        if part == name:
            os.truncate(path, 10_000)
        return stock(file, part)

    monkeypatch.setattr(TensorFile, "read", read)
    refused(path, bundled, r"is cut off or damaged \(it ended while .* was read\): copy it again")


def test_a_header_that_is_not_one(good: Path, tmp_path: Path, bundled: Any) -> None:
    metadata, facts, tensors = parts(good)
    shapes, path = shapes_of(tensors), tmp_path / "a.kvv"
    wrong: dict[str, Any] = {
        "layers.0.keys": ("F32", [1, 3, 10**400, 32]),
        "layers.0.values": ("F32", [1, -3, 140, 32]),
        "waiting.times": ("F64", [3.0]),
    }
    for name, (dtype, shape) in wrong.items():
        claim(path, facts, shapes, metadata)
        data = path.read_bytes()
        old, new = (json.dumps(each[1]).encode() for each in (shapes[name], (dtype, shape)))
        start = data.index(f'"{name}"'.encode())
        changed = data[8:start] + data[start : header(data)].replace(old, new, 1)
        path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[header(data) :])
        refused(path, bundled, r"is cut off or damaged \(.*: copy it again")
