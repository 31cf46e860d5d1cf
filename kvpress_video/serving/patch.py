"""Deployments: `patch(model, method, budget)` compresses everything that a process generates from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ..budget import BudgetLike
from ..compression import Compression, Report, compress
from ..compressor.base import Compressor
from ..errors import UnknownNameError


@dataclass(frozen=True)
class ServingStats:
    """What a patched model has done so far; bytes are of keys, values and metadata, on all rows and layers.

    Attributes:
        requests: calls of `generate()`, failed ones and those without a video included.
        prefills: prompts with visual tokens that were compressed; a batch is one.
        visual_tokens: visual tokens of all prefills, each counted in its longest row.
        bytes: what the latest prefill's cache held when it was done.
        peak_bytes: the most that any cache held at one moment of its prefill.
        full_bytes, peak_full_bytes: what a stock cache would have held: of the latest prefill, of the largest.
        report: the latest prefill's, None before the first.
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
        """Visual entries that the latest prefill left per layer and KV head, in the fullest layer and row."""
        return max(self.report.entries) if self.report else 0

    def after(self, requests: int, reports: Sequence[Report]) -> ServingStats:
        """The statistics once these requests and prefills follow."""
        now = replace(self, requests=self.requests + requests)
        for report in reports:
            now = ServingStats(
                now.requests,
                now.prefills + 1,
                now.visual_tokens + report.visual_tokens,
                report.bytes,
                max(now.peak_bytes, report.peak_bytes),
                report.full_bytes,
                max(now.peak_full_bytes, report.full_bytes),
                report,
            )
        return now

    def __str__(self) -> str:
        counts = f"requests: {self.requests}, prefills: {self.prefills}, visual tokens: {self.visual_tokens}"
        if not self.prefills:
            return counts
        sizes = (self.bytes, self.full_bytes, self.peak_bytes, self.peak_full_bytes)
        latest, full, peak, peak_full = (f"{size / 2**20:.2f} MiB" for size in sizes)
        return (
            f"{counts}; the latest cache: {self.entries} visual entries per layer and head, {latest} of {full}; "
            f"the most at any moment: {peak} of {peak_full}"
        )


class Ledger:
    """Where a patch counts; it outlives the model without holding on to it.

    Attributes:
        statistics: the latest snapshot.
    """

    def __init__(self) -> None:
        self.statistics = ServingStats()


class Patch:
    """A patched model's handle, made by `patch()`; as a context manager it removes itself at the end.

    Attributes:
        ledger: where it counts.
    """

    def __init__(self, run: Compression) -> None:
        self.ledger = Ledger()
        self._run = run
        run.attach(self._count)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def stats(self) -> ServingStats:
        """A snapshot; it does not change any more."""
        return self.ledger.statistics

    def remove(self) -> None:
        """Leave the model as it was before, once the request in flight is done; a second time, do nothing.

        Raises:
            CacheError: called from within a request.
        """
        self._run.remove()

    def _count(self, call: str) -> None:
        self.ledger.statistics = self.stats.after(call == "generate", self._run.reports)
        self._run.reports.clear()


def patch(model: Any, method: str | Compressor, budget: BudgetLike, **options: Any) -> Patch:
    """Compress the KV cache of everything that this process generates with a model from now on.

        handle = kv.patch(model, "infinipot-v", budget=6144)
        ...                      # serve: model.generate(**inputs), from as many threads as you like
        print(handle.stats)
        handle.remove()          # the model is as it was

    Threads take turns, one whole `generate()` after another, so that concurrent requests get the answers they would
    get alone. Requests without a video or image are answered as before. Nobody has to keep the handle.

    Args:
        model, method, budget, **options: as in `compress`, `shared` excepted.

    Raises:
        BudgetError: the budget cannot be read.
        UnknownNameError: unknown method, setting or option.
        UnsupportedModelError: the model cannot be compressed, or is being compressed already.
    """
    if "shared" in options:
        raise UnknownNameError("A deployment cannot share prefills: they would pile up. Leave shared=… out.")
    return Patch(compress(model, method, budget, **options))
