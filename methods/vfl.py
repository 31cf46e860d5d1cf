"""Set the budgets of layers by how much questions read from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kvpress_video.compressor import Compressor

from .per_layer import PerLayer

MEASURED = (0.30, 2.02, 0.86, 0.82)
"""Shares of the four layers of the bundled Qwen2.5-VL, from `kvpress-video probe swap`."""


@dataclass(frozen=True)
class Vfl(PerLayer):
    """Run any method with budgets by layer, set by how often answers change when a layer's visual entries are swapped.

    Attributes:
        base: the method to run, a name or an instance.
        shares: see `PerLayer`; measure those of a model with `kvpress-video probe swap`. The default was measured
            on the bundled Qwen2.5-VL.
    """

    base: Compressor | str = "infinipot-v"
    shares: tuple[float, ...] = MEASURED

    source: ClassVar[str] = "after Vision Function Layers, 2025, arXiv 2509.24791; budgets from the swap are ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "source", type(self).source)
