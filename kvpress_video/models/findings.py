"""Results of the self-check of a model without a dedicated adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

from torch import nn

from ..compressor.entries import Kind
from ..errors import UnsupportedModelError

Feature = Literal[
    "chunks", "input", "compact", "queries", "vision attention", "routing", "experts", "images", "videos", "sessions"
]
"""Features that a model may lack: split and chunked prefill, compression before prefill, compact positions, methods
with queries, key rotation or the output projection, methods with vision attention, methods by which tokens skip layers,
fewer experts for visual tokens, images, videos, and streaming sessions."""

CURES: Mapping[Feature, str] = {
    "chunks": "use prefill='whole'",
    "input": "use stage='cache'",
    "compact": "use positions='keep'",
    "queries": "choose a method that uses keys and values only, such as 'key-norm'",
    "vision attention": "choose a method that uses keys and values only, such as 'key-norm'",
    "routing": "choose a method by which no token skips a layer, such as 'pyramid'",
    "experts": "leave experts out",
    "images": "pass videos",
    "videos": "pass the frames as images",
    "sessions": "use compress() or patch()",
}


@dataclass(frozen=True)
class Findings:
    """Results of the self-check of one model.

    Attributes:
        kv_heads: number of KV heads of a compressed layer.
        head_dim: width of a key.
        value_dim: width of a value.
        placeholders: placeholder token id by kind.
        window_bytes: bytes per token in all sliding-window layers.
        state_bytes: bytes of all recurrent states of one row.
        interleaved_rope: whether M-RoPE sections alternate frequency by frequency.
        refused: unsupported features and the reason for each.
        prompt: description of the synthetic prompt.
        passed: checks that passed.
    """

    kv_heads: int
    head_dim: int
    value_dim: int
    placeholders: Mapping[Kind, int]
    window_bytes: int = 0
    state_bytes: int = 0
    interleaved_rope: bool = False
    refused: Mapping[Feature, str] = field(default_factory=dict)
    prompt: str = ""
    passed: Sequence[str] = ()


_FOUND: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], Findings]] = WeakKeyDictionary()


def findings_of(model: nn.Module) -> Findings | None:
    """Return the cached findings of a model; None if it was not checked with its present modules and settings."""
    known = _FOUND.get(model)
    return known[1] if known is not None and known[0] == _state(model) else None


def remember(model: nn.Module, findings: Findings) -> None:
    """Cache the findings of a model for its lifetime."""
    _FOUND[model] = _state(model), findings


def _state(model: Any) -> tuple[Any, ...]:
    decoder = getattr(model, "get_decoder", lambda: model)()
    modules = frozenset(map(type, model.modules()))  # which adapters and quantisation replace
    return modules, model.dtype, getattr(decoder, "config", model.config)._attn_implementation


def refusal(model: Any, feature: Feature, reason: str) -> UnsupportedModelError:
    """Build the error for an unsupported feature of a model."""
    return UnsupportedModelError(
        f"{type(model).__name__} (model type {model.config.model_type!r}) does not support {feature}: {reason}. "
        f"{CURES[feature][0].upper()}{CURES[feature][1:]}."
    )
