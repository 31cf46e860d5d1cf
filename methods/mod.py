"""Let most visual tokens skip some of the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from kvpress_video.errors import BudgetError, unknown_name

from ._skipping import Skipping

PLACEMENTS: Mapping[str, Callable[[int], range]] = MappingProxyType(
    {
        "interleaved": lambda layers: range(1, layers, 2),
        "all": lambda layers: range(1, layers),
        "deep": lambda layers: range(max(1, layers // 2), layers),
        "interleaved-deep": lambda layers: range(layers // 2 + 1, layers, 2),
    }
)
"""Layers that tokens skip, by name of the placement, for a number of layers."""


@dataclass(frozen=True)
class MoD(Skipping):
    """Mixture of depths: some layers run only part of the visual tokens through attention and feed-forward.

    The others keep their hidden state there and write no keys and values. A router selects the tokens of each video or
    image by its scores in the nearest earlier layer that all tokens run through, averaged over heads. Each skipping
    layer gets `keep` times the budget of a full layer; within its budget, a layer keeps the selection of the base. With
    the largest budget, full layers keep everything.

    Attributes:
        base: method that evicts from the cache, a name or an instance.
        keep: fraction of the visual tokens that run through the layers, rounded up; above 0, at most 1.
        router: method that scores the tokens, a name or an instance, such as `"van"`, `"snapkv"` (attention of the last
            queries) or `"random"`.
        layers: the skipping layers: `"interleaved"`, every other layer from the second; `"all"`, all but the first;
            `"deep"`, the second half; `"interleaved-deep"`, every other layer of the second half; or indices from 1.
    """

    layers: str | tuple[int, ...] = "interleaved"

    source: ClassVar[str] = "after VideoLLM-MoD, Wu et al. 2024, arXiv 2408.16730; routers without training are ours"
    year: ClassVar[int | None] = 2024
    family: ClassVar[str] = "wrapper"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layers, str) and self.layers not in PLACEMENTS:
            raise unknown_name("placement of layers", self.layers, PLACEMENTS)
        if not isinstance(self.layers, str):
            object.__setattr__(self, "layers", _checked(self.layers))

    def skipped(self, layers: int) -> range | tuple[int, ...]:
        """Return the layers that tokens skip.

        Raises:
            BudgetError: there are no such layers in the model.
        """
        where = PLACEMENTS[self.layers](layers) if isinstance(self.layers, str) else self.layers
        if not where or where[-1] >= layers:
            raise BudgetError(
                f"layers={self.layers!r} fits no model of {layers} layers: choose layers from 1 to {layers - 1}."
            )
        return where


def _checked(layers: object) -> tuple[int, ...]:
    numbers = tuple(layers) if isinstance(layers, tuple | list) else ()
    if not numbers or not all(isinstance(number, int) and number >= 1 for number in numbers):
        raise BudgetError(f"layers must be a placement or indices of layers from 1, such as (1, 3), got {layers!r}.")
    return tuple(sorted(set(numbers)))
