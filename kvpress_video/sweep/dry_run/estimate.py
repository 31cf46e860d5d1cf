"""Size of a sweep before it runs: counts of cells, clips, questions and prefills, and bytes of the caches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...cache.quantization import UNQUANTIZED
from ...compressor.entries import Kind
from ...errors import BenchmarkError, UnknownNameError
from ...models.base import Adapter
from ...prefill.label_tokens import label_frames
from ...video.prompt import encode, prompt_text
from ...video.reader import Video
from ..benchmark import BENCHMARKS, read_clip
from ..cells import Cell, prefill_key
from ..grid.spec import Grid
from .cost import PromptCost, PromptSize, read_model


@dataclass(frozen=True)
class Workload:
    """The cells of one model, benchmark and seed, counted.

    Attributes:
        model, benchmark, seed: model, benchmark and seed of the cells.
        cells: number of cells.
        clips, questions: number of clips and questions of the benchmark.
        done: cells × clips that a store already holds.
        prefills: number of passes of a video through the text model.
        unshared_prefills: the same number without shared prefills.
        max_new_tokens: maximum number of tokens of an answer.
    """

    model: str
    benchmark: str
    seed: int
    cells: int
    clips: int
    questions: int
    done: int
    prefills: int
    unshared_prefills: int
    max_new_tokens: int

    @property
    def answers(self) -> int:
        """Number of answers to generate, one per cell and question."""
        return self.cells * self.questions


@dataclass(frozen=True)
class Estimate:
    """The size of a sweep.

    Attributes:
        grid: the sweep's.
        workloads: one per model, benchmark and seed.
        prompts: the prompt about a benchmark's first clip, by (model, benchmark).
        caches: bytes that the cache of one question holds after the prefill, by (model, benchmark) and budget.
        stock: bytes that the stock cache would hold, by (model, benchmark).
        absent: reasons why models or benchmarks could not be read, by name; their cells are not counted.
        failing: reasons why cells will fail, by cell; they are not counted.
    """

    grid: Grid
    workloads: tuple[Workload, ...]
    prompts: dict[tuple[str, str], PromptSize]
    caches: dict[tuple[str, str], dict[str, int]]
    stock: dict[tuple[str, str], int]
    absent: dict[str, str]
    failing: dict[Cell, str]

    @property
    def jobs(self) -> int:
        """Cells × clips."""
        return sum(workload.cells * workload.clips for workload in self.workloads)

    @property
    def done(self) -> int:
        """Cells × clips that a store already holds."""
        return sum(workload.done for workload in self.workloads)

    @property
    def largest_batch(self) -> int:
        """Bytes of the largest batch: the caches of all questions answered together, at the largest budget."""
        return max(size for budgets in self.caches.values() for size in budgets.values()) * self.grid.setup.batch

    @property
    def shares_prefills(self) -> bool:
        """Whether any cells share a prefill."""
        return any(workload.prefills < workload.unshared_prefills for workload in self.workloads)


def estimate(
    grid: Grid, finished: Iterable[tuple[Cell, str]] = (), progress: Callable[[str], None] | None = None
) -> Estimate:
    """Count the cells, clips, questions and prefills of a grid, and compute the bytes of its caches.

    No weights are loaded and nothing is generated. Tokens are counted on the first clip of each benchmark with each
    model's processor; sizes of cache entries come from the model's configuration. Models and benchmarks that cannot be
    read here are named in `Estimate.absent` and not counted, cells that will fail in `Estimate.failing`.

    Args:
        grid: grid of the sweep.
        finished: cells and clips (by name) that a store already holds.
        progress: called with a description of each step.

    Raises:
        UnsupportedModelError: a model's family is not supported.
    """
    report = progress or (lambda step: None)
    cells, done = grid.cells(), set(finished)
    outlines, absent = _outlines(grid, report)
    prompts: dict[tuple[str, str], PromptSize] = {}
    caches: dict[tuple[str, str], dict[str, int]] = {}
    stock: dict[tuple[str, str], int] = {}
    failing: dict[Cell, str] = {}
    workloads = []
    for model in grid.models:
        report(f"the configuration of {model}")
        try:
            adapter, processor = read_model(model)
        except UnknownNameError as error:
            absent[model] = str(error)
            continue
        for benchmark in outlines:
            report(f"a clip of {benchmark} for {model}")
            names, outline = (model, benchmark), outlines[benchmark]
            prompts[names] = _prompt_size(outline, processor, adapter)
            cost = PromptCost(adapter, prompts[names], grid.setup)
            asked = [cell for cell in cells if (cell.model, cell.benchmark) == names]
            failing |= {cell: why for cell in asked if (why := _cost_of(cell, cost).refusal(cell))}
            mine = [cell for cell in asked if cell not in failing]
            caches[names] = {_asked(cell): _cost_of(cell, cost).cache_bytes(cell.budget) for cell in mine}
            stock[names] = cost.stock_bytes
            for seed, questions in outline.questions.items():
                of_seed = [cell for cell in mine if cell.seed == seed]
                if of_seed:
                    workloads.append(_workload(of_seed, questions, done, cost, outline.max_new_tokens))
    return Estimate(grid, tuple(workloads), prompts, caches, stock, absent, failing)


@dataclass(frozen=True)
class _Outline:
    """Outline of a benchmark.

    Attributes:
        video, asked: video and questions of the first clip.
        questions: number of questions about each clip, by seed.
        max_new_tokens: maximum number of tokens of an answer.
    """

    video: Video
    asked: list[str]
    questions: dict[int, Sequence[int]]
    max_new_tokens: int


def _outlines(grid: Grid, report: Callable[[str], None]) -> tuple[dict[str, _Outline], dict[str, str]]:
    """Outline the benchmarks, and report the missing files of the others."""
    outlines, absent = {}, {}
    for name in grid.benchmarks:
        report(f"clips of {name}")
        try:
            outlines[name] = _outline(name, grid)
        except BenchmarkError as error:
            absent[name] = str(error)
    return outlines, absent


def _outline(name: str, grid: Grid) -> _Outline:
    benchmark = BENCHMARKS.make(name)
    questions: dict[int, Sequence[int]] = {}
    for seed in grid.seeds:
        with TemporaryDirectory() as folder:
            clip, questions[seed] = benchmark.outline(seed, Path(folder))
            if seed == grid.seeds[0]:
                video = read_clip(clip)
                asked = [question.text for question in clip.questions]
    return _Outline(video, asked, questions, grid.setup.max_new_tokens or benchmark.max_new_tokens)


def _prompt_size(outline: _Outline, processor: Any, adapter: Adapter) -> PromptSize:
    """Count the longest prompt about the first clip, and the suffix that all prompts share."""
    texts = [prompt_text(processor, question) for question in outline.asked]
    reversed_ids = [row[::-1] for row in processor.tokenizer(texts)["input_ids"]]
    longest = max(range(len(texts)), key=lambda number: len(reversed_ids[number]))
    ids = encode(processor, outline.video, [texts[longest]])["input_ids"][0]
    kind = Kind.VIDEO if Kind.VIDEO in adapter.placeholders else Kind.IMAGE
    suffix = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*reversed_ids, strict=False))
    where = (ids == adapter.placeholders[kind]).numpy().nonzero()[0]
    frames = np.cumsum(np.r_[0, np.diff(where) > 1])
    labels = label_frames(ids.numpy(), where, frames, adapter.label_closes)
    return PromptSize(
        frames=len(outline.video),
        tokens=len(ids),
        visual=len(where),
        labels=int((labels >= 0).sum()),
        common_suffix=sum(1 for _ in suffix),
        following=len(ids) - 1 - int(np.r_[where, np.flatnonzero(labels >= 0)].max()),
    )


def _cost_of(cell: Cell, cost: PromptCost) -> PromptCost:
    return replace(cost, quantize=cell.quantize)


def _asked(cell: Cell) -> str:
    """Format the budget of a cell, with the bits of quantisation."""
    return cell.budget if cell.quantize == UNQUANTIZED else f"{cell.budget} quantize={cell.quantize}"


def _workload(
    cells: Sequence[Cell], questions: Sequence[int], done: set[tuple[Cell, str]], cost: PromptCost, max_new_tokens: int
) -> Workload:
    clips_by_count = Counter(questions)
    prefills = {}
    for cell in cells:
        mine = _cost_of(cell, cost)
        prefills[cell] = sum(clips * mine.passes(cell, count) for count, clips in clips_by_count.items())
    first_of_group = {prefill_key(cell, cost.setup): cell for cell in reversed(cells)}.values()
    return Workload(
        model=cells[0].model,
        benchmark=cells[0].benchmark,
        seed=cells[0].seed,
        cells=len(cells),
        clips=len(questions),
        questions=sum(questions),
        done=sum(cell in prefills for cell, _ in done),
        prefills=sum(prefills[cell] for cell in first_of_group),
        unshared_prefills=sum(prefills.values()),
        max_new_tokens=max_new_tokens,
    )
