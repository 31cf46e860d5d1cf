"""How the KV heads of a model are spread over processes, and what takes all of them to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class HeadSharding:
    """Which share of the KV heads of every layer this process holds: equal shares, in order.

    Attributes:
        rank: which share, from 0.
        processes: how many shares there are.
        group: the process group that holds them; None where one process holds all heads.
    """

    rank: int = 0
    processes: int = 1
    group: Any = None

    def mean(self, states: Tensor) -> Tensor:
        """Mean over all heads of a layer, the same to the bit in every process.

        Args:
            states: of the heads held here, (batch, kv_heads, ...), floating point.

        Returns:
            (batch, 1, ...).
        """
        mean = states.mean(dim=1, keepdim=True)
        if self.group is None:
            return mean
        from torch.distributed import all_reduce

        mean = mean.contiguous()
        all_reduce(mean, group=self.group)
        return mean / self.processes


UNSHARDED = HeadSharding()
"""One process holds all heads."""


def sharding_of(weight: Any) -> HeadSharding:
    """How the rows of a projection's weight are spread: those of a plain tensor are not."""
    for dim, placement in enumerate(getattr(weight, "placements", ())):
        if placement.is_shard(0):
            mesh = weight.device_mesh
            return HeadSharding(mesh.get_local_rank(dim), mesh.size(dim), mesh.get_group(dim))
    return UNSHARDED


def share_of(model: nn.Module) -> str:
    """Which share of a model this process holds, in words."""
    mesh = next((each.device_mesh for each in model.parameters() if hasattr(each, "device_mesh")), None)
    places = [(0, 1)] if mesh is None else zip(mesh.get_coordinate(), mesh.shape, strict=True)
    return "rank " + ", ".join(f"{place} of {size}" for place, size in places)


def local(parameter: Any) -> Tensor:
    """What this process holds of a parameter."""
    held: Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return held
