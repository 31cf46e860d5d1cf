"""Snapshots as files: safetensors with the facts beside the tensors, whole, checked, and bound to a model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..compressor.entries import Places, Tags
from ..errors import CacheError
from ..models import adapter_for
from ..models.base import Adapter
from ..models.fingerprint import Fingerprint, bytes_of, difference, fingerprint
from ..utils.files import atomic_write
from .schema import SessionFacts, check, check_recipe, is_plain
from .state import Snapshot

FORMAT, VERSION = "kvpress-video session", "2"
_METADATA = {"format", "version", "facts", "sha256"}
_AGAIN = "copy it again, or save the session again"


class FileFacts(TypedDict):
    """What a file says beside its tensors."""

    session: SessionFacts
    model: Fingerprint


def write_snapshot(path: Path, snapshot: Snapshot, model: Any) -> None:
    """Write a session's snapshot. What was at `path` stays there until the new file is whole and on the disk.

    Args:
        path: usually `….kvv`.
        snapshot: on any device.
        model: the session's.

    Raises:
        CacheError: the method or a setting was given as an object, which no file can hold; or `path` cannot be written.
    """
    if path.exists() and not path.is_file():
        raise CacheError(f"{path} is {_kind(path)}: give the path of a file, such as session.kvv.")
    for name, value in snapshot.facts["recipe"].items():
        if not is_plain(value):
            raise CacheError(
                f"A file cannot hold {name}={value!r:.80}: start the session with the method's name and plain "
                "settings, such as 'infinipot-v:tar_ratio=0.5', to save it."
            )
    facts = json.dumps({"session": snapshot.facts, "model": fingerprint(model)}, allow_nan=False)
    tensors = snapshot.to("cpu").tensors
    try:
        _check_tensors(_parse(facts)["session"], tensors, model)
    except CacheError as error:
        raise CacheError(f"The session cannot be written to {path}: its snapshot {error}.") from error
    data = save(tensors, {"format": FORMAT, "version": VERSION, "facts": facts, "sha256": _digest(facts, tensors)})
    try:
        with atomic_write(path) as scratch, scratch.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _settle(path.parent)
    except OSError as error:
        raise CacheError(
            f"{path} cannot be written ({error.strerror}): it takes {len(data)} bytes in a folder that exists."
        ) from error


def read_snapshot(path: Path, model: Any) -> Snapshot:
    """The snapshot in a file, in memory of its own.

    Args:
        path: of a file that `write_snapshot` wrote, on any machine.
        model: the one that the session ran on; on any device.

    Raises:
        CacheError: there is no such file, it is not whole or not as it was written, or it belongs to another model;
            the message says which, and what to do.
    """
    try:
        _check_kind(path)
        text, tensors = _read(path)
        facts = _parse(text)
        _check_model(facts["model"], model)
        _check_tensors(facts["session"], tensors, model)
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise CacheError(f"{path} is cut off or damaged ({error}): {_AGAIN}.") from error
    except CacheError as error:
        raise CacheError(f"{path} {error}.") from error
    return Snapshot(tensors, dict(facts["session"]))


def _check_kind(path: Path) -> None:
    if not path.exists():
        raise CacheError("does not exist: check the path")
    if not path.is_file():
        raise CacheError(f"is {_kind(path)}: give the path of a session's file")
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) < 9:
        raise CacheError(f"is {f'cut off after {len(start)} bytes' if start else 'empty'}: {_AGAIN}")
    if start[8:] != b"{":
        raise CacheError(f"is not a session's file, it begins with {start!r}: give one that VideoSession.save() wrote")


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a device or pipe"


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The facts as they stand in the file, and the tensors in memory of their own, once the checksum is right."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise CacheError(
                f"holds tensors but no session, its format is {metadata.get('format')!r}: give a file that "
                "VideoSession.save() wrote"
            )
        if metadata.get("version") != VERSION:
            raise CacheError(
                f"is of version {metadata.get('version')!r} and this package reads {VERSION!r}: use the version of "
                "kvpress-video that wrote it, or a newer one"
            )
        if metadata.keys() != _METADATA:
            raise CacheError(f"is damaged, it is described by {', '.join(sorted(metadata))}: {_AGAIN}")
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if (found := _digest(metadata["facts"], tensors)) != metadata["sha256"]:
        raise CacheError(
            f"has changed since it was written, its checksum is {found[:12]}…, not {metadata['sha256'][:12]}…: {_AGAIN}"
        )
    return metadata["facts"], tensors


def _parse(text: str) -> FileFacts:
    try:
        facts: FileFacts = json.loads(text)
        check(facts, FileFacts, "facts")
        check_recipe(facts["session"]["recipe"])
    except (ValueError, RecursionError, CacheError) as error:
        raise CacheError(f"has facts that cannot be right ({error}): {_AGAIN}") from error
    return facts


def _check_model(there: Fingerprint, model: Any) -> None:
    if (apart := difference(there, fingerprint(model))) is not None:
        raise CacheError(
            f"was made with a model {apart}, under transformers {there['transformers']}: load the model that it was "
            "made with, in the same dtype"
        )


def _check_tensors(facts: SessionFacts, tensors: Mapping[str, Tensor], model: Any) -> None:
    wanted = _wanted(facts, tensors, adapter_for(model))
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise CacheError(f"{'lacks the tensor' if name in wanted else 'has a tensor too many,'} {name}: {_AGAIN}")
    for name, (shape, dtype) in wanted.items():
        found = tensors[name]
        if (*found.shape,) != shape or found.dtype != dtype:
            raise CacheError(f"has {name} as {(*found.shape,)} {found.dtype}, not {shape} {dtype}: {_AGAIN}")


def _wanted(
    facts: SessionFacts, tensors: Mapping[str, Tensor], adapter: Adapter
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor that there has to be; how many entries and frames there are, the tensors say."""
    stream, layers = facts["stream"], len(adapter.attentions)
    if len(stream["rows"]) != layers:
        raise CacheError(f"tells of {len(stream['rows'])} layers, and the model has {layers}: {_AGAIN}")
    heads, width = adapter.kv_heads, adapter.head_dim
    keys, values = adapter.cache_dtypes
    places = Places.COMPACT_WIDTH if facts["recipe"]["positions"] == "compact" else Places.WIDTH
    parts = {
        "keys": (width, keys),
        "values": (width, values),
        "tags": (Tags.WIDTH, torch.int32),
        "places": (places, torch.float32),
    }
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        f"layers.{layer}.{part}": ((1, heads, _length(tensors, f"layers.{layer}.tags", -2), last), dtype)
        for layer in range(layers if stream["logical"] else 0)
        for part, (last, dtype) in parts.items()
    }
    if waiting := _length(tensors, "waiting.times", -1):
        wanted["waiting.frames"] = (waiting, *(facts["inbox"]["size"] or ()), 3), torch.uint8
        wanted["waiting.times"] = (waiting,), torch.float64
    return wanted


def _length(tensors: Mapping[str, Tensor], name: str, dim: int) -> int:
    found = tensors.get(name)
    return found.shape[dim] if found is not None and found.ndim >= -dim else 0


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """sha256 of the facts, then of every tensor in order of name: a line of name, dtype and shape, and its bytes."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].dtype} {(*tensors[name].shape,)}\n".encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()


def _settle(folder: Path) -> None:
    """See to it that a folder's names are on the disk; where folders can be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
