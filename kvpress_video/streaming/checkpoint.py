"""Session files: safetensors with the state as JSON in the metadata, written atomically, with a checksum, and bound to
a model.

A session is built only after the parts of its file are checked against each other, the model and the file size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ..errors import CacheError, KVPressVideoError
from ..models import adapter_for
from ..models.fingerprint import Fingerprint, bytes_of, difference, fingerprint
from ..utils.files import atomic_write, irregular_kind
from .consistency import Contradiction, check_state
from .newest_frames import holds_frames
from .schema import dump, is_plain, parse
from .state import SessionState, Snapshot
from .tensor_checks import by_size, check_specs, check_tensor
from .tensor_file import DamagedError, TensorFile, TensorSpec

FORMAT, VERSION = "kvpress-video session", "3"
READABLE = ("2", VERSION)
_METADATA = {"format", "version", "facts", "sha256"}
_AGAIN = "copy it again, or save the session again"


def write_snapshot(path: Path, snapshot: Snapshot, model: Any) -> None:
    """Write a session to a file. A file at `path` is replaced only once the new one is complete and on disk.

    Args:
        path: usually `….kvv`; a new file is readable by its owner only.
        snapshot: snapshot on any device.
        model: model of the session.

    Raises:
        CacheError: the method or a setting is an object, which no file can hold; the snapshot is inconsistent; or
            `path` cannot be written.
    """
    try:
        kind = irregular_kind(path)
    except OSError as error:
        raise CacheError(f"{path} cannot be written ({error.strerror}): give the path of a file.") from error
    if kind:
        raise CacheError(f"{path} is {kind}: give the path of a file, such as session.kvv.")
    if holds_frames(snapshot.tensors):
        raise CacheError(
            "The session holds frames to re-encode, which cannot be saved: fork() or snapshot() it, or restore a "
            "snapshot with method=… that does not re-encode frames, and save that."
        )
    for name, value in snapshot.state.config.arguments.items():
        if not is_plain(value):
            raise CacheError(
                f"A file cannot hold {name}={value!r:.80}: start the session with the method's name and plain "
                "settings, such as 'infinipot-v:tar_ratio=0.5', to save it."
            )
    tensors = snapshot.to("cpu").tensors
    try:
        text = dump(snapshot.state, fingerprint(model))
        adapter = adapter_for(model)
        check_state(snapshot.state, adapter)
        specs = {name: TensorSpec((*tensor.shape,), tensor.dtype) for name, tensor in tensors.items()}
        check_specs(snapshot.state, adapter, specs)
        for name, tensor in tensors.items():
            check_tensor(name, tensor, snapshot.state)
    except CacheError as error:
        raise CacheError(f"The session cannot be written to {path}: its snapshot {error}.") from error
    data = save(tensors, {"format": FORMAT, "version": VERSION, "facts": text, "sha256": _digest(text, tensors)})
    try:
        with atomic_write(path, mode=0o600, durable=True) as scratch:
            scratch.write_bytes(data)
    except OSError as error:
        raise CacheError(
            f"{path} cannot be written ({error.strerror}): it takes {len(data)} bytes in a folder that exists."
        ) from error


def read_snapshot(path: Path, model: Any) -> Snapshot:
    """Read a session from a file.

    Args:
        path: a file that `write_snapshot` wrote, on any machine.
        model: the model that the session ran on, on any device.

    Raises:
        CacheError: the file does not exist, is incomplete, damaged or inconsistent, or belongs to another model; the
            message states which, and the remedy.
        UnknownNameError: the method, or a setting of it, is not installed here.
    """
    with naming(path):
        if kind := irregular_kind(path):
            raise CacheError(f"is {kind}: give the path of a session's file")
        if not path.exists():
            raise CacheError("does not exist: check the path")
        with path.open("rb") as file:
            return _read(TensorFile(file), model)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of the file to errors of reading it and of building its session."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}.") from error
    except (DamagedError, Contradiction) as error:
        raise CacheError(f"{path} {error}: {_AGAIN}.") from error
    except CacheError as error:
        raise CacheError(f"{path} {error}.") from error
    except KVPressVideoError as error:
        raise type(error)(f"{path}: {error}") from error
    except (MemoryError, OverflowError, RuntimeError) as error:
        raise CacheError(f"{path} cannot be loaded: {error}") from error


def _read(file: TensorFile, model: Any) -> Snapshot:
    metadata, adapter = file.metadata, adapter_for(model)
    _check_format(metadata)
    state, there = _parse(metadata["facts"])
    _check_model(there, model)
    check_state(state, adapter)
    check_specs(state, adapter, file.specs)
    first, rest = by_size(file.specs)
    tensors = {}
    for name in first:  # before reading the rest, which may be large
        tensors[name] = file.read(name)
        check_tensor(name, tensors[name], state)
    for name in rest:
        tensors[name] = file.read(name)
    if (found := _digest(metadata["facts"], tensors)) != metadata["sha256"]:
        raise CacheError(
            f"has changed since it was written: its checksum is {found[:12]}…, not {metadata['sha256'][:12]}…: {_AGAIN}"
        )
    for name in rest:
        check_tensor(name, tensors[name], state)
    return Snapshot(tensors, state)


def _check_format(metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise CacheError(
            f"contains tensors but no session: its format is {metadata.get('format')!r}: give a file that "
            "VideoSession.save() wrote"
        )
    if metadata.get("version") not in READABLE:
        raise CacheError(
            f"is of version {metadata.get('version')!r} and this package reads {' and '.join(READABLE)}: use the "
            "version of kvpress-video that wrote it, or a newer one"
        )
    if metadata.keys() != _METADATA:
        raise CacheError(f"is damaged: its metadata fields are {', '.join(sorted(metadata))}: {_AGAIN}")


def _parse(text: str) -> tuple[SessionState, Fingerprint]:
    try:
        session, model = parse(text)
        return session.build(), model
    except CacheError as error:
        raise CacheError(f"has invalid facts ({error}): {_AGAIN}") from error


def _check_model(there: Fingerprint, model: Any) -> None:
    if (apart := difference(there, fingerprint(model))) is not None:
        raise CacheError(
            f"was made with a model {apart}, under transformers {there['transformers']}: load the model that it was "
            "made with, in the same dtype"
        )


def _digest(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash the JSON, then every tensor in order of name: a line of name, dtype and shape, and its bytes (SHA-256)."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].dtype} {(*tensors[name].shape,)}\n".encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()
