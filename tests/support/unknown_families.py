"""Tiny models of families without a dedicated adapter, and prompts of noise for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from kvpress_video.benchmarks.census.tiny import registered_types, tiny_model
from torch import Tensor

from kvpress_video.compressor.entries import Kind
from kvpress_video.models import adapter_for
from kvpress_video.self_check.check import ensure_checked
from kvpress_video.self_check.prompts import PromptMaker, prompt_makers


def tiny(model_type: str) -> Any:
    """A model of its own; the test is skipped where transformers does not have the type."""
    if model_type not in registered_types():
        pytest.skip(f"this transformers has no {model_type}")
    return tiny_model(model_type)


@cache
def model_of(model_type: str) -> Any:
    """One model per type for the whole run; every test leaves it as it was."""
    return tiny(model_type)


def maker_of(model: Any, kind: Kind = Kind.IMAGE) -> PromptMaker:
    """Makes prompts for a model that can be compressed."""
    ensure_checked(model)
    adapter: Any = adapter_for(model)
    return next(prompt_makers(adapter, kind, {}))


def prompt_of(model: Any, kind: Kind = Kind.IMAGE, **sizes: int) -> dict[str, Tensor]:
    """A prompt with media of one kind."""
    return maker_of(model, kind).prompt(**sizes)
