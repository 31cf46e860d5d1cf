"""How large a model is, from its configuration: no weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import nn

from ..budget import Budget
from ..compression import usual_chunk
from ..entries import Kind
from ..errors import UnknownNameError
from ..loading import check_folder
from ..models import adapter_for
from ..models.base import Adapter
from ..plugins import parse
from ..torchvision_repair import repair_torchvision
from .cells import BUNDLED


@dataclass(frozen=True)
class ModelSize:
    """A model's text part.

    Attributes:
        parameters: all of them.
        multiplied: those that each token is multiplied with: no embeddings, and of experts the chosen ones.
        layers: that are compressed.
        sliding, window: layers that see the last tokens alone and are not compressed, and how many these are.
        heads, head_dim: attention heads of a layer, and their width.
        token_bytes: keys and values of one token in a stock cache, all layers that are compressed.
        placeholder: the token id that stands for a visual token of a video, or of the images that it is given as.
    """

    parameters: int
    multiplied: int
    layers: int
    sliding: int
    window: int
    heads: int
    head_dim: int
    token_bytes: int
    placeholder: int
    _adapter: Adapter = field(repr=False, compare=False)

    def entry_bytes(self, compact: bool) -> int:
        """Keys, values and metadata of one entry, all layers and KV heads."""
        return self.layers * self._adapter.entry_bytes(compact)

    def beside_bytes(self, tokens: int) -> int:
        """What the other layers hold after so many tokens."""
        return self._adapter.beside_bytes(tokens)

    def chunk(self, budget: Budget, compact: bool) -> int:
        """Visual tokens of one chunk of a chunked prefill."""
        return usual_chunk(budget, self._adapter, compact)


def model_size(text: str) -> tuple[ModelSize, Any]:
    """The size of the model that a grid names, and its processor.

    Raises:
        UnknownNameError: there is no such model, or no configuration or processor of it.
        UnsupportedModelError: its family is not supported.
    """
    name, settings = parse(text)
    repair_torchvision()
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    with _source(name) as folder:
        try:
            config = AutoConfig.from_pretrained(folder)
            processor = AutoProcessor.from_pretrained(folder)
            with torch.device("meta"):
                model: Any = AutoModelForImageTextToText.from_config(config)
        except (OSError, ValueError) as error:
            raise UnknownNameError(f"Cannot read the configuration and processor of {name!r}: {error}") from error
    return size_of(model.to(_dtype(settings.get("dtype", "auto"), config))), processor


def size_of(model: Any) -> ModelSize:
    """The size of a model, with or without weights.

    Raises:
        UnsupportedModelError: its family is not supported.
    """
    adapter = adapter_for(model)
    text_model, heads = adapter.text_model, adapter.text_model.config.num_key_value_heads
    placeholders = adapter.placeholders
    return ModelSize(
        parameters=sum(part.numel() for part in text_model.parameters()),
        multiplied=multiplied(text_model),
        layers=len(adapter.attentions),
        sliding=len(adapter.sliding),
        window=getattr(text_model.config, "sliding_window", None) or 0,
        heads=text_model.config.num_attention_heads,
        head_dim=adapter.head_dim,
        token_bytes=2 * len(adapter.attentions) * heads * adapter.head_dim * text_model.dtype.itemsize,
        placeholder=placeholders[Kind.VIDEO if Kind.VIDEO in placeholders else Kind.IMAGE],
        _adapter=adapter,
    )


@contextmanager
def _source(name: str) -> Iterator[str]:
    if name != BUNDLED:
        check_folder(name)
        yield name
        return
    with as_file(files("kvpress_video") / "data" / "bundled") as folder:
        yield str(folder)


def _dtype(asked: str, config: Any) -> torch.dtype:
    """That of the weights as `load` reads them: as asked, or the checkpoint's own."""
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    chosen = own if asked == "auto" else asked
    return chosen if isinstance(chosen, torch.dtype) else getattr(torch, chosen)


def multiplied(text_model: nn.Module) -> int:
    """Parameters that each token is multiplied with."""
    config: Any = text_model.config
    experts = getattr(config, "num_experts", None) or 1
    chosen = (getattr(config, "num_experts_per_tok", None) or 1) / experts
    embedded = sum(module.weight.numel() for module in text_model.modules() if isinstance(module, nn.Embedding))
    of_experts = sum(part.numel() for name, part in text_model.named_parameters() if ".experts." in name)
    return round(sum(part.numel() for part in text_model.parameters()) - embedded - of_experts * (1 - chosen))
