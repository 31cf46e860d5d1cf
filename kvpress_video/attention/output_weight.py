"""Read the output projection of an attention layer, head by head."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..compressor.tensor_parallel import local
from ..errors import UnsupportedModelError

_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def output_weight(attention: Any, heads: int) -> Tensor:
    """Return the part of the output projection for each query head.

    Adapters that are not merged into the weight are ignored.

    Args:
        attention: a text attention module with `o_proj`.
        heads: KV heads that this process holds.

    Returns:
        (heads, query heads per KV head, head_dim, hidden), a view of the weight.

    Raises:
        UnsupportedModelError: the weight is quantised, or not on a device.
    """
    with _on_device(attention.o_proj):
        weight = local(attention.o_proj.weight)
    if not isinstance(weight, Tensor) or weight.dtype not in _PLAIN or weight.is_meta:
        found = f"{weight.dtype} on {weight.device}" if isinstance(weight, Tensor) else "quantised"
        raise UnsupportedModelError(
            f"The method reads the output projection of each layer, which is {found} here: "
            "load the model without quantisation, or choose another method."
        )
    return weight.detach().unflatten(1, (heads, attention.num_key_value_groups, -1)).permute(1, 2, 3, 0)


def _on_device(module: nn.Module) -> AbstractContextManager[Any]:
    """Load weights that accelerate has offloaded to the device on which the module computes."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
