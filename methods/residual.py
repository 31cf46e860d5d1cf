"""Keep the entries that a basis of what was seen explains least, and a mean of what each frame loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from kvpress_video.compressor import Compressor, Entries, Kept, top
from kvpress_video.errors import BudgetError

from ._frames import Frames
from ._merging import averaged
from ._ranks import rank
from ._rotation import unrotated

_DECAY, _ARRIVALS, _SWEEPS, _NEGLIGIBLE = 0.9, 8, 2, 1e-4


@dataclass(frozen=True)
class Residual(Compressor):
    """Keep the entries with the largest residual against an online basis, and per frame a mean of the others.

    score = ‖x − UUᵀx‖₂, where x is the embedding before prefill, or the un-rotated key in the cache, and the columns of
    U are orthonormal. U begins with the leading right singular vectors of the first p entries. Each p further ones, X,
    update the usage of every column, s ← .9·s + .1·mean |XU|, and add the directions of their 8 largest residuals with
    s = 1; then the `basis` most used columns stay. Every pass builds U from the cached entries, in order.

    The mean of what a frame loses takes the slot and the tags of the entry with the largest residual among it. Keys are
    un-rotated before averaging and re-rotated at the mean position after.

    Attributes:
        basis: columns of U; at most a quarter of the width of x, since a complete basis leaves no residual.
        means: largest share of the budget for the means of one pass, 0 to 1, the frames with the largest residual among
            what they lose first; 0 for none.
    """

    basis: int = 256
    means: float = 0.25

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "after CausalMem, arXiv 2606.25658; a basis per pass and the share of means are ours"
    year: ClassVar[int | None] = 2026
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.basis < 1:
            raise BudgetError(f"basis must have at least 1 column, got {self.basis}.")
        if not 0 <= self.means <= 1:
            raise BudgetError(f"means is a share of the budget between 0 and 1, got {self.means}.")

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by the length of their residual, (batch, kv_heads, n) fp32."""
        shown = unrotated(entries)
        basis = self._basis(shown.split(entries.grid.patches, dim=2))
        return (shown - shown @ basis @ basis.transpose(-1, -2)).norm(dim=-1)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the slots of the entries and means that stay: (batch, kv_heads, keep) int64, ascending."""
        return self.reduce(entries, keep).slots

    def reduce(self, entries: Entries, keep: int) -> Kept:
        """Keep the largest residuals, and in the slots of the next ones the means of what their frames lose.

        Where fewer frames lose entries than there may be means, further entries stay.
        """
        scores, most = self.checked_scores(entries), min(int(self.means * keep), entries.grid.frames)
        whole = top(scores, keep - most)
        if not most or keep == len(entries):
            return Kept(top(scores, keep))
        frames, gone = Frames.of(entries), torch.ones_like(scores, dtype=torch.bool).scatter(-1, whole, False)
        left = scores.masked_fill(~gone, -torch.inf)
        first = gone & (rank(left, entries.frame) == 0)
        lenders = top(first * len(entries) - rank(left), most)

        def mean(states: Tensor) -> Tensor:
            lost = states.float().masked_fill(~gone[..., None], 0)
            count = frames.total(gone[..., None].float()).clamp_min(1)
            return (frames.total(lost) / count).gather(2, lenders[..., None].expand(*lenders.shape, states.shape[-1]))

        means = _where(first.gather(-1, lenders), averaged(entries, mean, lenders), entries.gather(lenders))
        kept = Entries.join([entries.gather(whole), means], dim=2).in_order()
        return Kept(torch.cat([whole, lenders], dim=-1).sort(dim=-1).values, kept)

    def _basis(self, frames: Sequence[Tensor]) -> Tensor:
        """Build the basis over frames (batch, kv_heads, p, dim), in order: (batch, kv_heads, dim, columns) fp32.

        Columns in place of directions that rounding alone would determine are zero.
        """
        size = min(self.basis, max(1, frames[0].shape[-1] // 4))
        basis, usage = _leading(frames[0], size)
        for frame in frames[1:]:
            weights = frame @ basis
            usage = _DECAY * usage + (1 - _DECAY) * weights.abs().mean(dim=2)
            rest = frame - weights @ basis.transpose(-1, -2)
            largest = top(rest.norm(dim=-1), min(_ARRIVALS, size, frame.shape[2]))
            new = rest.gather(2, largest[..., None].expand(*largest.shape, rest.shape[-1])).transpose(-1, -2)
            new, known = _orthonormal(new, frame)
            new, again = _orthonormal(new - basis @ (basis.transpose(-1, -2) @ new), new)
            basis = torch.cat([basis, new * (known & again)[:, :, None]], dim=-1)
            usage = torch.cat([usage, (known & again).float()], dim=-1)
            if usage.shape[-1] > size:
                used = top(usage, size)
                basis = basis.gather(-1, used[:, :, None].expand(*basis.shape[:3], size))
                usage = usage.gather(-1, used)
        return basis


def _leading(frame: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find the leading right singular vectors of (batch, kv_heads, p, dim) by orthogonal iteration, and their usage.

    It starts at evenly spaced entries, so that nothing is drawn at random.
    """
    count = min(size, frame.shape[2])
    across = frame.transpose(-1, -2)
    basis, known = _orthonormal(across[..., torch.arange(count, device=frame.device) * frame.shape[2] // count], frame)
    for _ in range(_SWEEPS):
        basis, known = _orthonormal(across @ (frame @ (basis * known[:, :, None])), frame)
    return basis * known[:, :, None], known.float()


def _orthonormal(directions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormalise columns (batch, kv_heads, dim, k), and say which are more than rounding errors.

    Args:
        directions: the columns.
        like: states that they come from, which set the scale.

    Returns:
        Columns of the same shape, and (batch, kv_heads, k) bool.
    """
    columns, triangle = torch.linalg.qr(directions)
    scale = like.abs().amax(dim=(2, 3))[..., None]
    return columns, triangle.diagonal(dim1=-2, dim2=-1).abs() > _NEGLIGIBLE * scale


def _where(chosen: Tensor, ones: Entries, others: Entries) -> Entries:
    """Take keys, values and places of `ones` where chosen, (batch, kv_heads, n) bool, else those of `others`."""
    pairs = ((ones.keys, others.keys), (ones.values, others.values), (ones.places, others.places))
    keys, values, places = (torch.where(chosen[..., None], one, other) for one, other in pairs)
    return replace(others, keys=keys, values=values, places=places)
