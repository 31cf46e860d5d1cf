"""Keep whole frames that differ most from their neighbours in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError, unknown_name

from ._directions import directions
from ._rotation import unrotated


@dataclass(frozen=True)
class MemoryBank(Compressor):
    """Keep k = ⌊keep / p⌋ whole frames; frames enter one at a time, and of the most similar pair the older is evicted.

    The similarity of two frames in the bank is the cosine of their features, averaged over the KV heads, so all heads
    of a layer keep the same frames. The feature of a frame is the mean of K̂ = K / (‖K‖₂ + 1e-9) over its patches, with
    K un-rotated: rotated keys would make distant frames less similar regardless of content, and patches of a frame
    would cancel in the mean. Ties go to the oldest pair. The newest frame always stays.

    If frames enter in order of time, the number that arrives at once has no effect; from the newest back, each pass
    starts with its newest frame. The keep − k·p remaining entries hold the first patches of the frame evicted last, or
    of the newest frame if k = 0. They do not belong to the bank: the next evicted frame replaces them.

    Attributes:
        order: frame that enters first, `"oldest"` or `"newest"`.
        compare: pairs that are compared, `"neighbours"` in the bank or `"all"`.
    """

    order: str = "oldest"
    compare: str = "neighbours"

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "memory bank sampling of 4D-VLA, Zhang et al. 2025, arXiv 2506.22242"
    year: ClassVar[int | None] = 2025
    family: ClassVar[str] = "redundancy"
    fidelity: ClassVar[str] = "mechanism"

    def __post_init__(self) -> None:
        for name, known in (("order", ("oldest", "newest")), ("compare", ("neighbours", "all"))):
            if getattr(self, name) not in known:
                raise unknown_name(f"value of {name}", getattr(self, name), known)

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Select the entries that stay: (batch, kv_heads, keep) int64, ascending, the same in all heads.

        Raises:
            BudgetError: parts of several frames are cached, left by another method or a model that leaves out patches.
        """
        patches, device = entries.grid.patches, entries.keys.device
        size, rest = divmod(keep, patches)
        frames, part = divmod(len(entries), patches)
        start = _start_of_part(entries.frame[:, 0], frames, patches)
        place = torch.arange(frames * patches, device=device)
        place = place + part * (place >= start)
        # All layers hold whole frames if the first one does: only that layer reads a flag back from the device.
        if entries.context.layer == 0:
            _check_whole(entries, place)
        kept, cut = place, start + torch.arange(rest, device=device)
        if frames > size:
            newest_first = self.order == "newest" and size > 0
            bank, last = _sample(_likeness(entries, place), size, newest_first, self.compare == "all")
            by_frame = place.unflatten(1, (frames, patches))
            kept, gone = (by_frame.gather(1, which[..., None].expand(-1, -1, patches)) for which in (bank, last))
            kept, cut = kept.flatten(1), gone[:, 0, :rest]
        chosen = torch.cat([kept, cut], dim=-1).sort(dim=-1).values
        return chosen[:, None].expand(-1, entries.keys.shape[1], -1)


def _start_of_part(frame: Tensor, frames: int, patches: int) -> Tensor:
    """Find the start of the one frame that an earlier pass kept in part.

    Args:
        frame: frame of each entry, (batch, n).
        frames: number of whole frames among the entries.
        patches: entries of a whole frame.

    Returns:
        Slot of its first entry in each row, (batch, 1) int64; frames·patches if there is none.
    """
    whole = frame[:, : frames * patches : patches] == frame[:, patches - 1 :: patches]
    return patches * whole.int().cumprod(dim=-1).sum(dim=-1, keepdim=True)


def _check_whole(entries: Entries, place: Tensor) -> None:
    """Raise BudgetError unless the entries at the slots `place`, (batch, m), are whole frames, equal in all heads."""
    rows, heads = entries.keys.shape[:2]
    patches = entries.grid.patches
    frame = entries.frame.gather(2, place[:, None].expand(rows, heads, -1)).unflatten(
        2, (place.shape[1] // patches, patches)
    )
    if not bool((frame == frame[:, :1, :, :1]).all()):
        raise BudgetError(
            f"'memory-bank' keeps whole frames of {patches} patches, but parts of several are cached: use it from the "
            "start of a cache, without other methods, and not on models that leave out patches of similar frames."
        )


def _likeness(entries: Entries, place: Tensor) -> Tensor:
    """Compute the cosine of each two frames' features, averaged over heads, (batch, frames, frames) fp32."""
    whole = entries.gather(place[:, None].expand(-1, entries.keys.shape[1], -1))
    features = directions(unrotated(whole)).unflatten(2, (-1, entries.grid.patches)).mean(dim=3)
    features = normalize(features, dim=-1)
    return whole.context.spread.mean(features @ features.transpose(-1, -2))[:, 0]


def _sample(alike: Tensor, size: int, newest_first: bool, every_pair: bool) -> tuple[Tensor, Tensor]:
    """Run the memory bank over the frames, one at a time.

    Args:
        alike: similarity of each two frames, (batch, frames, frames) fp32, of more than `size` frames.
        size: capacity of the bank in frames.
        newest_first: whether the frames enter from the newest back.
        every_pair: whether any two frames are compared, not only neighbours.

    Returns:
        The frames in the bank, (batch, size) int64, ascending, and the frame evicted last, (batch, 1) int64.
    """
    batch, frames, _ = alike.shape
    order = torch.arange(size, device=alike.device)
    compared = torch.ones(size + 1, size + 1, dtype=torch.bool, device=alike.device).triu(1)
    if not every_pair:
        compared = compared.tril(1)
    bank = order.expand(batch, -1) + (frames - size if newest_first else 0)
    gone = bank
    for entering in reversed(range(frames - size)) if newest_first else range(size, frames):
        bank = pad(bank, (1, 0) if newest_first else (0, 1), value=entering)
        pairs = alike.gather(1, bank[..., None].expand(-1, -1, frames)).gather(
            2, bank[:, None].expand(-1, size + 1, -1)
        )
        # The newest frame is nobody's older one.
        older = pairs.masked_fill(~compared, -torch.inf).amax(dim=-1).argmax(dim=-1, keepdim=True)
        gone = bank.gather(1, older)
        bank = bank.gather(1, order + (order >= older))
    return bank, gone
