"""States of visual tokens in the layers of a stock model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.models import adapter_for
from kvpress_video.models.cache_argument import CACHE
from kvpress_video.video.prompt import prepare

from ..world import HELD_OUT_SEED, make_clips

SEED = HELD_OUT_SEED + 60_000
"""Seed of the first clip of probes, which no published sweep uses."""


@dataclass(frozen=True)
class VisualStates:
    """States of the visual tokens of one prompt.

    Attributes:
        hidden: states before the first text layer and after each layer, (n, width) each; the last one normalised.
        values: values of each text layer with full attention, (kv_heads, n, head_dim) each.
    """

    hidden: Sequence[Tensor]
    values: Sequence[Tensor]


@torch.no_grad()
def visual_states(model: Any, processor: Any, video: kv.Video, question: str = "What happens?") -> VisualStates:
    """Run the stock model on a video and a question, without compression."""
    adapter = adapter_for(model)
    inputs = prepare(processor, video, question).to(model.device)
    output = model(**inputs, use_cache=True, output_hidden_states=True)
    visual = torch.isin(inputs["input_ids"][0], torch.tensor(list(adapter.placeholders.values()), device=model.device))
    layers = output[CACHE].layers
    numbers = [int(attention.layer_idx) for attention in adapter.attentions]  # type: ignore[arg-type]
    return VisualStates(
        [states[0, visual] for states in output.hidden_states],
        [layers[number].values[0][:, visual] for number in numbers],
    )


def states_of_clips(model: Any, processor: Any, count: int, frames: int, folder: Path) -> Iterator[VisualStates]:
    """Iterate over clips of the world, made in a folder, half of them with a moving camera."""
    for clip in make_clips(count, frames, seed=SEED, folder=folder):
        yield visual_states(model, processor, kv.read_video(clip.path))
