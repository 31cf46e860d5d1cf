"""Keep the entries from which the others are reconstructed best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._rotation import unrotated


@dataclass(frozen=True)
class Reconstruction(Compressor):
    """Keep entries chosen one by one, each the one that a linear combination of those before it reconstructs worst.

    The choice is that of a QR decomposition with column pivoting, by rows x = [K / rms‖K‖, V / rms‖V‖] with keys
    un-rotated, until these span the space. A ridge λ lets it go on: the residual of an entry is xᵀPx with
    P = λ·(λI + XᵀX)⁻¹ over the chosen rows X. The choices for a smaller budget are among those for a larger one.

    Attributes:
        ridge: λ, relative to the mean of ‖x‖², above zero.
    """

    ridge: float = 0.01

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after the training objective of OC-VTP, arXiv 2511.20439; greedy selection is ours"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "analogy"

    def __post_init__(self) -> None:
        if not 0 < self.ridge < float("inf"):
            raise BudgetError(f"ridge must be above zero, got {self.ridge}.")

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        rows = features(entries)
        residual = rows.square().sum(dim=-1)
        ridge = self.ridge * residual.mean(dim=-1, keepdim=True).clamp_min(1e-20)
        unexplained = torch.eye(rows.shape[-1], device=rows.device).expand(*rows.shape[:2], -1, -1).clone()
        chosen = torch.empty((*rows.shape[:2], keep), dtype=torch.long, device=rows.device)
        for number in range(keep):
            worst = residual.argmax(dim=-1, keepdim=True)
            chosen[..., number : number + 1] = worst
            row = rows.gather(2, worst[..., None].expand(-1, -1, 1, rows.shape[-1]))
            left = row @ unexplained
            size = ridge + (left * row).sum(dim=-1)
            unexplained -= left.transpose(-1, -2) @ left / size[..., None]
            residual = residual - (rows @ left.transpose(-1, -2))[..., 0].square() / size
            residual = residual.scatter(-1, chosen[..., : number + 1], -torch.inf)
        return chosen.sort(dim=-1).values


def features(entries: Entries) -> Tensor:
    """Join each entry's un-rotated key and its value, each by its own scale, (batch, kv_heads, n, width) fp32."""
    parts = (unrotated(entries), entries.values.float())
    scales = [part.square().sum(dim=-1).mean(dim=-1)[..., None, None].sqrt().clamp_min(1e-12) for part in parts]
    return torch.cat([part / scale for part, scale in zip(parts, scales, strict=True)], dim=-1)
