"""Files that are no sessions, not whole, or not as they were written: each is refused with its reason, none loads."""

from __future__ import annotations

import hashlib
import json
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
from kvpress_video.streaming.checkpoint import read_snapshot

BUNDLED = Path(kv.__file__).parent / "data" / "bundled"
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
                     "contradicts itself .facts.session.inbox.last_time is 391.0, not untold - 1 frames after told"),
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
    "a budget of 400 digits": ("session.recipe.budget", "9" * 400, "facts.session.recipe: A budget must be above zero"),
    "a budget of 300 digits": ("session.recipe.budget", "9" * 300, "facts.session.recipe: A budget must be below"),
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
        r"contradicts itself \(facts.session.stream.logical is 0, with 464 ",
    ),
}


@pytest.mark.parametrize("damage", FACTS)
def test_facts_that_cannot_be(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    where, value, reason = FACTS[damage]
    metadata, facts, tensors = parts(good)
    wrong: Any = {"facts": deepcopy(facts)}
    *path, last = ["facts", *filter(None, where.split("."))]
    inside = wrong
    for name in path:
        inside = inside[int(name)] if isinstance(inside, list) else inside[name]
    if value is None:
        del inside[int(last) if isinstance(inside, list) else last]
    else:
        inside[last] = value
    assert wrong["facts"] != facts
    forge(tmp_path / "a.kvv", metadata, json.dumps(wrong["facts"]), tensors)
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
