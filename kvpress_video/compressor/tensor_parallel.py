"""Tensor parallelism: the shard of KV heads that a process holds, and reductions over all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class HeadSharding:
    """Shard of each layer's KV heads that this process holds; shards are equal in size and in order.

    Attributes:
        rank: index of the shard, from 0.
        processes: number of shards.
        group: process group that holds them, None if one process holds all heads.
    """

    rank: int = 0
    processes: int = 1
    group: Any = None

    def mean(self, states: Tensor) -> Tensor:
        """Average over all heads of a layer, with bit-identical results in every process.

        Args:
            states: states of the heads held here, (batch, kv_heads, ...) floating point.

        Returns:
            (batch, 1, ...) in the dtype of `states`.
        """
        mean = states.mean(dim=1, keepdim=True)
        if self.group is None:
            return mean
        from torch.distributed import all_reduce

        mean = mean.contiguous()
        all_reduce(mean, group=self.group)
        return mean / self.processes


UNSHARDED = HeadSharding()
"""The sharding of a model whose heads one process holds."""


def sharding_of(weight: Any) -> HeadSharding:
    """Read the sharding of a projection from its weight; a plain tensor has none."""
    for dim, placement in enumerate(getattr(weight, "placements", ())):
        if placement.is_shard(0):
            mesh = weight.device_mesh
            return HeadSharding(mesh.get_local_rank(dim), mesh.size(dim), mesh.get_group(dim))
    return UNSHARDED


def share_of(model: nn.Module) -> str:
    """Describe the shard of a model that this process holds, e.g. `"rank 0 of 1"`."""
    mesh = next((each.device_mesh for each in model.parameters() if hasattr(each, "device_mesh")), None)
    places = [(0, 1)] if mesh is None else zip(mesh.get_coordinate(), mesh.shape, strict=True)
    return "rank " + ", ".join(f"{place} of {size}" for place, size in places)


def local(parameter: Any) -> Tensor:
    """Return the part of a parameter that this process holds."""
    held: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return held
