"""`compress(model, method, budget)` around the stock `generate()`.

This file holds the arguments and results of a call; most of it is documentation.
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
from .compressor.registry import make_method, name_of, written
from .errors import BudgetError, CacheError, check_choice
from .models import adapter_for
from .prefill.hooks import ModelHooks
from .prefill.options import (
    Labels,
    Positions,
    Prefill,
    PrefillOptions,
    Stage,
    check_budget,
    check_stage,
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
        method: its name and the settings that differ from their defaults, such as `"tar:recent_ratio=0.5"`.
        settings: all settings of the method.
        stage: as given to `compress`.
        prefill: as given to `compress`.
        positions: as given to `compress`.
        labels: as given to `compress`.
        quantize: as given to `compress`.
        asked: the requested budget.
        entries: visual entries held per layer, per KV head (on average if heads differ), in the fullest row.
        label_entries: label entries held (the time or number of a frame), per layer and KV head, in the fullest row; 0
            with `labels="keep"`, which counts labels as text.
        text_entries: text entries held per layer and KV head, in the fullest row.
        visual_tokens: visual tokens seen, in the longest row.
        label_tokens: label tokens seen, in the longest row.
        ratio: visual and label entries held over visual and label tokens seen, all rows and layers.
        bytes: size of the cache: keys, values and metadata of all layers, with the windows of sliding layers, which are
            never compressed, and the buffers for heads of different lengths or dequantised entries. With tensor
            parallelism, as for all sizes here, the part of this process.
        peak_bytes: largest size at any moment of the prefill, the chunk in work included; at most the budget, if that
            is in bytes, unless the prefill continued a cache with generated text.
        full_bytes: size of the stock cache after the same tokens.
        logical_length: tokens seen per row, padding included; determines the model's positions.
        prefill_seconds: time in the vision tower and the text model up to the last visual token, or for the whole
            prompt if it is read in one pass.
        compress_seconds: time in the method.
        shared: whether an earlier prefill was reused.
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
        """Return the report as plain types, as in result rows."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = min(self.entries), max(self.entries)
        held = f"{high}" if low == high else f"{low} to {high}"
        labels = f", {max(self.label_entries)} of {self.label_tokens} label entries" if self.label_tokens else ""
        bits = "" if self.quantize == UNQUANTIZED else f", quantize={self.quantize}"
        cache, full = (format_bytes(size, "MiB") for size in (self.bytes, self.full_bytes))
        return (
            f"{self.method} at {self.asked}: {held} of {self.visual_tokens} visual entries per layer and head "
            f"({self.ratio:.1%}){labels}, {self.text_entries} text entries{bits}; {cache} instead of {full}; "
            f"logical length {self.logical_length}"
        )

    def __repr__(self) -> str:
        return f"<Report: {self}>"


class Compression:
    """A method applied to a model, as a context manager; made by `compress()`.

    Attributes:
        reports: one `Report` per prefill with visual tokens, in order.
    """

    def __init__(
        self,
        model: Any,
        method: Compressor,
        budget: Budget,
        options: PrefillOptions,
        shared: SharedPrefill | None,
        asked: Budget,
    ) -> None:
        self.reports: list[Report] = []
        self._asked: dict[str, Any] = {
            "method": written(method),
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
        """Class of the model, method and budget, as text."""
        return f"{type(self._adapter.model).__name__}: {self._asked['method']} at {self._asked['asked']}"

    def __enter__(self) -> Compression:
        return self.attach()

    def attach(self, finished: Callable[[str], None] | None = None) -> Compression:
        """Attach the compression to the model, after any call in progress.

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
        """Compress only the calls of this thread; other threads wait until the context is left, and run
        uncompressed."""
        model, lock = self._adapter.model, model_lock(self._adapter.model)
        methods = (replaced(model, name, partial(under_lock, lock)) for name in ("generate", "forward"))
        with lock, entered([*methods, self._hooks.attached()]):
            yield self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Restore the model, after any calls in progress.

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
        compression; only of the KV heads of this process.

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
    """Compress the visual tokens in a model's KV cache while the context is open.

        with kv.compress(model, "infinipot-v", budget="25%") as run:
            out = model.generate(**inputs)
        print(run.report)

    The prompt is prefilled up to its last visual token and each layer is compressed right after its attention; the
    following text, such as the question, sees only the kept entries, as does every later question. Rows with the same
    video share its prefill. A budget of tokens or bytes is a hard cap: the vision tower and the text model process the
    video in chunks of whole frames, every layer is compressed after each chunk, and the cache never exceeds a budget in
    bytes, or a budget in tokens plus one chunk in one layer. (The caller still holds the pixels and visual embeddings
    of the whole video.)

    Every `generate()` on this model is compressed while the context is open, from any thread; threads take turns, one
    whole call at a time. Leaving the context waits for calls in progress, and gives threads started inside it one
    second to make their first call, so that `generate()` in a thread with a streamer may outlive the block. Such a
    thread must not wait for anything that happens only after the block. Ctrl-C ends the wait and restores the stock
    model.

    Args:
        model: a loaded model of a supported family, on any device or `device_map`.
        method: a method's name, `"name:setting=value,…"`, or an instance.
        budget: `"25%"`, `0.25`, `6144` (visual entries per layer and KV head), `"256MiB"` (the whole cache at any
            moment of the prefill; with tensor parallelism, the part of this process). Several videos or images share it
            in proportion. A method that keeps everything (`"full"`) ignores it; the report states both.
        stage: `"cache"`, or `"input"` to drop or merge visual embeddings before the text model sees them; logits of
            dropped tokens are then absent from `forward()`.
        prefill: `"chunked"` as above; `"split"`, one compression at the end of the video, which caps only the resulting
            cache; `"whole"`, the prompt in one pass, in which the text after a video sees all of it once and only
            tokens after the first generated one see the compressed cache. In the latter two, each layer in turn holds
            the whole video, in addition to a ratio or a budget in tokens; a budget in bytes covers it and leaves less
            for the cache. `"auto"` is chunked for budgets in tokens and bytes, and split for ratios, which refer to the
            whole video.
        chunk: visual tokens per chunk; whole frames, at least one. By default a third of the budget, or of the entries
            of frames that fit into a budget in bytes.
        positions: `"keep"` the original positions, or `"compact"` them so that the freed range can be used again.
        labels: treatment of the text that a processor writes for each frame (its time or number, and the opening and
            closing markers), which counts against the budget like visual entries. `"spread"`: once visual entries must
            be evicted, labels take at most a quarter of the budget, those of the newest frame and of frames spread
            evenly over time, the same in every head and layer; `"drop"`: no labels, so that only positions carry time;
            `"keep"`: all labels, in addition to the budget, which then is no cap in families with labels. Without
            effect in families without labels (Qwen2-VL, Qwen2.5-VL, LLaVA).
        experts: in a mixture of experts, the number of experts per visual token: those of the highest rank, with their
            weights rescaled to the original sum; None for all. Text always uses all of its experts.
        quantize: bits of cached keys and values: `8`, `4` or `2`, as in KIVI: keys per channel in groups along the
            sequence, values per token, the newest 32 entries of each layer unquantised. `"4:residual_length=128"` and
            `kv.Quantization(nbits=4, q_group_size=32, residual_length=128)` change the settings, named as in
            transformers' `QuantizedCache`. Each layer is packed after compression; a budget in bytes counts the packed
            size, and the one dequantised layer that attention reads. None for no quantisation.
        shared: a `SharedPrefill`, for several one-shot compressions of the same prompt.
        **settings: the method's settings.

    Raises:
        BudgetError: the budget cannot be parsed, or `experts` exceeds those of the model. `generate()` raises it if
            text, one chunk and one frame's label do not fit into a budget in bytes, and names the smallest budget that
            works.
        UnknownNameError: unknown method, setting, stage, positions or labels, or a method that does not support the
            stage.
        UnsupportedModelError: the model, its attention or rope is not supported, or it lacks a feature (see `inspect`).
            Models without a dedicated adapter are checked on a synthetic prompt once. Dense models have no `experts`.
        CacheError: `shared` is not a `SharedPrefill`, or `quantize` cannot be parsed or conflicts with other arguments.
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
    check_stage(name_of(method), made, stage)
    parsed = Budget.parse(budget)
    allowed = Budget(1, "ratio") if made.keeps_all else parsed
    check_budget(made, allowed)
    mode = resolved_prefill(prefill, stage, parsed if prefill == "chunked" else allowed, chunk)
    options = PrefillOptions(
        stage, mode, chunk, positions, storage=storage_of(quantize), labels=labels, experts=experts
    )
    return Compression(model, made, allowed, options, shared, parsed)


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
