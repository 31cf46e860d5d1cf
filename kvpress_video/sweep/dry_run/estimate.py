"""What a grid would come to, before anything runs: what is counted, what is measured on one clip, and what follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...video.prompt import prepare, prompt_text
from ...video.reader import Video
from ..benchmark import BENCHMARKS, read_clip
from ..cells import Cell, shared_by
from ..grid.spec import Grid
from .cost import ModelSize, PromptCost, PromptSize, model_size


@dataclass(frozen=True)
class Share:
    """The cells of one model, benchmark and seed.

    Attributes:
        model, benchmark, seed: which.
        cells: how many.
        clips, questions: how many there are in the benchmark.
        done: cells × clips that a store holds already.
        prefills, alone: how often a video passes through the text model, and how often if no cell shared any.
        flops, flops_alone: of these in the text model, estimated.
        max_new_tokens: of an answer.
    """

    model: str
    benchmark: str
    seed: int
    cells: int
    clips: int
    questions: int
    done: int
    prefills: int
    alone: int
    flops: float
    flops_alone: float
    max_new_tokens: int

    @property
    def answers(self) -> int:
        """To be generated, one per cell and question."""
        return self.cells * self.questions


@dataclass(frozen=True)
class Estimate:
    """What a grid would come to.

    Attributes:
        grid: which.
        shares: one per model, benchmark and seed.
        models: by name.
        prompts: what the first clip of a benchmark is to a model, by (model, benchmark).
        caches: bytes that the cache holds for one question after the prefill, by (model, benchmark) and budget.
        stock: bytes that the stock cache would hold.
    """

    grid: Grid
    shares: tuple[Share, ...]
    models: dict[str, ModelSize]
    prompts: dict[tuple[str, str], PromptSize]
    caches: dict[tuple[str, str], dict[str, int]]
    stock: dict[tuple[str, str], int]

    @property
    def jobs(self) -> int:
        """Cells × clips."""
        return sum(share.cells * share.clips for share in self.shares)

    @property
    def done(self) -> int:
        """Cells × clips that a store holds already."""
        return sum(share.done for share in self.shares)

    @property
    def largest(self) -> int:
        """Bytes of the largest cache: as many questions as are answered together, at the largest budget."""
        return max(max(budgets.values()) for budgets in self.caches.values()) * self.grid.setup.batch

    @property
    def shares_any(self) -> bool:
        """Whether any cells share a prefill."""
        return any(share.prefills < share.alone for share in self.shares)


def estimate(
    grid: Grid, finished: Iterable[tuple[Cell, str]] = (), progress: Callable[[str], None] | None = None
) -> Estimate:
    """Count the cells, clips, questions and prefills of a grid, and work out what they cost.

    No weights are loaded and nothing is generated. Tokens are measured on the first clip of each benchmark with each
    model's processor; parameters come from its configuration.

    Args:
        finished: cells and clips (by name) that a store holds already.
        progress: called with what is measured next, in words.

    Raises:
        BenchmarkError: a benchmark's files are missing.
        UnknownNameError: a model's configuration or processor cannot be had.
        UnsupportedModelError: a model's family is not supported.
        BudgetError: a budget of bytes cannot hold the text of a prompt.
    """
    say = progress or (lambda what: None)
    cells, done, setup = grid.cells(), set(finished), grid.setup
    outlines = _outlines(grid, say)
    models: dict[str, ModelSize] = {}
    prompts: dict[tuple[str, str], PromptSize] = {}
    caches: dict[tuple[str, str], dict[str, int]] = {}
    stock: dict[tuple[str, str], int] = {}
    shares = []
    for model in grid.models:
        say(f"the configuration of {model}")
        models[model], processor = model_size(model)
        for benchmark in grid.benchmarks:
            say(f"a clip of {benchmark} for {model}")
            names, outline = (model, benchmark), outlines[benchmark]
            prompts[names] = _measured(outline, processor, models[model])
            cost = PromptCost(models[model], prompts[names], setup)
            mine = [cell for cell in cells if (cell.model, cell.benchmark) == names]
            caches[names] = {cell.budget: cost.cache_bytes(cell.budget) for cell in mine}
            stock[names] = cost.stock_bytes
            for seed, questions in outline.questions.items():
                here = [cell for cell in mine if cell.seed == seed]
                shares.append(_share(here, questions, done, cost, outline.max_new_tokens))
    return Estimate(grid, tuple(shares), models, prompts, caches, stock)


@dataclass(frozen=True)
class _Outline:
    """A benchmark in short: the video of its first clip, the questions about it, how many there are about each clip of
    every seed, and how long answers may be."""

    video: Video
    asked: list[str]
    questions: dict[int, Sequence[int]]
    max_new_tokens: int


def _outlines(grid: Grid, say: Callable[[str], None]) -> dict[str, _Outline]:
    outlines = {}
    for name in grid.benchmarks:
        benchmark = BENCHMARKS.make(name)
        questions: dict[int, Sequence[int]] = {}
        for seed in grid.seeds:
            say(f"clips of {name}")
            with TemporaryDirectory() as folder:
                clip, questions[seed] = benchmark.outline(seed, Path(folder))
                if seed == grid.seeds[0]:
                    video = read_clip(clip)
                    asked = [question.text for question in clip.questions]
        most = grid.setup.max_new_tokens or benchmark.max_new_tokens
        outlines[name] = _Outline(video, asked, questions, most)
    return outlines


def _measured(outline: _Outline, processor: Any, model: ModelSize) -> PromptSize:
    """The longest prompt about the first clip, and how its prompts end."""
    texts = [prompt_text(processor, question) for question in outline.asked]
    ends = [row[::-1] for row in processor.tokenizer(texts)["input_ids"]]
    longest = max(range(len(texts)), key=lambda number: len(ends[number]))
    ids = prepare(processor, outline.video, outline.asked[longest])["input_ids"][0]
    visual = (ids == model.placeholder).nonzero()
    together = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*ends, strict=False))
    return PromptSize(
        frames=len(outline.video),
        tokens=len(ids),
        visual=len(visual),
        before=int(visual[-1]) + 1,
        alike=sum(1 for _ in together),
    )


def _share(
    cells: Sequence[Cell], questions: Sequence[int], done: set[tuple[Cell, str]], cost: PromptCost, most: int
) -> Share:
    often = Counter(questions)
    runs = {cell: sum(clips * cost.passes(cell, count) for count, clips in often.items()) for cell in cells}
    flops = {cell: runs[cell] * cost.pass_flops(cell.budget) for cell in cells}
    first = {shared_by(cell, cost.setup): cell for cell in reversed(cells)}.values()
    return Share(
        model=cells[0].model,
        benchmark=cells[0].benchmark,
        seed=cells[0].seed,
        cells=len(cells),
        clips=len(questions),
        questions=sum(questions),
        done=sum(cell in runs for cell, _ in done),
        prefills=sum(runs[cell] for cell in first),
        alone=sum(runs.values()),
        flops=sum(flops[cell] for cell in first),
        flops_alone=sum(flops.values()),
        max_new_tokens=most,
    )
