"""Trainable model families, one module each."""

from __future__ import annotations

from .base import Family
from .qwen2_5_vl import Qwen25VL
from .qwen3_vl import Qwen3VL

FAMILIES: dict[str, Family] = {family.name: family for family in (Qwen25VL(), Qwen3VL())}
"""Families by `model_type`."""

__all__ = ["FAMILIES", "Family"]
