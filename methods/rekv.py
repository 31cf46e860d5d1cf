"""Bring back the frames that a question asks for, from an archive of all frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor
from kvpress_video.errors import BudgetError

from ._wrapper import ScoreWrapper


@dataclass(frozen=True)
class ReKV(ScoreWrapper):
    """Keep the selection of a base method, and all frames in an archive off the device; retrieve the best ones per
    question.

    score of a frame = mean un-rotated query of the question · mean un-rotated key of the frame, summed over the query
    heads, by layer. While the question is answered, the best frames that fit into `share` of the entries stand in for
    as many entries of the base, those that the base scores lowest.

    Attributes:
        base: method that keeps entries on the device, a name or an instance; must implement `scores()` and need no
            queries.
        share: largest share of the entries held that frames from the archive take, above 0 up to 1.
    """

    base: Compressor | str = "recent"
    share: float = 1.0

    source: ClassVar[str] = "after ReKV, Di et al. 2025, arXiv 2503.00540"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "memory"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise BudgetError(f"share must be above 0 and at most 1, got {self.share}.")
        if captured := self._base.needs - {"vision_attention", "rope"}:
            raise BudgetError(
                f"{type(self._base).__name__} needs {', '.join(sorted(captured))}, which are not captured when frames "
                "come back: choose a base such as 'recent', 'standby' or 'van'."
            )

    @property
    def recall_share(self) -> float:
        """Return `share`."""
        return self.share

    def frame_scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Score frames by the dot product of means, (frames,) fp32."""
        grouped = queries.unflatten(0, (keys.shape[1], -1)).sum(dim=1)
        return torch.einsum("hd,fhd->f", grouped, keys)
