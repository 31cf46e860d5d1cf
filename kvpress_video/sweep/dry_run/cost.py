"""Prefills and cache bytes of a prompt, from a model's configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...attention.sliding_window import check_sliding
from ...budget import UNCOMPRESSED, Budget
from ...cache.allocation import BudgetAllocator
from ...cache.forward_pass import RowState
from ...cache.quantization import UNQUANTIZED
from ...cache.storage import Storage, storage_of
from ...compressor.registry import make_method
from ...compressor.routing import checked_routing
from ...errors import KVPressVideoError, UnknownNameError, UnsupportedModelError
from ...models import adapter_for, has_dedicated_adapter
from ...models.base import Adapter
from ...models.loading import bundled_path, check_folder
from ...prefill.options import PrefillOptions, check_budget, check_supported, label_share, usual_chunk
from ...utils.model_names import BUNDLED_NAMES
from ...utils.named_settings import parse
from ..cells import Cell, Setup, prefill_of, probe_of


@dataclass(frozen=True)
class PromptSize:
    """Token counts of a prompt about one video.

    Attributes:
        frames: video frames read.
        tokens: number of tokens of the whole prompt.
        visual: number of placeholders of the video among them.
        labels: number of tokens of frame labels among them.
        following: number of tokens after the last frame.
        common_suffix: number of final tokens that are equal for all questions.
    """

    frames: int
    tokens: int
    visual: int
    common_suffix: int
    labels: int = 0
    following: int = 0

    @property
    def text(self) -> int:
        """Tokens that belong to no frame."""
        return self.tokens - self.visual - self.labels


@dataclass(frozen=True)
class PromptCost:
    """A prompt prefilled into a model as a setup asks.

    Attributes:
        adapter: adapter of a model, with or without weights.
        size: size of the prompt.
        setup: setup of the sweep.
        quantize: quantisation of a cell.
    """

    adapter: Adapter
    size: PromptSize
    setup: Setup
    quantize: str = UNQUANTIZED

    def kept(self, budget: str) -> int:
        """Return the visual and label entries per layer and KV head that a budget leaves.

        Raises:
            BudgetError: a budget of bytes cannot hold the text, one visual entry, and a chunk in work.
        """
        allocator = replace(self._allocator(budget), in_work=self._in_work(budget))
        [share] = allocator.shares([self._row], self.size.tokens)
        return sum(mine.entries for mine in share.values())

    def cache_bytes(self, budget: str) -> int:
        """Return the bytes that the cache of one question holds after the prefill, metadata included."""
        entries = self.kept(budget) + self.size.tokens - self.size.visual - self._labels
        return self._sliding_bytes + self._layers * self._storage.layer_bytes(self.adapter, self._compact, entries)

    @property
    def stock_bytes(self) -> int:
        """Bytes that the stock cache of one question would hold."""
        entry = 2 * self.adapter.kv_heads * self.adapter.head_dim * self.adapter.text_model.dtype.itemsize
        return self._sliding_bytes + self._layers * entry * self.size.tokens

    def refusal(self, cell: Cell) -> str:
        """Return why a cell will fail, as far as the prompt and a model without weights can show; else empty."""
        try:
            self._check(cell)
            self.cache_bytes(cell.budget)
        except KVPressVideoError as error:
            return str(error)
        return ""

    def _check(self, cell: Cell) -> None:
        method, budget, setup = make_method(cell.method), Budget.parse(cell.budget), self.setup
        options = PrefillOptions(
            setup.stage,
            prefill_of(setup, cell.budget),
            positions=setup.positions,
            storage=self._storage,
            labels=setup.labels,
            experts=setup.experts,
        )
        check_budget(method, budget)
        check_sliding(self.adapter, setup.stage)
        check_supported(self.adapter, method, options)
        checked_routing(method, self._layers)
        if method.keeps_all:
            return
        paid = options.allocator(self.adapter, method, budget, self.size.tokens)
        allocator = replace(paid, in_work=self._in_work(cell.budget))
        allocator.check([self._row], self.size.tokens)
        for layer in range(self._layers):
            allocator.shares([self._row], self.size.tokens, layer)

    def passes(self, cell: Cell, questions: int) -> int:
        """Count how often a video passes through the text model, for a number of questions about it.

        Questions share their video up to its last visual token, but in a chunked prefill only within a batch, and not
        if the prompt is read in one pass or the method probes with tokens that differ by question.
        """
        prefill = prefill_of(self.setup, cell.budget)
        one_chunk = prefill == "chunked" and self._chunk(cell.budget) >= self.size.visual
        if prefill == "whole" or one_chunk or self.setup.stage == "input":
            return questions
        if probe_of(cell.method) > self.size.common_suffix:
            return questions
        return 1 if prefill == "split" else -(-questions // self.setup.batch)

    @property
    def _labels(self) -> int:
        """Number of label tokens that the budget covers."""
        return 0 if self.setup.labels == "keep" else self.size.labels

    @property
    def _compact(self) -> bool:
        return self.setup.positions == "compact"

    @property
    def _layers(self) -> int:
        return len(self.adapter.attentions)

    @property
    def _storage(self) -> Storage:
        return storage_of(self.quantize)

    @property
    def _sliding_bytes(self) -> int:
        return self.adapter.uncompressed_bytes(self.size.tokens)

    @property
    def _row(self) -> RowState:
        """The prompt before anything is evicted."""
        visual = {0: self.size.visual}
        labels = {0: dict.fromkeys(range(self._labels), 1)} if self._labels else {}
        return RowState(held=visual, seen=visual, labels=labels, labels_seen={0: self._labels})

    def _allocator(self, budget: str) -> BudgetAllocator:
        entry = self._storage.entry(self.adapter, self._compact)
        return BudgetAllocator(
            Budget.parse(budget),
            make_method(UNCOMPRESSED),
            self._layers,
            entry.held,
            1,
            self._sliding_bytes + self._layers * entry.recent,
            staging_bytes=entry.staged,
            work_bytes=entry.in_work,
            label_share=label_share(self.setup.labels),
        )

    def _chunk(self, budget: str) -> int:
        parsed = Budget.parse(budget)
        usual = usual_chunk(parsed, self.adapter, self._compact, storage=self._storage)
        if parsed.unit != "bytes":
            return usual
        return min(usual, self._allocator(budget).usual_chunk([self._row], self.size.tokens))

    def _in_work(self, budget: str) -> int:
        """Return the entries of the largest pass that count against the budget in one layer before compression, without
        probes.
        """
        allocator, whole = self._allocator(budget), self.size.visual + self._labels
        if self.setup.stage == "input" or allocator.reading(whole).hold_all([self._row], self.size.tokens):
            return 0
        layers = 0 if allocator.packs else self._layers  # that keep room for text to come, which a chunk may use
        prefill = prefill_of(self.setup, budget)
        if prefill == "whole":
            return whole
        if prefill == "split":
            return max(0, whole - layers * self.size.following)
        frame = -(-whole * self.adapter.frames_per_step // self.size.frames)
        chunk = min(whole, max(1, self._chunk(budget) // frame) * frame)
        return max(0, chunk - layers * self.size.following)


def read_model(text: str) -> tuple[Adapter, Any]:
    """Build the model that a grid names without its weights, and load its processor.

    Returns:
        The model's adapter, and the processor.

    Raises:
        UnknownNameError: there is no such model, or it has no configuration or processor.
        UnsupportedModelError: its family is not supported.
    """
    name, settings = parse(text)
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    folder = _folder(name)
    try:
        config = AutoConfig.from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder)
        with torch.device("meta"):
            model: Any = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError) as error:
        raise UnknownNameError(f"Cannot read the configuration and processor of {name!r}: {error}") from error
    if not has_dedicated_adapter(model):
        raise UnsupportedModelError(
            f"A dry run cannot estimate {name!r} (model type {config.model_type!r}): it has no dedicated adapter, and "
            "the self-check needs the weights, which a dry run does not load. Run the sweep without a dry run, or "
            f"`kvpress-video models {name}`."
        )
    return adapter_for(model.to(_dtype(settings.get("dtype", "auto"), config))), processor


def _folder(name: str) -> str:
    if name in BUNDLED_NAMES:
        return str(bundled_path(BUNDLED_NAMES[name]))
    check_folder(name)
    return name


def _dtype(asked: str, config: Any) -> torch.dtype:
    """Return the dtype that `load` would give the weights: the requested one, or that of the checkpoint."""
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    chosen = own if asked == "auto" else asked
    return chosen if isinstance(chosen, torch.dtype) else getattr(torch, chosen)
