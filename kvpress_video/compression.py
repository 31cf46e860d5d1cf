"""The door: `compress(model, method, budget)` around the stock `generate()`.

One file for what a call returns and takes, most of which is documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any

from torch import Tensor

from .attention.sliding_window import check_sliding
from .budget import Budget, BudgetLike
from .cache.layer import CompressedLayer
from .cache.quantization import UNQUANTIZED, QuantizeLike, canonical
from .cache.storage import storage_of
from .compressor.base import Compressor
from .compressor.registry import make_method, name_of
from .errors import BudgetError, CacheError, check_choice, unknown_name
from .models import adapter_for
from .prefill.hooks import ModelHooks
from .prefill.options import (
    Labels,
    Positions,
    Prefill,
    PrefillOptions,
    Stage,
    check_budget,
    resolved_prefill,
    usual_chunk,
)
from .prefill.shared import SharedPrefill
from .self_check.check import ensure_checked
from .utils.concurrency import entered, model_lock, under_lock
from .utils.formatting import format_bytes, plural
from .utils.method_patch import replaced
from .utils.turns import Turns

_NOTHING = "Nothing was compressed: call model.generate() with a video or an image inside compress()."


@dataclass(frozen=True, repr=False)
class Report:
    """Request and outcome of one prefill, measured on the cache afterwards.

    Attributes:
        method, settings, stage, prefill, positions, labels, quantize: what compressed, and how.
        asked: the budget as asked.
        entries: visual entries held per layer, per KV head (on average if heads differ), in the fullest row.
        label_entries: entries held of the text that belongs to one frame (its time or number), per layer and KV head,
            in the row that holds most; none with `labels="keep"`, which counts it as text.
        text_entries: text entries held per layer and KV head, in the fullest row.
        visual_tokens: visual tokens seen, in the row with most.
        label_tokens: label tokens seen, in the row with most.
        ratio: visual and label entries held over visual and label tokens seen, all rows and layers.
        bytes: what the cache holds in all: keys, values and metadata, every layer; the windows of sliding layers, which
            are never compressed, included, and the memory in which attention reads heads of different lengths or
            dequantised entries. Of a
            model that several processes share (tensor parallel), this one's part, as all bytes here.
        peak_bytes: the most that it held at one moment of the prefill, the chunk in work included; no more than a
            budget of bytes, unless the prefill continued a cache to which generated text had come.
        full_bytes: what the stock cache would hold after the same tokens.
        logical_length: tokens seen per row, padding included; the model's positions go by it.
        prefill_seconds: in the vision tower and the text model up to the last visual token, or through the whole prompt
            where it is read in one pass.
        compress_seconds: in the method.
        shared: whether the prefill was one made before.
    """

    method: str
    settings: dict[str, Any]
    stage: str
    prefill: str
    positions: str
    labels: str
    quantize: str
    asked: str
    entries: tuple[int, ...]
    label_entries: tuple[int, ...]
    text_entries: int
    visual_tokens: int
    label_tokens: int
    ratio: float
    bytes: int
    peak_bytes: int
    full_bytes: int
    logical_length: int
    prefill_seconds: float = field(default=0.0, compare=False)
    compress_seconds: float = field(default=0.0, compare=False)
    shared: bool = field(default=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, as they go into result rows."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = min(self.entries), max(self.entries)
        held = f"{high}" if low == high else f"{low} to {high}"
        labels = f", {max(self.label_entries)} of {self.label_tokens} label entries" if self.label_tokens else ""
        bits = "" if self.quantize == UNQUANTIZED else f", quantize={self.quantize}"
        cache, full = (format_bytes(size, "MiB") for size in (self.bytes, self.full_bytes))
        return (
            f"{self.method} at {self.asked}: {held} of {self.visual_tokens} visual entries per layer and head "
            f"({self.ratio:.1%}){labels}, {self.text_entries} text entries{bits}; {cache} of {full}; "
            f"logical length {self.logical_length}"
        )

    def __repr__(self) -> str:
        return f"<Report: {self}>"


class Compression:
    """A method on a model, as a context manager; made by `compress()`.

    Attributes:
        reports: one `Report` per prefill that brought visual tokens, in order.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        method: Compressor,
        budget: Budget,
        options: PrefillOptions,
        shared: SharedPrefill | None,
        asked: Budget,
    ) -> None:
        self.reports: list[Report] = []
        self._asked: dict[str, Any] = {
            "method": name,
            "settings": method.describe(),
            "stage": options.stage,
            "prefill": options.prefill,
            "positions": options.positions,
            "labels": options.labels,
            "quantize": canonical(options.storage.quantization),
            "asked": str(asked),
        }
        self._kept: list[Tensor] = []
        ensure_checked(model)
        self._adapter = adapter = adapter_for(model)
        check_sliding(adapter, options.stage)
        if options.prefill == "chunked" and options.chunk is None:
            usual = usual_chunk(asked, adapter, options.compact, storage=options.storage)
            options = replace(options, chunk=usual, chunk_asked=budget.unit != "bytes")
        self._hooks = ModelHooks(adapter, method, budget, options, self._measure, shared)
        self._turns = Turns(model_lock(adapter.model))
        self._undo = ExitStack()

    def __repr__(self) -> str:
        return f"<Compression of {self.what}, {plural(len(self.reports), 'report')}>"

    @property
    def what(self) -> str:
        """The class of the model, the method and the budget, as text."""
        return f"{type(self._adapter.model).__name__}: {self._asked['method']} at {self._asked['asked']}"

    def __enter__(self) -> Compression:
        return self.attach()

    def attach(self, finished: Callable[[str], None] | None = None) -> Compression:
        """Put the compression on the model, once the call in flight is done.

        Args:
            finished: called with `"generate"` or `"forward"` after each call of the model.
        """
        model, lock = self._adapter.model, model_lock(self._adapter.model)
        turns = Turns(lock, finished)
        methods = (replaced(model, name, turns.serialised(name)) for name in ("generate", "forward"))
        with lock, ExitStack() as undo:
            undo.enter_context(entered([self._hooks.attached(), *methods]))
            self._turns, self._undo = turns, undo.pop_all()
        return self

    @contextmanager
    def exclusive(self) -> Iterator[Compression]:
        """Compress the calls of this thread alone; those of others wait until the context is left, and are stock."""
        model, lock = self._adapter.model, model_lock(self._adapter.model)
        methods = (replaced(model, name, partial(under_lock, lock)) for name in ("generate", "forward"))
        with lock, entered([*methods, self._hooks.attached()]):
            yield self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Leave the model as it was before, once the calls that were begun are done.

        Raises:
            CacheError: called from within one of them.
        """
        with self._turns.ending():
            self._undo.close()

    @property
    def report(self) -> Report:
        """The latest report.

        Raises:
            CacheError: nothing was compressed yet.
        """
        if not self.reports:
            raise CacheError(_NOTHING)
        return self.reports[-1]

    @property
    def kept(self) -> list[Tensor]:
        """Per layer, (batch, kv_heads, entries) original token index of each entry, -1 for padding, after the latest
        compression; of the KV heads that this process holds.

        Raises:
            CacheError: nothing was compressed yet.
        """
        if not self._kept:
            raise CacheError(_NOTHING)
        return self._kept

    def _measure(self, layers: list[CompressedLayer], peak: int) -> None:
        held = [[row.visual for row in layer.rows] for layer in layers]
        labels = [[row.label_tokens for row in layer.rows] for layer in layers]
        seen = [sum(row.seen.values()) for row in layers[0].rows]
        named = [sum(row.labels_seen.values()) for row in layers[0].rows]
        text = [row.text(layer.physical) for layer in layers for row in layer.rows]
        uncompressed = len(seen) * self._adapter.uncompressed_bytes(layers[0].logical)
        held_bytes = uncompressed + sum(layer.bytes for layer in layers) + layers[0].staging_bytes
        self._kept = [layer.kept for layer in layers]
        compressing = self._hooks.timer.take("compress")
        self.reports.append(
            Report(
                **self._asked,
                entries=tuple(max(rows) for rows in held),
                text_entries=max(text),
                visual_tokens=max(seen),
                ratio=sum(map(sum, held + labels)) / (len(layers) * sum(seen + named)),
                label_entries=tuple(max(rows) for rows in labels),
                label_tokens=max(named),
                bytes=held_bytes,
                peak_bytes=max(uncompressed + peak, held_bytes),
                full_bytes=uncompressed + sum(layer.stock_bytes for layer in layers),
                logical_length=layers[0].logical,
                prefill_seconds=self._hooks.timer.take("prefill") - compressing,
                compress_seconds=compressing,
                shared=self._hooks.runner.reused,
            )
        )


def compress(
    model: Any,
    method: str | Compressor,
    budget: BudgetLike,
    *,
    stage: Stage = "cache",
    prefill: Prefill = "auto",
    chunk: int | None = None,
    positions: Positions = "keep",
    labels: Labels = "spread",
    experts: int | None = None,
    quantize: QuantizeLike = None,
    shared: SharedPrefill | None = None,
    **settings: Any,
) -> Compression:
    """Compress the KV cache of a model's visual tokens, for as long as the context is open.

        with kv.compress(model, "infinipot-v", budget="25%") as run:
            out = model.generate(**inputs)
        print(run.report)

    The prompt is prefilled up to its last visual token and each layer is compressed right after its attention; the text
    that follows, the question, sees only what was kept, as every later question does. Rows that share their video share
    its prefill. A budget of tokens or bytes is a hard cap: the vision tower and the text model work through the video
    in chunks of whole frames, every layer is compressed after each, and the cache never holds more than a budget of
    bytes, or than a budget of tokens and one chunk in one layer (pixels and visual embeddings of the whole video, which
    `generate()` is handed, stay).

    Every `generate()` on this model is compressed while the context is open, whichever thread calls it; threads take
    turns, one whole call after another. Leaving the context waits for the calls that were begun, and gives threads that
    were started inside and have not called the model yet a second to do so: then `generate()` in a thread with a
    streamer may outlive the block. A thread that waits for something that happens only after the block has to be given
    that before. Ctrl-C ends the wait; the model is then the stock one.

    Args:
        model: a loaded model of a supported family, on any device or `device_map`.
        method: a method's name, `"name:setting=value,…"`, or an instance.
        budget: `"25%"`, `0.25`, `6144` (visual entries per layer and KV head), `"256MiB"` (everything the cache holds
            at any moment of the prefill; of a model that several processes share, this one's part). With several videos
            or images each keeps its share. A method that keeps everything (`"full"`) ignores it; the report states
            both.
        stage: `"cache"`, or `"input"` to drop or merge visual embeddings before the text model sees them; logits of
            dropped tokens are then absent from `forward()`.
        prefill: `"chunked"` as above; `"split"`, one compression at the end of the video, which caps what stays;
            `"whole"`: the prompt in one pass, so that the text after a video sees all of it once, and only what is
            generated after the first token sees the compressed cache. In both, each layer in turn holds the whole
            video: on top of a ratio or of tokens; a budget of bytes pays for it and leaves less to the cache. `"auto"`
            is chunked for budgets of tokens and bytes, and split for ratios, whose meaning depends on the whole video.
        chunk: visual tokens per chunk; whole frames, at least one. By default a third of the budget, or of the entries
            that bytes leave a layer for frames.
        positions: `"keep"` the original positions, or `"compact"` them so that the freed range can be used again.
        labels: what becomes of the text that a processor writes for each frame (its time or number, what opens and
            closes it). It belongs to its frame and costs budget like a visual entry. `"spread"`: as long as visual
            entries have to go, a quarter of the budget at most holds labels, of the newest frame and of frames spread
            evenly over time, the same in every head and layer; `"drop"`: none of it, so that positions alone tell time;
            `"keep"`: all of it, on top of the budget, which then caps nothing in families that write some. Families
            without such text (Qwen2-VL, Qwen2.5-VL, LLaVA) know no difference.
        experts: in a mixture of experts, how many of the experts chosen for a visual token process it: those of the
            highest rank, with their weights scaled to the sum of all; None for all. Text keeps all of its experts.
        quantize: bits of cached keys and values: `8`, `4` or `2`, as in KIVI: keys per channel in groups along the
            sequence, values per token, the newest 32 entries of each layer as they are. `"4:residual_length=128"` and
            `kv.Quantization(nbits=4, q_group_size=32, residual_length=128)` change the settings, under the names of
            transformers' `QuantizedCache`. Each layer is packed once it is compressed; a budget of bytes counts what is
            packed, and the one layer at a time that attention reads. None leaves keys and values as they are.
        shared: a `SharedPrefill`, for several one-shot compressions of the same prompt.
        **settings: the method's settings.

    Raises:
        BudgetError: the budget cannot be read, or `experts` are more than the model uses. `generate()` raises it where
            text, a chunk in work and one frame's label do not fit into bytes, with the least budget.
        UnknownNameError: unknown method, setting, stage, positions or labels, or a method that cannot work at that
            stage.
        UnsupportedModelError: the model, its attention or rope is not supported, or it lacks a feature (see `inspect`).
            Models without a dedicated adapter are checked on a synthetic prompt once. Dense models have no `experts`.
        CacheError: `shared` is no `SharedPrefill`, or `quantize` cannot be read or does not go with the rest.
    """
    choices = (
        ("stage", stage, Stage),
        ("prefill", prefill, Prefill),
        ("positions", positions, Positions),
        ("labels", labels, Labels),
    )
    for what, value, choice in choices:
        check_choice(what, value, choice)
    if not isinstance(shared, SharedPrefill | None):
        raise CacheError(f"shared must be a SharedPrefill, got {type(shared).__name__} {shared!r:.80}.")
    made = make_method(method, **settings)
    name = name_of(method)
    if stage not in made.stages:
        raise unknown_name(f"stage of {name}", stage, made.stages)
    parsed = Budget.parse(budget)
    allowed = Budget(1, "ratio") if made.keeps_all else parsed
    check_budget(made, allowed)
    mode = resolved_prefill(prefill, stage, parsed if prefill == "chunked" else allowed, chunk)
    options = PrefillOptions(
        stage, mode, chunk, positions, storage=storage_of(quantize), labels=labels, experts=experts
    )
    return Compression(model, name, made, allowed, options, shared, parsed)


def check_achieved(budget: Budget, report: Report) -> None:
    """Check that a cache holds no more than its budget.

    Raises:
        BudgetError: it holds more.
    """
    if budget.unit == "bytes":
        held, allowed, unit = report.bytes, int(budget.amount), "bytes"
    else:
        seen = report.visual_tokens + report.label_tokens
        per_layer = budget.entries(seen) if budget.unit == "ratio" else int(budget.amount)
        held, allowed = sum(report.entries) + sum(report.label_entries), len(report.entries) * per_layer
        unit = "visual and label entries per KV head over all layers"
    if held > allowed:
        raise BudgetError(f"{report.method} holds {held} {unit} where {budget} allows {allowed}.")
