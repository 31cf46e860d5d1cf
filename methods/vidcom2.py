"""Keep the entries least like the mean of the video and of their frame, more of them in distinctive frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from kvpress_video.compressor import Compressor, Entries, top
from kvpress_video.errors import unknown_name

from ._frames import Frames
from ._ranks import rank
from ._rotation import unrotated

REFERENCES = ("clip", "past")
_BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
_TEMPERATURE = 0.01


@dataclass(frozen=True)
class VidCom2(Compressor):
    """Keep the entries least similar to the video's mean and to their frame's, in shares by the frame's own novelty.

    x is the embedding before prefill, or the un-rotated key in the cache, cut to the half of the channels that vary
    least over the entries, and normalised. score = −g(x, m) − g(x, c), where g(x, c) = Σ exp(−‖x − c‖² / 2a) over a in
    {1/8, 1/4, 1/2, 1, 2}, m is the mean of the reference and c the mean of the entry's frame. Frame f has the weight
    1 + softmax(u / .01)(f) − 1/F over F frames, where u is the mean of −g(x, m) over the frame, and entries in
    proportion to it (Webster's method), its highest scores first.

    Attributes:
        reference: `"clip"`, the mean of all cached entries, or `"past"`, for each frame the mean of the means of the
            cached frames up to it, so that no later frame changes a score.
    """

    reference: str = "clip"

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "VidCom², Liu et al. 2025, arXiv 2505.14454, as in vLLM; 'past' after STC, arXiv 2512.00891"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            raise unknown_name("reference", self.reference, REFERENCES)

    def scores(self, entries: Entries) -> Tensor:
        """Score entries by their distance from both means, (batch, kv_heads, n) fp32, from −10 to 0."""
        to_reference, to_frame = self._similarities(entries, Frames.of(entries))
        return -to_reference - to_frame

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending."""
        frames = Frames.of(entries)
        to_reference, to_frame = self._similarities(entries, frames)
        novelty = -frames.mean(to_reference[..., None])[..., 0]
        drawn = ((novelty - novelty.amax(dim=-1, keepdim=True)) / _TEMPERATURE).exp()
        softmax = drawn / (drawn / frames.length).sum(dim=-1, keepdim=True)
        weight = 1 + softmax - 1 / frames.number
        scores = -to_reference - to_frame
        order = scores.argsort(dim=-1, descending=True, stable=True)  # of equal claims, the highest score is met first
        claim = (rank(scores, entries.frame) + 0.5) / weight
        return order.gather(-1, top(-claim.gather(-1, order), keep)).sort(dim=-1).values

    def _similarities(self, entries: Entries, frames: Frames) -> tuple[Tensor, Tensor]:
        """Compute g to the reference's mean and to the frame's, (batch, kv_heads, n) fp32 each."""
        shown = _steadiest_half(unrotated(entries))
        frame = frames.mean(shown)
        if self.reference == "clip":
            reference = shown.mean(dim=2, keepdim=True)
        else:
            each = 1 / frames.length[..., None]
            reference = frames.until(frame * each) / frames.until(each)
        return _gaussians(shown - reference), _gaussians(shown - frame)


def _steadiest_half(states: Tensor) -> Tensor:
    """Normalise the half of the channels with the lowest variance: (batch, kv_heads, n, dim) to (…, dim / 2)."""
    half = max(1, states.shape[-1] // 2)
    channels = top(-states.var(dim=2, unbiased=False), half)
    return normalize(states.gather(-1, channels[:, :, None].expand(-1, -1, states.shape[2], -1)), dim=-1)


def _gaussians(difference: Tensor) -> Tensor:
    """Sum Gaussian kernels of all bandwidths, (batch, kv_heads, n, dim) to (batch, kv_heads, n)."""
    distance = difference.square().sum(dim=-1)
    total = distance.new_zeros(distance.shape)
    for bandwidth in _BANDWIDTHS:
        total += (-distance / (2 * bandwidth)).exp()
    return total
