"""The file of a session, and what tests write in its place: parts exchanged under a checksum that is right."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from saved_sessions import lived
from torch import Tensor

import kvpress_video as kv

NULL = object()
Parts = tuple[dict[str, str], dict[str, Any], dict[str, Tensor]]


@pytest.fixture(scope="session")
def good(bundled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a session with frames that wait."""
    path = tmp_path_factory.mktemp("good") / "good.kvv"
    lived(*bundled, budget=100, recent_ratio=0.25).save(path)
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
