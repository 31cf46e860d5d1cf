"""Keep whole frames, as unlike their neighbours in time as can be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from kvpress_video.compressor import Compressor, Entries
from kvpress_video.errors import BudgetError

from ._directions import directions


@dataclass(frozen=True)
class MemoryBank(Compressor):
    """Keep k = ⌊keep / p⌋ whole frames; one frame comes in at a time, and of the two most alike the older goes.

    Two neighbours in the bank are as alike as the cosine of their features, the mean over the KV heads, so all heads
    of a layer keep the same frames. The feature of a frame is the mean of K̂ = K / (‖K‖₂ + 1e-9) over its patches, with
    K un-rotated: the rotation would make frames look the less alike the more time lies between them, and would cancel
    the patches of one frame against each other. Of equally alike pairs the oldest counts. The newest frame stays.

    Frames come in one after the other in time, so how many come at once changes nothing. What k·p leaves of the
    budget holds the first patches of the frame that went last; below one frame, these are the newest frame's. They
    are no part of the bank: the next frame to go takes their place.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"rope"})
    stages: ClassVar[tuple[str, ...]] = ("cache", "input")
    source: ClassVar[str] = "memory bank sampling of 4D-VLA, Zhang et al. 2025, arXiv 2506.22242"

    def select(self, entries: Entries, keep: int) -> Tensor:
        """Which entries stay: (batch, kv_heads, keep) int64, ascending.

        Raises:
            BudgetError: an earlier pass left more than one frame in part, so another method made it.
        """
        patches, device = entries.grid.patches, entries.keys.device
        size, rest = divmod(keep, patches)
        frames, part = divmod(len(entries), patches)
        start = _start_of_part(entries.frame[:, 0], frames, patches)
        place = torch.arange(frames * patches, device=device)
        place = place + part * (place >= start)
        # The frames of all layers are as whole as the first's: reading one flag there keeps the others free of a sync.
        if entries.context.layer == 0:
            _check_whole(entries, place)
        kept, cut = place, start + torch.arange(rest, device=device)
        if frames > size:
            bank, last = _sample(_likeness(entries, place), size)
            by_frame = place.unflatten(1, (frames, patches))
            kept, gone = (by_frame.gather(1, which[..., None].expand(-1, -1, patches)) for which in (bank, last))
            kept, cut = kept.flatten(1), gone[:, 0, :rest]
        chosen = torch.cat([kept, cut], dim=-1).sort(dim=-1).values
        return chosen[:, None].expand(-1, entries.keys.shape[1], -1)


def _start_of_part(frame: Tensor, frames: int, patches: int) -> Tensor:
    """Where the one frame that an earlier pass left in part begins, in each row, (batch, 1); n if there is none.

    Args:
        frame: frame of each entry, (batch, n).
        frames: whole ones among them.
    """
    whole = frame[:, : frames * patches : patches] == frame[:, patches - 1 :: patches]
    return patches * whole.int().cumprod(dim=-1).sum(dim=-1, keepdim=True)


def _check_whole(entries: Entries, place: Tensor) -> None:
    """Raise BudgetError unless the entries at `place`, (batch, m), are whole frames, the same in every head."""
    rows, heads = entries.keys.shape[:2]
    patches = entries.grid.patches
    frame = entries.frame.gather(2, place[:, None].expand(rows, heads, -1)).unflatten(
        2, (place.shape[1] // patches, patches)
    )
    if not bool((frame == frame[:, :1, :, :1]).all()):
        raise BudgetError(
            f"'memory-bank' keeps whole frames of {patches} patches, but parts of several are cached: use it from the "
            "start of a cache, and on its own."
        )


def _likeness(entries: Entries, place: Tensor) -> Tensor:
    """Cosine of every two frames' features, the mean over heads, (batch, frames, frames) fp32."""
    whole = entries.gather(place[:, None].expand(-1, entries.keys.shape[1], -1))
    if whole.context.rope is not None:
        whole = replace(whole, keys=whole.context.rope.rotate(whole.keys.float(), -whole.present))
    features = directions(whole.keys).unflatten(2, (-1, entries.grid.patches)).mean(dim=3)
    features = normalize(features, dim=-1)
    return whole.context.spread.mean(features @ features.transpose(-1, -2))[:, 0]


def _sample(alike: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The `size` frames left when frames come in one at a time, and the one that went last.

    Args:
        alike: likeness of every two frames, (batch, frames, frames), of more than `size` frames.

    Returns:
        (batch, size) and (batch, 1) int64, ascending.
    """
    batch, frames, _ = alike.shape
    order = torch.arange(size, device=alike.device)
    bank, gone = order.expand(batch, -1), order.expand(batch, -1)
    for newest in range(size, frames):
        bank = pad(bank, (0, 1), value=newest)
        pairs = alike.flatten(1).gather(1, bank[:, :-1] * frames + bank[:, 1:])
        older = pad(pairs, (0, 1), value=-torch.inf).argmax(dim=-1, keepdim=True)  # the newest is older than none
        gone = bank.gather(1, older)
        bank = bank.gather(1, order + (order >= older))
    return bank, gone
