"""Compress a served model: `patch(model, method, budget)` covers every later call of `generate()` in the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ..budget import BudgetLike
from ..compression import Compression, Report, compress
from ..compressor.base import Compressor
from ..errors import UnknownNameError
from ..utils.formatting import format_bytes


@dataclass(frozen=True)
class ServingStats:
    """Counters of a patched model. Bytes count keys, values and metadata of all rows and layers.

    Attributes:
        requests: calls of `generate()`, including failed ones and those without a video.
        prefills: compressed prompts with visual tokens; a batch counts once.
        visual_tokens: visual tokens of all prefills; each prefill counts those of its longest row.
        bytes: size of the latest prefill's cache after compression.
        peak_bytes: largest size of any cache during its prefill.
        full_bytes: size of a stock cache for the latest prefill.
        peak_full_bytes: size of a stock cache for the largest one.
        report: the latest prefill's report, None before the first.
    """

    requests: int = 0
    prefills: int = 0
    visual_tokens: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    full_bytes: int = 0
    peak_full_bytes: int = 0
    report: Report | None = None

    @property
    def entries(self) -> int:
        """Visual entries per layer and KV head after the latest prefill, in its fullest layer and row."""
        return max(self.report.entries) if self.report else 0

    def after(self, requests: int, reports: Sequence[Report]) -> ServingStats:
        """Add requests and prefills."""
        total = replace(self, requests=self.requests + requests)
        for report in reports:
            total = ServingStats(
                total.requests,
                total.prefills + 1,
                total.visual_tokens + report.visual_tokens,
                report.bytes,
                max(total.peak_bytes, report.peak_bytes),
                report.full_bytes,
                max(total.peak_full_bytes, report.full_bytes),
                report,
            )
        return total

    def __str__(self) -> str:
        counts = f"requests: {self.requests}, prefills: {self.prefills}, visual tokens: {self.visual_tokens}"
        if not self.prefills:
            return counts
        sizes = (self.bytes, self.full_bytes, self.peak_bytes, self.peak_full_bytes)
        latest, full, peak, peak_full = (format_bytes(size, "MiB") for size in sizes)
        noun = "visual entry" if self.entries == 1 else "visual entries"
        return (
            f"{counts}; the latest cache: {self.entries} {noun} per layer and head, "
            f"{latest} instead of {full}; the most at any moment: {peak} instead of {peak_full}"
        )


class StatsHolder:
    """Current statistics of a patch, which outlive the model without keeping it alive.

    Attributes:
        stats: latest snapshot.
    """

    def __init__(self) -> None:
        self.stats = ServingStats()


class Patch:
    """Handle of a patched model, made by `patch()`; as a context manager it removes the patch at the end.

    Attributes:
        holder: current statistics.
    """

    def __init__(self, compression: Compression) -> None:
        self.holder = StatsHolder()
        self._compression = compression
        compression.attach(self._count)

    def __repr__(self) -> str:
        return f"<Patch of {self._compression.what}; {self.stats}>"

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def stats(self) -> ServingStats:
        """Statistics so far, as a frozen snapshot."""
        return self.holder.stats

    def remove(self) -> None:
        """Restore the model once the request in flight is done; do nothing the second time.

        Raises:
            CacheError: called from within a request.
        """
        self._compression.remove()

    def _count(self, call: str) -> None:
        self.holder.stats = self.stats.after(call == "generate", self._compression.reports)
        self._compression.reports.clear()


def patch(model: Any, method: str | Compressor, budget: BudgetLike, **options: Any) -> Patch:
    """Compress the KV cache of everything this process generates with a model from now on.

        handle = kv.patch(model, "infinipot-v", budget=6144)
        ...                      # serve: model.generate(**inputs), from any number of threads
        print(handle.stats)
        handle.remove()          # the model is as it was

    Threads take turns, one whole `generate()` at a time, so that concurrent requests get the answers they would get
    alone. Requests without a video or image are answered as before. The handle need not be kept.

    Args:
        model, method, budget, **options: as in `compress`, except `shared`.

    Raises:
        BudgetError: the budget cannot be read.
        UnknownNameError: unknown method, setting or option.
        UnsupportedModelError: the model cannot be compressed, or is being compressed already.
    """
    if "shared" in options:
        raise UnknownNameError("A deployment cannot share prefills: they would pile up. Leave shared=… out.")
    return Patch(compress(model, method, budget, **options))
