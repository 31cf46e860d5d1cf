"""Layers of a session that are not compressed: their windows and states are paid for, saved and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.torch import save_file
from sessions import STREAMED, ask, cache_of, check_same, frames_for, tiny

import kvpress_video as kv
from kvpress_video.cache.uncompressed import states
from kvpress_video.models import adapter_for
from kvpress_video.streaming.checkpoint import _digest

MIXED = [family for family in STREAMED if family == "gemma3" or family.startswith("qwen3_5")]
pytestmark = [
    pytest.mark.skipif(not MIXED, reason="families of transformers 5"),
    pytest.mark.parametrize("family", MIXED or zoo.FAMILIES[:1]),
]


def test_a_budget_of_bytes_pays_for_them(family: str) -> None:
    session = tiny("random", "400000B", family, text_room=60, chunk=40)
    for seed in range(6):
        session.push(frames_for(family, 16, seed=seed))
        session.ask("What?", max_new_tokens=3, keep=False)
        assert session.stats.peak_bytes <= 400_000
    others = sum(state.nbytes for state in states(session.stream.cache).values())
    assert others == adapter_for(session.model).uncompressed_bytes(10**6)
    entries = sum(layer.bytes for layer in session.stream.layers)
    assert session.stats.bytes == entries + others > 200_000


def test_a_file_holds_them(family: str, tmp_path: Path) -> None:
    """Before the first token, and after many: question and answer are then the same to the last bit."""
    session = tiny("infinipot-v", 40, family)
    for _ in range(2):
        session.save(tmp_path / "a.kvv")
        loaded = kv.VideoSession.load(tmp_path / "a.kvv", session.model, session.processor)
        check_same(cache_of(loaded), cache_of(session))
        check_same(ask(loaded, "What?").logits, ask(session, "What?").logits)
        session.push(frames_for(family, 9))


def test_a_file_without_one_of_them_is_refused(family: str, tmp_path: Path) -> None:
    session = tiny("infinipot-v", 40, family)
    session.push(frames_for(family, 9))
    session.flush()
    session.save(tmp_path / "a.kvv")
    with safe_open(tmp_path / "a.kvv", "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name in sorted(tensors) if name.startswith("others."))
    for damage in (None, torch.full_like(tensors[name], torch.nan), tensors[name][..., :-1].contiguous()):
        changed = {other: tensor for other, tensor in tensors.items() if other != name}
        changed |= {} if damage is None else {name: damage}
        facts = metadata | {"sha256": _digest(metadata["facts"], changed)}
        save_file(changed, tmp_path / "b.kvv", facts)
        with pytest.raises(kv.CacheError, match=name.replace(".", r"\.")):
            kv.VideoSession.load(tmp_path / "b.kvv", session.model, session.processor)
