"""InfiniPot-V as its authors' script computes it, in eager operations: the baseline of `peers`.

Written from the formula (Kim et al. 2025, arXiv 2506.15745): no value-norm pooling, every recent frame compared with
every earlier one, scores in the dtype of the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-9


def kept(keys: Tensor, values: Tensor, patches: int, keep: int, tar_ratio: float, recent_ratio: float) -> Tensor:
    """Choose the entries that stay.

    Args:
        keys, values: (batch, kv_heads, frames · patches, head_dim), visual entries alone.
        patches: entries per frame.
        keep: entries to keep per head.
        tar_ratio: share of them that temporal redundancy chooses.
        recent_ratio: share of the frames that count as recent.

    Returns:
        (batch, kv_heads, keep) int64, ascending.
    """
    frames = keys.shape[2] // patches
    recent = int(frames * recent_ratio)
    by_tar = keep - round((1 - tar_ratio) * keep)
    past = keys.shape[2] - recent * patches
    directions = (keys / (keys.norm(dim=-1, keepdim=True) + _EPSILON)).unflatten(2, (frames, patches))
    earlier, newest = directions[:, :, : frames - recent], directions[:, :, frames - recent :]
    likeness = torch.einsum("bhtpd,bhrpd->bhtpr", earlier, newest).mean(dim=-1).flatten(2)
    different = (-likeness).topk(by_tar - recent * patches, dim=-1).indices
    last = torch.arange(past, keys.shape[2], device=keys.device).expand(*different.shape[:2], -1)
    lengths = values.norm(dim=-1)
    chosen = torch.cat([different, last], dim=2)
    raised = lengths.scatter(2, chosen, (lengths.max() + 1).expand(chosen.shape))
    return raised.topk(keep, dim=-1).indices.sort(dim=-1).values


def compress(
    keys: Tensor,
    values: Tensor,
    prefix: int,
    patches: int,
    keep: int,
    tar_ratio: float = 0.5,
    recent_ratio: float = 0.25,
) -> tuple[Tensor, Tensor]:
    """Evict all but the first `prefix` entries and the chosen visual ones.

    Args:
        keys, values: (batch, kv_heads, prefix + frames · patches, head_dim).
        prefix: text entries in front.
        patches, keep, tar_ratio, recent_ratio: see `kept`.
    """
    index = prefix + kept(keys[:, :, prefix:], values[:, :, prefix:], patches, keep, tar_ratio, recent_ratio)
    index = index[..., None].expand(-1, -1, -1, keys.shape[-1])
    left = [torch.cat([part[:, :, :prefix], part.gather(2, index)], dim=2) for part in (keys, values)]
    return left[0], left[1]
