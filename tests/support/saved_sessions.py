"""Sessions that have seen and said something, and how they go on, here or in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LogitsProcessorList

import kvpress_video as kv

SESSIONS: dict[str, dict[str, Any]] = {
    "keep": {"budget": 200, "positions": "keep"},
    "compact": {"budget": 200, "position_limit": 240},  # so few that they have to be rescaled
    "bytes": {"budget": "1500KB", "text_room": 80},
    "full": {"method": "full", "chunk": 64, "position_limit": 240},
    "detachable": {"method": "detachable:scorer=novelty", "budget": 200, "window": 0.4},
    "banked": {"method": "detachable:scorer=novelty", "budget": 200, "window": 0.4, "bank_on": "disk"},
    "probe": {"method": "streammem", "budget": 200, "system": "Say what you see."},
}


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Random frames (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 112, 112, 3), dtype=np.uint8)


def lived(model: Any, processor: Any, **options: Any) -> kv.VideoSession:
    """A session of two turns, with frames at uneven times; the last three wait."""
    session = kv.VideoSession(model, processor, **options)
    session.push(frames(41, seed=1), np.arange(41) * 2.9 + 5)
    session.ask("what colour is the large square?", max_new_tokens=5)
    session.push(frames(16, seed=2), np.arange(16) * 6 + 200)
    session.ask("where was it before?", max_new_tokens=5)
    session.push(frames(3, seed=3), [300, 340, 390])
    return session


def go_on(session: kv.VideoSession) -> dict[str, Tensor]:
    """Two more turns with more frames: every logit of the answers, and what is held in the end."""
    logits: list[Tensor] = []

    def note(_: Tensor, scores: Tensor) -> Tensor:
        logits.append(scores.clone())
        return scores

    for turn in range(2):
        processors = LogitsProcessorList([note])
        session.ask("what is there now?", max_new_tokens=6, min_new_tokens=6, logits_processor=processors)
        session.push(frames(24, seed=4 + turn))
    return {"logits": torch.cat(logits)} | session.snapshot().tensors


def go_on_elsewhere(folder: Path) -> None:
    """In another process, load and continue every session of a folder, and write the logits next to its file."""
    command = [sys.executable, "-c", f"import saved_sessions; saved_sessions._load_and_go_on({str(folder)!r})"]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=300)


def _load_and_go_on(folder: str) -> None:
    torch.set_num_threads(1)
    model, processor = kv.load_bundled(device="cpu")
    for file in sorted(Path(folder).glob("*.kvv")):
        session = kv.VideoSession.load(file, model, processor)
        facts = {"turns": json.dumps(session.turns), "stats": str(session.stats)}
        save_file(go_on(session), file.with_suffix(".safetensors"), facts)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit, so that what is not a number equals itself."""
    return one.keys() == other.keys() and all(
        (tensor.dtype, tensor.shape) == (other[name].dtype, other[name].shape)
        and tensor.contiguous().view(torch.uint8).equal(other[name].contiguous().view(torch.uint8))
        for name, tensor in one.items()
    )


def plain(facts: Any) -> Any:
    """As JSON gives them back."""
    return json.loads(json.dumps(facts))
