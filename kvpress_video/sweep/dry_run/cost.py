"""What one prompt about one video costs a model: operations and bytes, worked out from sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from typing import Any

import torch
from torch import nn

from ...budget import Budget
from ...compressor.entries import Kind
from ...compressor.registry import parse
from ...errors import BudgetError, UnknownNameError
from ...models import adapter_for
from ...models.base import Adapter
from ...models.loading import check_folder
from ...prefill.options import Prefill, usual_chunk
from ...utils.torchvision_compat import repair_torchvision
from ..cells import BUNDLED, Cell, Setup, prefill_of, probe_of


@dataclass(frozen=True)
class PromptSize:
    """A prompt, counted.

    Attributes:
        frames: video frames that were read.
        tokens: of the whole prompt.
        visual: how many of them stand for the video.
        before: tokens up to the last visual one.
        alike: tokens at the end that are the same for all questions.
    """

    frames: int
    tokens: int
    visual: int
    before: int
    alike: int

    @property
    def text(self) -> int:
        """Tokens that are not visual."""
        return self.tokens - self.visual


@dataclass(frozen=True)
class PromptCost:
    """A prompt in a model, prefilled as a setup asks."""

    model: ModelSize
    size: PromptSize
    setup: Setup

    @property
    def _compact(self) -> bool:
        return self.setup.positions == "compact"

    @property
    def _beside(self) -> int:
        return self.model.beside_bytes(self.size.tokens)

    def kept(self, budget: str) -> int:
        """Visual entries per layer and KV head that a budget leaves.

        Raises:
            BudgetError: a budget of bytes cannot hold the text and one visual entry.
        """
        asked = Budget.parse(budget)
        if asked.unit != "bytes":
            return asked.entries(self.size.visual)
        entry = self.model.entry_bytes(self._compact)
        room = (int(asked.amount) - self._beside) // entry - self.size.text
        if room < 1:
            raise BudgetError(
                f"{budget} cannot hold the {self.size.text} text entries of a prompt and one visual entry: ask for at "
                f"least {self._beside + entry * (self.size.text + 1)} bytes."
            )
        return min(room, self.size.visual)

    def passes(self, cell: Cell, questions: int) -> int:
        """How often a video passes through the text model, for as many questions about it.

        Questions share their video up to its last visual token, in chunks only those of one batch do. They cannot where
        the prompt is read in one pass, or where its last tokens ask after the video and differ.
        """
        prefill = self._prefill(cell.budget)
        if prefill == "whole" or self.setup.stage == "input" or probe_of(cell.method) > self.size.alike:
            return questions
        return 1 if prefill == "split" else -(-questions // self.setup.batch)

    def _prefill(self, budget: str) -> Prefill:
        """How the prompt is read: in one pass where a single chunk would hold the whole video."""
        prefill = prefill_of(self.setup, budget)
        return "whole" if prefill == "chunked" and self._chunk(budget) >= self.size.visual else prefill

    def _chunk(self, budget: str) -> int:
        return self.model.chunk(Budget.parse(budget), self._compact)

    def cache_bytes(self, budget: str) -> int:
        """What the cache of one question holds after the prefill, metadata included."""
        return self._beside + self.model.entry_bytes(self._compact) * (self.kept(budget) + self.size.text)

    @property
    def stock_bytes(self) -> int:
        """What the stock cache of one question would hold."""
        return self._beside + self.model.token_bytes * self.size.tokens

    def pass_flops(self, budget: str) -> float:
        """Of the text model, for the video to pass through it once: 2 per parameter and token, and attention."""
        tokens, pairs = self._tokens_and_pairs(budget)
        windows = _causal(tokens) - _causal(max(tokens - self.model.window, 0))
        attended = self.model.layers * pairs + self.model.sliding * windows
        return 2.0 * self.model.multiplied * tokens + 4.0 * self.model.heads * self.model.head_dim * attended

    def _tokens_and_pairs(self, budget: str) -> tuple[int, int]:
        """Tokens that pass, and the pairs of a query and a key that it sees."""
        size, prefill = self.size, self._prefill(budget)
        if self.setup.stage == "input":
            tokens = size.text + self.kept(budget)
        else:
            tokens = size.tokens if prefill == "whole" else size.before
        if prefill != "chunked":
            return tokens, _causal(tokens)
        held, chunk = 0, self._chunk(budget)
        most, pairs = self.kept(budget) + size.before - size.visual, 0
        for start in range(0, tokens, chunk):
            new = min(chunk, tokens - start)
            pairs += new * held + _causal(new)
            held = min(held + new, most)
        return tokens, pairs


def _causal(tokens: int) -> int:
    return tokens * (tokens + 1) // 2


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
