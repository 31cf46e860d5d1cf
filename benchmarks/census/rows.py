"""One row of the census: the features that a tiny model of a type supports, and the core methods on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import kvpress_video as kv
from kvpress_video.models import ADAPTERS, adapter_for
from kvpress_video.models.cache_argument import CACHE
from kvpress_video.self_check.check import first_that_runs, padded_rows

from .tiny import tiny_model

CORE = ("van", "key-norm", "tar", "snapkv", "random")
"""Methods that must meet their budget exactly."""

LIMITS = {
    "chunks": '`prefill="whole"` only',
    "queries": "no methods that use queries",
    "images": "no images",
    "videos": "no videos",
}
"""Features that differ between types, with the table's wording for a model without them."""

_BUDGET = 3


@dataclass(frozen=True)
class Row:
    """Support of one model type.

    Attributes:
        model_type: registered name of the type.
        adapter: class of the dedicated adapter, `"general"`, or empty.
        refused: unsupported features that differ between types.
        grid: whether the grid of its visual tokens is known.
        methods: core methods that meet their budget exactly, in a padded batch of two and after a second turn.
        reason: why the type is not supported.
        revision: revision of the package that produced the row.
    """

    model_type: str
    adapter: str = ""
    refused: tuple[str, ...] = ()
    grid: bool = True
    methods: tuple[str, ...] = ()
    reason: str = ""
    revision: str = ""


def row_of(model_type: str) -> Row:
    """Build and inspect a tiny model of a type, unless there is a dedicated adapter."""
    own = next((adapter for adapter in ADAPTERS if model_type in adapter.model_types), None)
    if own is not None:
        return Row(model_type, own.__name__)
    try:
        model = tiny_model(model_type)
    except Exception as error:
        return Row(model_type, reason=f"no tiny model can be built: {_first_line(error)}")
    found = kv.inspect(model)
    if found.unsupported:
        reason = found.unsupported.partition("no dedicated adapter, and ")[2].rpartition(" Supported: ")[0]
        return Row(model_type, reason=(reason or found.unsupported).partition("; pass the output")[0].rstrip("."))
    refused = tuple(feature for feature in LIMITS if feature in found.refused)
    grid = "grid unknown" not in found.prompt
    methods = tuple(name for name in CORE if name in found.methods and (grid or name != "tar"))
    prefill = "whole" if "chunks" in refused else "auto"
    wrong = "; ".join(filter(None, (_wrong_budget(model, name, prefill) for name in methods)))
    return Row(model_type, reason=wrong) if wrong else Row(model_type, "general", refused, grid, methods)


def _wrong_budget(model: Any, method: str, prefill: Any) -> str:
    """Compress a padded batch of two and a second turn with one method; describe the first error, if any."""
    adapter: Any = adapter_for(model)
    maker, _ = first_that_runs(adapter, next(iter(adapter.placeholders)), {})
    inputs = padded_rows(maker) if maker.most > 1 else maker.prompt()
    words = {"max_new_tokens": 2, "do_sample": False, "suppress_tokens": [*{*adapter.placeholders.values()}]}
    with torch.no_grad(), kv.compress(model, method, _BUDGET, prefill=prefill) as run:
        first = model.generate(**inputs, **words, return_dict_in_generate=True)
        more = torch.cat([first.sequences, inputs["input_ids"][:, -2:]], dim=1)
        added = more.shape[1] - inputs["input_ids"].shape[1]
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, added), value=1)
        model.generate(more, attention_mask=mask, **{CACHE: first[CACHE]}, **words)
    wanted = (_BUDGET,) * len(adapter.attentions)
    return "" if run.report.entries == wanted else f"{method} holds {run.report.entries} entries, not {wanted}"


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip():.160}" if lines else type(error).__name__
