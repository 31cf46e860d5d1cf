"""Prefill options: the stage of compression, the size of chunks, and the treatment of positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..budget import Budget
from ..cache.allocation import LABEL_SHARE, BudgetAllocator
from ..cache.byte_entries import chunk_of, layer_entries
from ..cache.staging import staging_room
from ..cache.storage import Storage, storage_for
from ..compressor.base import Compressor
from ..compressor.routing import routes
from ..errors import BudgetError, UnknownNameError, UnsupportedModelError
from ..models.base import Adapter
from ..models.findings import Feature, refusal
from ..models.routing import first_router, mixtures
from ..utils.numbers import is_whole
from .reencoding import check_exchangeable
from .text_transfer import check_transfer

Stage = Literal["cache", "input"]
Prefill = Literal["auto", "chunked", "split", "whole"]
Positions = Literal["keep", "compact"]
Labels = Literal["spread", "keep", "drop"]
_MODEL_NEEDS = {"queries", "probe", "rope", "output_weight", "attention"}  # these need modules of known structure
_PLAIN_STORAGE = Storage()
_LONGEST = 2**31  # tokens, more than any window, for a model without a stated maximum length


@dataclass(frozen=True)
class PrefillOptions:
    """The options of a compression, resolved.

    Attributes:
        stage: `"cache"` or `"input"`, see `compress`.
        prefill: `"whole"`, `"split"` or `"chunked"`.
        chunk: visual tokens per chunk, and maximum that the vision tower encodes at once.
        positions: `"keep"` or `"compact"`.
        chunk_asked: whether the caller set the chunk; if not, it shrinks when text or rows leave little of a budget in
            bytes.
        text_room: text entries for which a budget in bytes reserves room.
        in_work: entries that a later chunk adds to one layer at a time, for which a budget in bytes reserves room.
        storage: how keys and values are stored.
        labels: `"spread"`, `"keep"` or `"drop"`, see `compress`.
        experts: number of experts per visual token; None for as many as for text.
    """

    stage: Stage = "cache"
    prefill: Prefill = "whole"
    chunk: int | None = None
    positions: Positions = "keep"
    chunk_asked: bool = True
    text_room: int = 0
    in_work: int = 0
    storage: Storage = _PLAIN_STORAGE
    labels: Labels = "spread"
    experts: int | None = None

    @property
    def compact(self) -> bool:
        """Whether positions are compacted."""
        return self.positions == "compact"

    @property
    def labelled(self) -> bool:
        """Whether labels are distinguished from other text."""
        return self.labels != "keep"

    def allocator(
        self, adapter: Adapter, method: Compressor, budget: Budget, tokens: int, batch: int = 1
    ) -> BudgetAllocator:
        """Allocate a budget over `batch` rows of `tokens` tokens, for the dtype that the model has now."""
        layers, storage = len(adapter.attentions), storage_for(method, self.storage)
        entry = storage.entry(adapter, self.compact)
        return BudgetAllocator(
            budget,
            method,
            layers,
            entry.held,
            batch,
            adapter.uncompressed_bytes(tokens + self.text_room) + layers * entry.recent,
            self.text_room,
            self.in_work,
            entry.staged + (entry.in_work - entry.held if self.stage == "input" else 0),
            adapter.kv_heads if method.uneven else 1,
            work_bytes=entry.in_work,
            most_held=tokens + self.text_room,
            label_share=label_share(self.labels),
        )


def label_share(labels: Labels) -> float:
    """Return the fraction of a segment's budget that labels may take while visual entries are evicted."""
    return LABEL_SHARE if labels == "spread" else 0


def resolved_prefill(prefill: Prefill, stage: Stage, budget: Budget, chunk: int | None) -> Prefill:
    """Resolve `"auto"`; return any other mode unchanged.

    Raises:
        BudgetError: mode, stage, budget and chunk are incompatible.
    """
    if chunk is not None and not is_whole(chunk):
        raise BudgetError(f"chunk must be a whole number of visual tokens, got {chunk!r}.")
    if chunk is not None and chunk < 1:
        raise BudgetError(f"A chunk must hold at least one visual token, got {chunk}.")
    if prefill == "auto":
        capped = chunk is not None or budget.unit != "ratio"
        prefill = "chunked" if capped and stage == "cache" else "split"
    if stage == "input" and (prefill == "chunked" or chunk is not None):
        given = "prefill='chunked'" if chunk is None else f"chunk={chunk}"
        raise BudgetError(
            "stage='input' drops visual tokens before the cache sees them: it has no chunked prefill, so leave out "
            f"{given}."
        )
    if prefill == "chunked" and chunk is None and budget.unit == "ratio":
        raise BudgetError(f"A chunked prefill at {budget} needs chunk=…: how many visual tokens at a time.")
    if prefill != "chunked" and chunk is not None:
        raise BudgetError(f"chunk={chunk} does not apply to prefill={prefill!r}: leave it out, or use 'chunked'.")
    return prefill


def usual_chunk(
    budget: Budget, adapter: Adapter, compact: bool, text: int = 0, storage: Storage = _PLAIN_STORAGE
) -> int:
    """Return a third of the entries per layer that the budget leaves for frames, as in InfiniPot-V (C/M = .75).

    Args:
        budget: budget of tokens or bytes.
        adapter: adapter of the model.
        compact: whether positions are compacted.
        text: text entries that a budget in bytes includes.
        storage: how keys and values are stored.
    """
    if budget.unit != "bytes":
        return max(1, int(budget.amount) // 3)
    layers, entry = len(adapter.attentions), storage.entry(adapter, compact)
    longest = getattr(adapter.text_model.config, "max_position_embeddings", _LONGEST)
    window = adapter.uncompressed_bytes(longest)
    each = entry.held + staging_room(entry.staged) // layers
    entries = layer_entries(budget, layers, each, uncompressed=window + layers * entry.recent)
    return chunk_of(entries, text, layers, entry.in_work / entry.held)


def check_stage(name: str, method: Compressor, stage: Stage) -> None:
    """Raise UnknownNameError if a method does not work at a stage; the message names the one to pass."""
    if stage in method.stages:
        return
    works = "before prefill" if method.stages[0] == "input" else "in the cache"
    raise UnknownNameError(f"{name} works {works} only: pass stage={method.stages[0]!r}, not {stage!r}.")


def check_budget(method: Compressor, budget: Budget) -> None:
    """Raise BudgetError if a method holds more than a budget in bytes covers."""
    if method.fresh and budget.unit == "bytes":
        raise BudgetError(
            f"{budget} does not cover the frames that {type(method).__name__} re-encodes, whose keys and values all "
            "layers briefly hold twice: give a number of entries, or choose its base."
        )


def missing_feature(adapter: Adapter, method: Compressor, options: PrefillOptions) -> Feature | None:
    """Return a feature that a method with these options requires and the model does not support, if any."""
    required: dict[Feature, bool] = {
        "input": options.stage == "input",
        "chunks": options.prefill != "whole" and options.stage == "cache",
        "compact": options.compact,
        "queries": bool(method.needs & _MODEL_NEEDS or method.recall_share),
        "vision attention": "vision_attention" in method.needs,
        "experts": options.experts is not None,
        "routing": routes(method),
    }
    return next((feature for feature in adapter.refused if required.get(feature)), None)


def check_supported(adapter: Adapter, method: Compressor, options: PrefillOptions) -> None:
    """Check that a model supports a method with these options.

    Raises:
        UnsupportedModelError: it does not.
        CacheError: the requested storage is not supported.
        BudgetError: the model has fewer experts, or the method re-encodes frames, which uses all experts.
    """
    options.storage.check(adapter, method, options.compact)
    if method.fresh or method.recall_share:
        check_exchangeable(adapter, method)
    feature = missing_feature(adapter, method, options)
    if feature is not None:
        raise refusal(adapter.model, feature, adapter.refused[feature])
    if method.uneven:
        _check_uneven(adapter, type(method).__name__)
    check_transfer(adapter, method)
    if "router" in method.needs:
        first_router(adapter)
    if options.experts is not None:
        mixtures(adapter, options.experts)
        if method.fresh:
            raise BudgetError(
                f"{type(method).__name__} encodes the newest frames anew, with all experts: leave experts out, or "
                "choose its base."
            )


def _check_uneven(adapter: Adapter, name: str) -> None:
    """Check that heads may hold different numbers of entries."""
    if adapter.spread.processes > 1 or adapter.borrowers:
        why = "whose layers share a cache" if adapter.borrowers else "whose heads several processes share"
        raise UnsupportedModelError(f"{name} makes heads differ, which a model {why} cannot serve: choose another.")
