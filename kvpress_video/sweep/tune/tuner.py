"""Tune: choose a method with its settings on some clips, and measure it on others."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...budget import UNCOMPRESSED
from ...errors import SweepError
from ..benchmark import Clip
from ..results.store import Store
from ..run.executors import choose
from ..run.sweep import CLIPS, clips_of, make_worker, plan_of
from ..stats.inference import Difference, Interval
from .answers import Answers, Progress, Target
from .halving import halve, rungs
from .proposals import Proposals


@dataclass(frozen=True)
class Finalist:
    """A method with settings, measured.

    Attributes:
        method: its canonical text.
        tuning: accuracy on the clips used to choose it, which is biased upwards.
        held_out: accuracy on the other clips.
    """

    method: str
    tuning: Interval
    held_out: Interval


@dataclass(frozen=True)
class Tuned:
    """The outcome of tuning.

    Attributes:
        target: the setting of the search.
        finalists: the best method on the tuning clips, which is the winner, and the next one, if there is one.
        full: accuracy of the uncompressed cache on the held-out clips.
        difference: winner minus runner-up on the held-out clips; None without a runner-up.
        tried: number of candidates.
        failed: candidates that failed, with their first error.
        tuning_clips, held_out_clips: number of clips in each part.
    """

    target: Target
    finalists: tuple[Finalist, ...]
    full: Interval
    difference: Difference | None
    tried: int
    failed: Mapping[str, str]
    tuning_clips: int
    held_out_clips: int

    @property
    def winner(self) -> Finalist:
        """The best method on the tuning clips."""
        return self.finalists[0]


def tune(
    target: Target,
    folder: str | Path,
    *,
    rounds: int = 2,
    candidates: int = 27,
    held_out: float = 1 / 3,
    resume: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Find the best method and settings for a target by successive halving, and measure them on held-out clips.

    Clips are split by video, with about the same shares of the groups on both sides. On the tuning clips, the first
    round halves every method's defaults and presets, and each later one candidates that Optuna proposes from the scores
    so far. The best of those that were answered on all tuning clips wins; of equal ones, the earlier. Only then are the
    held-out clips answered, by the winner, the runner-up and the uncompressed cache, so that their accuracies are
    unbiased.

    Only the answers are stored, in the sweep's store in the folder: a resumed call reads them, makes the same
    proposals, and ends with the same winner.

    Args:
        target: the model, clips, budget and methods.
        folder: folder for `sweep.sqlite`, and for clips that the benchmark generates.
        rounds: number of rounds of successive halving, at least 1.
        candidates: number of candidates in each later round.
        held_out: fraction of the videos to hold out, 0 to 1.
        resume: whether to resume the tuning in the folder.
        workers: as in `run_sweep`.
        progress: called with the current step, cells × clips done, and their total.

    Raises:
        SweepError: too few videos, no method works, Optuna is not installed, or as in `run_sweep`.
        KeyboardInterrupt: on Ctrl-C; the answers so far are kept.
    """
    executor = choose(partial(make_worker, target.setup), workers=workers, device=target.setup.device)
    proposals = Proposals(target.methods, target.seed)
    how = {"seed": target.seed, "held_out": held_out, "optuna": proposals.version, "methods": list(target.methods)}
    Store.check(folder, {**plan_of(target.setup, [], {}), "tune": how}, resume=resume)
    folder = Path(folder).resolve()
    clips = clips_of(target.benchmark, target.seed, folder / CLIPS)
    tuning, kept_back = split(clips, held_out, target.seed)
    bench = Answers(target, folder, executor, clips, how, resume, progress or (lambda what, done, total: None))
    sizes, scores = rungs(len(tuning)), dict[str, float | None]()
    for number in range(rounds):
        asked = {each.method: each for each in proposals.ask(candidates if number else proposals.untuned)}
        bench.what = f"round {number + 1} of {rounds}"
        found = halve(list(asked), sizes, lambda methods, size: bench.scores(methods, tuning[:size])) if asked else {}
        for method, proposal in asked.items():
            proposals.tell(proposal, found[method])
        scores.update(found)
    complete = {method: score for method, score in scores.items() if bench.answered(method, tuning)}
    best = sorted(complete, key=lambda method: complete[method] or 0.0, reverse=True)[:2]
    if not best:
        raise SweepError(f"No method could be tuned: {'; '.join(bench.failed.values()) or 'nothing was scored'}.")
    bench.what = "held-out clips"
    bench.run([UNCOMPRESSED, *best], kept_back)
    return Tuned(
        target=target,
        finalists=tuple(Finalist(each, bench.accuracy(each, tuning), bench.accuracy(each, kept_back)) for each in best),
        full=bench.accuracy(UNCOMPRESSED, kept_back),
        difference=bench.difference(best[0], best[1], kept_back) if len(best) == 2 else None,
        tried=len(scores),
        failed=bench.failed,
        tuning_clips=len(tuning),
        held_out_clips=len(kept_back),
    )


def split(clips: Sequence[Clip], held_out: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """Split clips into those to tune on and those to hold out, by video, each in random order with the groups mixed.

    Raises:
        SweepError: either part has fewer than two videos.
    """
    draw = random.Random(seed)
    shuffled = _mixed(draw.sample(clips, len(clips)))
    videos = list(dict.fromkeys(clip.video for clip in shuffled))
    away = set(videos[: round(held_out * len(videos))])
    if not 2 <= len(away) <= len(videos) - 2:
        raise SweepError(
            f"{len(away)} of {len(videos)} videos would be held out, and both parts need at least two: use more "
            "videos, or another share with --held-out."
        )
    parts = [clip for clip in shuffled if clip.video not in away], [clip for clip in shuffled if clip.video in away]
    tuning, kept_back = map(_mixed, parts)
    return tuning, kept_back


def _mixed(clips: Sequence[Clip]) -> list[Clip]:
    """Order clips so that the first, however many, have about the same shares of the groups as all."""
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    place = {clip.name: (rank + 0.5) / len(group) for group in groups.values() for rank, clip in enumerate(group)}
    return sorted(clips, key=lambda clip: place[clip.name])
