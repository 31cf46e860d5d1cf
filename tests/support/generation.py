"""What the tests of the whole chain share: prompts, generation with logits, and one setting per method."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import zoo
from torch import Tensor

from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.registry import method_class, method_names
from kvpress_video.models import adapter_for

SCORES_ALONE = {
    "bucketed", "chunk", "diversity", "dual-rate", "evs", "keydiff", "lagkv", "leverage", "otsu", "pyramid",
    "reconstruction", "residual", "slots", "tova", "vfl", "vidcom2",
}  # fmt: skip
"""Methods that need nothing of a model that others do not: outside of `tests/methods` theirs are slow tests."""
ROUTED = ("mod", "transv")
"""Methods by which tokens skip layers, which no mask of the stock model equals; see `prefill/test_token_routing.py`."""
BESIDES = ("fresh", "focus", "rekv")
"""Methods that read more than the cache holds, which have tests of their own."""
UNEVEN_HEADS = ("ada",)
"""Methods whose heads keep different numbers; see `cache/test_uneven_heads.py`."""
OF_THEIR_OWN = ("full", *ROUTED, *BESIDES, *UNEVEN_HEADS)
METHODS = [name for name in method_names() if name not in OF_THEIR_OWN and "cache" in method_class(name).stages]
UNEVEN = ("per-layer", "pyramid")
"""Methods whose layers have different budgets."""
SETTINGS: dict[str, dict[str, Any]] = {
    "standby": {"n": 4},
    "standby-novelty": {"n": 4},
    "sink-window": {"sinks": 2},
    "detachable": {"scorer": "van", "window": 0.7},
    "dual-rate": {"base": "key-norm"},  # held copies score alike: a tie may fall either way where scores are sums
    "pyramid": {"beta": 2.0},
    "hermes": {"summary": False},  # what is kept is kept as it was, so that the stock model can be masked like it
    "residual": {"means": 0.0},
    "streammem": {"prototypes": 0.0},
    "vfl": {"shares": (1.02, 0.98)},
    "vfl-drop": {"left": 16},
}


@cache
def model_of(family: str, attention: str = "sdpa") -> Any:
    """One model per family and attention for the whole run; every test leaves it as it was."""
    return zoo.build(family, attention)


def compressed(cache: Any) -> list[Any]:
    """The layers of a cache that are compressed."""
    return [layer for layer in cache.layers if isinstance(layer, CompressedLayer)]


class Answer(NamedTuple):
    """New tokens (batch, n), and the logits of each, (batch, n, vocabulary)."""

    tokens: Tensor
    logits: Tensor
    output: Any


def answer(model: Any, inputs: dict[str, Tensor], new: int = 5, **options: Any) -> Answer:
    """Greedy unless the options say otherwise."""
    output = model.generate(**inputs, max_new_tokens=new, output_logits=True, return_dict_in_generate=True, **options)
    return Answer(output.sequences[:, -new:], torch.stack(output.logits, dim=1), output)


def after_frames(family: str, prompt: zoo.Prompt, ids: Tensor) -> int:
    """The place in ids (n,) after the last frame of a prompt and the tokens that close it, as they close the one
    before."""
    *_, last = slots = zoo.expected_layout(family, prompt)
    before = [slot.token + 1 for slot in slots if (slot.segment, slot.frame) == (last.segment, last.frame - 1)]
    end, closes = last.token + 1, adapter_for(model_of(family)).label_closes
    for closing in ids[before[-1] : before[-1] + closes].tolist() if before else ():
        if int(ids[end]) != closing:
            break
        end += 1
    return end


def forced(tokens: Tensor, length: int) -> Any:
    """A logits processor that makes a model say `tokens` (batch, n) after a prompt of `length`."""

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        step = ids.shape[1] - length
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, step : step + 1], 0.0)

    return force


def video_prompt(family: str, frames: int = 6) -> zoo.Prompt:
    """Text, one video, text."""
    return zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(frames, *zoo.grid(family), seed=2), zoo.Text(8, seed=3)])


def two_videos(family: str) -> zoo.Prompt:
    """A prompt with two videos."""
    size = zoo.grid(family)
    parts: list[Any] = [zoo.Video(3, *size, seed=5), zoo.Text(3, seed=6), zoo.Video(3, *size, seed=7)]
    return zoo.Prompt([zoo.Text(4, seed=4), *parts, zoo.Text(6, seed=8)])
