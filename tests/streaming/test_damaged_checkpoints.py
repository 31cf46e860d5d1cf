"""Files that are no sessions, not whole, or larger than what they hold: each is refused with its reason, none loads."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forged_sessions import edited, forge, parts, refused
from safetensors.torch import save_file
from saved_sessions import lived, same
from torch import Tensor

import kvpress_video as kv
from kvpress_video.errors import UnknownNameError
from kvpress_video.streaming.checkpoint import read_snapshot
from kvpress_video.streaming.tensor_file import TensorFile

BUNDLED = Path(kv.__file__).parent / "data" / "bundled"


def header(data: bytes) -> int:
    """Offset of the tensors' bytes."""
    return 8 + int.from_bytes(data[:8], "little")


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_forged_file_is_one_that_loads_while_nothing_is_wrong(good: Path, tmp_path: Path, bundled: Any) -> None:
    metadata, facts, tensors = parts(good)
    forge(tmp_path / "a.kvv", metadata, json.dumps(facts), tensors)
    assert (tmp_path / "a.kvv").stat().st_size == good.stat().st_size
    assert same(
        read_snapshot(tmp_path / "a.kvv", bundled[0]).tensors,
        lived(*bundled, budget=100, recent_ratio=0.25).snapshot().tensors,
    )


# --- Whole files ------------------------------------------------------------------------------------------------------


def test_no_file(tmp_path: Path, bundled: Any) -> None:
    refused(tmp_path / "a.kvv", bundled, "does not exist: check the path")
    refused(tmp_path, bundled, "is a folder: give the path of a session's file")


CUT, OTHER = "is cut off or damaged .*: copy it again", "is not a session's file, it begins with b'"
CHANGED = "has changed since it was written: its checksum is .*: copy it again"
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
                     "is inconsistent .facts.session.inbox.last_time is 391.0, but told and untold imply 390.0"),
    "other checksum": (lambda data: re.sub(rb'"sha256":"....', b'"sha256":"0000', data), CHANGED),
    "tensors exchanged": (lambda data: data.replace(b"s.0.keys", b"s.9.keys").replace(b"s.1.keys", b"s.0.keys")
                          .replace(b"s.9.keys", b"s.1.keys"), CHANGED),
    "a shape turned": (lambda data: data.replace(b'"waiting.times":{"dtype":"F64"', b'"waiting.times":{"dtype":"I64"'),
                       r"has waiting.times as \(3,\) torch.int64, not \(3,\) torch.float64: copy it again"),
    "of another version": (lambda data: data.replace(b'"version":"3"', b'"version":"4"'),
                           "is of version '4' and this package reads 2 and 3: use the version of kvpress-video that"),
    "of another format": (lambda data: data.replace(b'"kvpress-video session"', b'"kvpress-video Session"'),
                          "contains tensors but no session: its format is 'kvpress-video Session': give a file that"),
    "without a checksum": (lambda data: data.replace(b'"sha256":', b'"SHA256":'), "is damaged: its metadata fields"),
}  # fmt: skip


@pytest.mark.parametrize("damage", BYTES)
def test_damaged_bytes(damage: str, good: Path, tmp_path: Path, bundled: Any) -> None:
    change, reason = BYTES[damage]
    data = good.read_bytes()
    assert change(data) != data
    (tmp_path / "a.kvv").write_bytes(change(data))
    refused(tmp_path / "a.kvv", bundled, reason)


def test_files_of_other_makers(tmp_path: Path, bundled: Any) -> None:
    refused(BUNDLED / "model.safetensors", bundled, "contains tensors but no session: its format is 'pt'")
    save_file({"layers.0.keys": torch.zeros(3)}, tmp_path / "a.kvv")
    refused(tmp_path / "a.kvv", bundled, "contains tensors but no session: its format is None")
    torch.save({"layers.0.keys": torch.zeros(3)}, tmp_path / "b.kvv")
    refused(tmp_path / "b.kvv", bundled, OTHER)


def test_any_flipped_bit(good: Path, tmp_path: Path, bundled: Any) -> None:
    data, path, draw = good.read_bytes(), tmp_path / "a.kvv", random.Random(0)
    ends = 8 * header(data), 8 * len(data)
    bits = [*range(64), *draw.sample(range(64, ends[0]), 150), *draw.sample(range(*ends), 100)]
    for bit in bits:
        path.write_bytes(flipped(data, bit))
        with pytest.raises((kv.CacheError, UnknownNameError), match=r"a\.kvv"):
            read_snapshot(path, bundled[0])


def test_any_cut(good: Path, tmp_path: Path, bundled: Any) -> None:
    data, path, draw = good.read_bytes(), tmp_path / "a.kvv", random.Random(1)
    for length in [*range(12), *draw.sample(range(12, header(data)), 30), *draw.sample(range(len(data)), 60)]:
        path.write_bytes(data[:length])
        with pytest.raises(kv.CacheError, match=r"cut off|empty"):
            read_snapshot(path, bundled[0])


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
    refused(tmp_path / "a.kvv", bundled, "(has|as an unexpected tensor,) .*: copy it again")
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
    refused(tmp_path / "a.kvv", bundled, r"layers.0.tags must have ascending token indices .*: copy it again")
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
