"""Fingerprints of models, so that a saved cache is never continued with another model."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from typing_extensions import TypedDict  # pydantic reads that of `typing` from Python 3.12 on

from ..compressor.tensor_parallel import local, share_of
from ..errors import CacheError
from .wrappers import unwrapped

_SAMPLE = 256  # approximate number of values read per parameter
_NOT_COMPUTED_WITH = {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
}


class Fingerprint(TypedDict):
    """Identity of a model, independent of its device.

    Attributes:
        architecture: name of the model class.
        dtype: dtype of the weights, and thus of cached keys and values.
        share: shard of the model that the process holds, `"rank 0 of 1"` without tensor parallelism.
        config: configuration, without entries that do not affect computation.
        parameters: SHA-256 of the names, shapes and dtypes of the parameters that this process holds.
        weights: SHA-256 of a sample of their values.
        transformers: version of transformers that loaded the model.
    """

    architecture: str
    dtype: str
    share: str
    config: dict[str, Any]
    parameters: str
    weights: str
    transformers: str


def fingerprint(model: Any) -> Fingerprint:
    """Compute the fingerprint of a model, wrapped or not, from evenly spaced values of every parameter.

    Raises:
        CacheError: parameters are not in memory (offloaded).
    """
    model = unwrapped(model)
    parameters, weights = hashlib.sha256(), hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise CacheError(
                f"{name} is not in memory, so the model cannot be told from others: load it without offloading."
            )
        held = local(parameter).detach()
        parameters.update(f"{name} {tuple(held.shape)} {held.dtype}\n".encode())
        values = held.reshape(-1)
        weights.update(bytes_of(values[:: _step(values.numel())]))
    return {
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "share": share_of(model),
        "config": json.loads(json.dumps(_settings(model.config.to_dict()), default=str)),
        "parameters": parameters.hexdigest(),
        "weights": weights.hexdigest(),
        "transformers": transformers.__version__,
    }


def difference(one: Fingerprint, other: Fingerprint) -> str | None:
    """Describe the first difference between two models in words that follow "a model"; None if there is none.

    Versions of transformers write configurations differently, so only entries that both contain are compared.
    """
    if one["architecture"] != other["architecture"]:
        return f"of class {one['architecture']}, not {other['architecture']}"
    if one["dtype"] != other["dtype"]:
        return f"in {one['dtype']}, not {other['dtype']}"
    if one["share"] != other["share"]:
        return f"distributed as {one['share']}, not {other['share']}"
    for name in sorted(one["config"].keys() & other["config"].keys()):
        if (ones := one["config"][name]) != (others := other["config"][name]):
            return f"with {name}={ones!s:.80}, not {others!s:.80}"
    if one["parameters"] != other["parameters"]:
        return "whose parameters have other names, shapes or dtypes"
    return None if one["weights"] == other["weights"] else "with other weights: another checkpoint, or fine-tuned"


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the contiguous bytes of a tensor's values."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _step(size: int) -> int:
    """Choose a step between sampled values that is coprime to the size, so that every column is sampled."""
    step = max(1, size // _SAMPLE)
    while math.gcd(step, size) != 1:
        step += 1
    return step


def _settings(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, Mapping):
            found |= _settings(value, f"{before}{name}.")
        elif name not in _NOT_COMPUTED_WITH and not name.startswith("_"):
            found[before + name] = value
    return found
