"""The dry run: its counts and sizes, against real runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from kvpress_video.benchmarks.world import Clip as WorldClip
from sweep_rows import done

from kvpress_video.compression import compress
from kvpress_video.compressor.registry import Registry, make_method
from kvpress_video.errors import BudgetError, KVPressVideoError, UnknownNameError
from kvpress_video.models.base import Adapter
from kvpress_video.models.cache_argument import CACHE
from kvpress_video.models.loading import load
from kvpress_video.prefill.shared import SharedPrefill
from kvpress_video.sweep.benchmark import BENCHMARKS, Benchmark, Clip, Question
from kvpress_video.sweep.cells import Cell, Setup, prefill_key
from kvpress_video.sweep.dry_run.cost import PromptCost, PromptSize, read_model
from kvpress_video.sweep.dry_run.estimate import Estimate, estimate
from kvpress_video.sweep.dry_run.text import describe, text
from kvpress_video.sweep.grid.spec import Grid, make_grid
from kvpress_video.sweep.results.store import Store
from kvpress_video.video.prompt import prepare
from kvpress_video.video.reader import read_video

WORLD = "world:count=6,frames=8"
real = Registry.get
QUESTIONS = 8  # about every clip of the world


@pytest.fixture(scope="module")
def asked() -> Estimate:
    """A grid with every kind of budget, and methods with and without probes."""
    grid = make_grid(
        methods=["full", "tar", "van", "streammem", "hermes", "hermes:probe=9"],
        budgets=["50%", "25%", 64, "200KiB"],
        benchmarks=WORLD,
        seeds=[0, 3],
        batch=3,
    )
    return estimate(grid, [(cell, "some.mp4") for cell in grid.cells()[:5]] + [(Cell("van", "1%"), "some.mp4")])


@dataclass
class Prompted:
    """The bundled model, a clip and questions about it."""

    model: Any
    processor: Any
    clip: WorldClip

    def inputs(self, first: int, last: int) -> Any:
        questions = [question.text for question in self.clip.questions[first:last]]
        return prepare(self.processor, read_video(self.clip.path), questions)

    @property
    def size(self) -> PromptSize:
        """Of the first question."""
        ids, video = self.inputs(0, 1)["input_ids"][0].tolist(), self.model.config.video_token_id
        return PromptSize(16, len(ids), visual=ids.count(video), common_suffix=6, following=ids[::-1].index(video))


@pytest.fixture(scope="module")
def prompted(bundled: tuple[Any, Any], clips: list[WorldClip]) -> Prompted:
    return Prompted(*bundled, clips[0])


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    """Of the bundled model without its weights."""
    found, _ = read_model("bundled")
    return found


# --- Counts -----------------------------------------------------------------------------------------------------------


def test_clips_questions_and_answers_are_counted(asked: Estimate) -> None:
    cells = 1 + 5 * 4
    assert [(work.seed, work.cells, work.clips, work.questions) for work in asked.workloads] == [
        (0, cells, 6, 6 * QUESTIONS),
        (3, cells, 6, 6 * QUESTIONS),
    ]
    assert [work.answers for work in asked.workloads] == [cells * 6 * QUESTIONS] * 2
    assert asked.jobs == 2 * cells * 6
    assert {work.max_new_tokens for work in asked.workloads} == {BENCHMARKS.get("world").max_new_tokens}


def test_finished_cells_of_the_grid_are_counted_once(asked: Estimate) -> None:
    assert asked.done == 5
    assert [work.done for work in asked.workloads] == [5, 0]


def test_prefills_are_those_of_an_enumeration(asked: Estimate) -> None:
    """One by one: each cell on each clip, remembering which one-shot prefills were made."""
    made: set[tuple[str, int, int, int]] = set()
    shared = alone = 0
    for cell, clip in product(asked.grid.cells(), range(6)):
        one_shot, probe = cell.budget.endswith("%"), getattr(make_method(cell.method), "probe", 0)
        times = QUESTIONS if probe == 9 else 1 if one_shot else 3  # batches of 3, 3 and 2 questions
        alone += times
        key = (cell.benchmark, cell.seed, clip, probe)
        if not one_shot or key not in made:
            shared += times
        if one_shot:
            made.add(key)
    assert sum(work.prefills for work in asked.workloads) == shared
    assert sum(work.unshared_prefills for work in asked.workloads) == alone
    assert shared < alone


@dataclass(frozen=True)
class Uneven(Benchmark):
    """A benchmark that only reads: one video, with 1, 5 and 4 questions about three clips of it."""

    path: str = ""

    def clips(self, seed: int, folder: Path) -> Sequence[Clip]:
        assert not list(folder.iterdir())
        return [
            Clip(str(count), Path(self.path), tuple(Question(str(n), "Where?", "", "") for n in range(count)), "one")
            for count in (1, 5, 4)
        ]

    def score(self, question: Question, answer: str) -> float:
        return 0.0


def test_clips_may_have_different_numbers_of_questions(monkeypatch: pytest.MonkeyPatch, clips: list[WorldClip]) -> None:
    monkeypatch.setattr(Registry, "get", lambda plugins, name: Uneven if name == "uneven" else real(plugins, name))
    grid = make_grid(methods="tar", budgets=["25%", 48], benchmarks=f"uneven:path={clips[0].path}", batch=4)
    [work] = estimate(grid).workloads
    assert (work.clips, work.questions, work.answers) == (3, 10, 20)
    assert work.prefills == 3 + (1 + 2 + 1)


@pytest.mark.parametrize(
    "how",
    [{"reuse": False}, {"stage": "input"}, {"prefill": "whole"}, {"experts": 1}],
    ids=["no reuse", "input", "whole", "fewer experts"],
)
def test_nothing_is_shared_where_nothing_can_be(how: dict[str, Any]) -> None:
    cells = make_grid(methods=["full", "random", "uniform"], budgets=["50%", "25%"], **how).cells()
    assert len({prefill_key(cell, Setup(**how)) for cell in cells}) == len(cells)


def test_cells_share_only_within_a_model_a_benchmark_and_a_seed() -> None:
    found = estimate(make_grid(methods=["tar", "van"], budgets="25%", benchmarks=[WORLD, "world:count=2,frames=8"]))
    assert [(work.prefills, work.unshared_prefills) for work in found.workloads] == [(6, 12), (2, 4)]


CELLS = [("full", "100%"), ("tar", "50%"), ("van", "50%"), ("tar", "48"), ("van", "384"), ("streammem", "50%"),
         ("hermes", "25%"), ("hermes", "48"), ("hermes:probe=9", "25%"), ("hermes:probe=9", "48")]  # fmt: skip


@pytest.mark.parametrize("setup", [Setup(batch=3), Setup(batch=3, prefill="whole"), Setup(batch=3, stage="input")])
def test_a_video_passes_through_the_model_as_often_as_estimated(
    prompted: Prompted, adapter: Adapter, setup: Setup
) -> None:
    methods = CELLS if setup.stage == "cache" else [("random", "100%"), ("random", "50%")]
    batches = [prompted.inputs(0, 3), prompted.inputs(3, 4)]
    cost, seen = PromptCost(adapter, prompted.size, setup), []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        rows = kwargs[CACHE].layers[0].incoming.rows
        seen.append(sum(sum(row.seen.values()) for row in rows))

    shared, said, groups = SharedPrefill(), 0, set()
    first = prompted.model.get_decoder().layers[0]
    hook = first.self_attn.register_forward_pre_hook(note, with_kwargs=True)
    for cell in [Cell(*names) for names in methods]:
        group = prefill_key(cell, setup)
        said += 0 if group in groups else cost.passes(cell, 4)
        groups.add(group)
        for inputs in batches:
            how: Any = {"stage": setup.stage, "prefill": setup.prefill}
            with compress(prompted.model, cell.method, cell.budget, shared=shared, **how):
                prompted.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    hook.remove()
    assert sum(seen) / prompted.size.visual == said


# --- Sizes ------------------------------------------------------------------------------------------------------------


def test_no_weights_are_read(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "kvpress_video" / "data" / "bundled"
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    found, _ = read_model(f"{tmp_path}:dtype=bfloat16")
    assert sum(part.numel() for part in found.text_model.parameters()) == 1969344
    cost = PromptCost(found, PromptSize(frames=1, tokens=10, visual=4, common_suffix=0), Setup())
    assert cost.stock_bytes == 10 * 4 * 2 * 3 * 32 * 2
    with pytest.raises(UnknownNameError, match="Cannot load"):
        load(tmp_path)


def test_a_folder_that_holds_no_multimodal_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnknownNameError, match="Cannot read the configuration and processor of"):
        read_model(str(tmp_path))
    with pytest.raises(UnknownNameError, match="There is no model folder"):
        read_model("./nowhere")


def test_tokens_are_those_of_the_prompt(asked: Estimate, bundled: tuple[Any, Any], tmp_path: Path) -> None:
    [clip, *_] = BENCHMARKS.make(WORLD).clips(0, tmp_path)
    model, processor = bundled
    video, placeholder = read_video(clip.path), model.config.video_token_id
    prompts = [prepare(processor, video, question.text)["input_ids"][0].tolist() for question in clip.questions]
    longest = max(prompts, key=len)
    found = asked.prompts["bundled", WORLD]
    assert (found.frames, found.tokens, found.visual) == (16, len(longest), longest.count(placeholder))
    ends = [{tuple(ids[len(ids) - count :]) for ids in prompts} for count in range(found.visual)]
    assert [len(end) == 1 for end in ends] == [count <= found.common_suffix for count in range(found.visual)]
    assert found.text == len(longest) - longest.count(placeholder)


@pytest.mark.parametrize(
    ("method", "budget", "how"),
    [
        ("full", "100%", {}),
        ("tar", "25%", {}),
        ("tar", "33%", {"positions": "compact"}),
        ("van", "48", {}),
        ("van", "100000", {}),
        ("van", "150KiB", {}),
        ("van", "150KiB", {"positions": "compact"}),
        ("random", "25%", {"stage": "input"}),
    ],
)
def test_bytes_are_those_that_a_compression_reports(
    prompted: Prompted, adapter: Adapter, method: str, budget: str, how: dict[str, Any]
) -> None:
    with compress(prompted.model, method, budget, **how) as run:
        prompted.model.generate(**prompted.inputs(0, 1), max_new_tokens=1, do_sample=False)
    cost = PromptCost(adapter, prompted.size, Setup(**how))
    assert cost.cache_bytes(budget) == run.report.bytes
    assert cost.stock_bytes == run.report.full_bytes
    assert {cost.kept(budget)} == set(run.report.entries)


def test_a_budget_of_bytes_that_cannot_hold_the_text_is_refused(prompted: Prompted, adapter: Adapter) -> None:
    cost = PromptCost(adapter, prompted.size, Setup())
    least = len(adapter.attentions) * adapter.entry_bytes(False) * (prompted.size.text + 1)
    assert cost.kept(f"{least}B") == 1
    with pytest.raises(BudgetError, match=rf"at least .* \({least} bytes\)"):
        cost.kept(f"{least - 1}B")


# --- Cells that will fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (Cell("tar", "25%"), ""),
        (Cell("mod", "50%"), ""),
        (Cell("fresh", "48"), ""),
        (Cell("full", "100%", quantize="4"), ""),
        (Cell("ada", "25%", quantize="4"), "quantised layers do not support"),
        (Cell("mod", "90%"), "mod at 90% would give layer 0 .* ask for at most .*%"),
        (Cell("fresh", "200KiB"), "whose keys and values all layers briefly hold twice"),
        (Cell("tar", "10KiB"), "ask for at least"),
        (Cell("tar", "200KiB", quantize="4"), "ask for at least"),
    ],
    ids=str,
)
def test_a_cell_fails_where_the_dry_run_says_so(prompted: Prompted, adapter: Adapter, cell: Cell, why: str) -> None:
    found = PromptCost(adapter, prompted.size, Setup(), cell.quantize).refusal(cell)
    assert bool(found) == bool(why)
    assert re.search(why, found)
    raised = pytest.raises(KVPressVideoError, match=why) if why else nullcontext()
    with raised, compress(prompted.model, cell.method, cell.budget, quantize=cell.quantize):
        prompted.model.generate(**prompted.inputs(0, 1), max_new_tokens=1, do_sample=False)


def test_methods_that_the_model_or_the_stage_cannot_run_are_named() -> None:
    small = {"benchmarks": "world:count=2,frames=4", "budgets": ["50%", "25%"]}
    found = estimate(make_grid(methods=["router-similarity", "random"], stage="input", **small))
    assert [work.cells for work in found.workloads] == [2]
    assert "2 cells will fail, not counted below:" in text(found)
    [line] = [line for line in text(found).splitlines() if line.startswith("  router-similarity at 50%, 25% (bundled")]
    assert "is dense: it has no experts" in line


def test_a_grid_of_failing_cells_alone_is_described() -> None:
    found = estimate(make_grid(methods="tar", budgets="25%", benchmarks="world:count=2,frames=4", experts=1))
    assert not found.workloads
    assert "1 cell will fail" in text(found)
    assert "Leave experts out" in text(found)


# --- Odds and ends ----------------------------------------------------------------------------------------------------


def test_a_dry_run_makes_one_clip_of_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    from kvpress_video.benchmarks.world import clips as world

    real = world.make_clip

    def watched(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(world, "make_clip", watched)
    estimate(make_grid(methods="tar", budgets="25%", benchmarks="world:count=500,frames=4", seeds=[0, 1]))
    assert len(made) == 2


def test_a_benchmark_that_cannot_make_clips_says_so() -> None:
    found = estimate(make_grid(methods="tar", budgets="25%", benchmarks="world:count=0"))
    assert "count is 0" in found.absent["world:count=0"]
    assert "Not counted: world:count=0: " in text(found)


def test_the_text_lists_every_cell_and_what_is_measured(asked: Estimate) -> None:
    said = text(asked)
    lines = [line.split() for line in said.splitlines()]
    assert ["full", "100%"] in lines
    for method in ("tar", "van", "streammem", "hermes", "hermes:probe=9"):
        assert [method, "50%,", "25%,", "64,", "200KiB"] in lines
    assert "42 cells" in said
    assert "5 of 252 cells × clips are done already." in said
    assert "Measured on one clip" in said
    assert "Estimated cache of one question" in said
    assert ["bundled", WORLD, "16", "128", str(asked.prompts["bundled", WORLD].text)] in lines
    total = [
        f"{sum(getattr(work, name) for work in asked.workloads):,}"
        for name in ("answers", "prefills", "unshared_prefills")
    ]
    assert ["total", *total] in lines
    assert max(map(len, said.splitlines())) < 160


def test_a_folder_without_a_store_has_nothing_done(tmp_path: Path) -> None:
    grid = Grid(("tar",), ("25%",), benchmarks=("world:count=2,frames=4",))
    assert describe(grid, tmp_path) == text(estimate(grid))
    assert not list(tmp_path.iterdir())


def test_what_is_done_is_looked_up_in_the_folder(tmp_path: Path) -> None:
    grid = Grid(("tar", "van"), ("25%",), benchmarks=("world:count=2,frames=4",))
    with Store(tmp_path, {"cells": [asdict(cell) for cell in grid.cells()]}) as store:
        store.add(done(grid.cells()[0], 1, lambda clip, question: 1.0))
    assert "1 of 4 cells × clips are done already." in describe(grid, tmp_path)
    assert "done already" not in describe(grid.replaced(seeds=1), tmp_path)


def test_the_memory_of_shared_prefills_is_noted() -> None:
    grid = Grid(("tar", "van"), ("25%",), benchmarks=("world:count=2,frames=4",))
    assert "Each prefill that cells share holds up to" in text(estimate(grid))
    assert "Each prefill that cells share" not in text(estimate(grid.replaced(reuse=False)))
