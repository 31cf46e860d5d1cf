"""Every executor finishes its tasks, whichever workers die, and leaves no process behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import fake_workers
import psutil
import pytest
import torch
from fake_workers import SimulatedPool, by_cell, done, expected, lost, maker, tasks, visits, wait_until

from kvpress_video.errors import BenchmarkError, KVPressVideoError, SweepError, UnknownNameError
from kvpress_video.sweep.cells import Cell, Task
from kvpress_video.sweep.results.records import Failure
from kvpress_video.sweep.run import process_pool as processes
from kvpress_video.sweep.run.executors import Executor, InProcess, choose
from kvpress_video.sweep.run.process_pool import Processes, cores
from kvpress_video.sweep.run.ray_pool import OnRay
from kvpress_video.sweep.run.scheduler import MEMORY_HINT, Died, pack, run_tasks

EXECUTORS: dict[str, Callable[..., Executor]] = {
    "in process": lambda make: InProcess(make),
    "two processes": lambda make: Processes(make, 2),
}
HERE = Path(__file__).parents[1] / "support"


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Return the living children that run tasks, without multiprocessing's own helpers."""
    children = []
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                children.append(child)
    return children


@pytest.fixture(autouse=True)
def _no_worker_left() -> Iterator[None]:
    yield
    assert workers_of(psutil.Process()) == []


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Callable[..., Executor]:
    """Each executor without extra requirements."""
    return EXECUTORS[request.param]


@pytest.mark.sampled
def test_every_cell_has_its_outcome_and_a_failed_cell_ends_nothing(executor: Callable, tmp_path: Path) -> None:
    """The outcomes are independent of the executor."""
    failed = Failure(Cell("m1", "10%"), "b", "ValueError: this cell alone")
    wanted = [failed if (o.clip, o.cell.method) == ("b", "m1") else o for o in expected()]
    assert by_cell(list(executor(maker(tmp_path, {("m1", "b"): "fail"})).run(tasks()))) == wanted


def test_no_tasks_need_no_worker(executor: Callable, tmp_path: Path) -> None:
    """No worker is started."""
    assert list(executor(maker(tmp_path)).run([])) == []
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_tasks_are_taken_when_they_are_assigned(executor: Callable, tmp_path: Path) -> None:
    """So clips can be generated on the way."""
    taken: list[Task] = []

    def endless() -> Iterator[Task]:
        for task in tasks(12, 1):
            taken.append(task)
            yield task
        raise AssertionError("all were taken")

    outcomes = executor(maker(tmp_path)).run(endless())
    assert taken == []
    for given in range(1, 5):
        next(outcomes)
        assert len(taken) <= given + 2
    outcomes.close()


@pytest.mark.slow
def test_killed_processes_change_nothing(tmp_path: Path) -> None:
    """Finished cells stand, the rest is run by others, and a cell at which three workers died is a failure."""
    wanted = expected()
    died = "worker died with signal 9 three times; probably out of memory: use fewer workers"
    wanted[7] = Failure(Cell("m1", "10%"), "c", died)
    plan = {("m1", "b"): "die once", ("m1", "c"): "die"}
    assert by_cell(list(Processes(maker(tmp_path, plan), 2).run(tasks()))) == wanted
    turns = {(outcome.cell.method, outcome.clip): 1 for outcome in wanted}
    assert Counter(visits(tmp_path)) == {**turns, ("m1", "b"): 2, ("m1", "c"): 3}


@pytest.mark.parametrize("seed", range(30))
def test_workers_may_die_anywhere(seed: int, tmp_path: Path) -> None:
    """Every cell has one outcome, a failure where workers always die; only unfinished cells are run again."""
    random = Random(seed)
    turns = [(o.cell.method, o.clip) for o in expected(5, 4)]
    plan = {turn: random.choice(["done", "done", "fail", "lost once", "lost"]) for turn in turns}
    plan |= {("end", clip): "lost once" for clip in "abcde" if random.random() < 0.3}
    workers = random.randint(1, 7)
    pool = SimulatedPool(maker(tmp_path, plan), seed)

    outcomes = by_cell(list(run_tasks(pool, workers, tasks(5, 4))))

    said = {
        "fail": "ValueError: this cell alone",
        "lost": "worker died with signal 9 three times; probably out of memory: use fewer workers",
    }
    assert outcomes == [
        Failure(o.cell, o.clip, said[what]) if (what := plan[o.cell.method, o.clip]) in said else o
        for o in expected(5, 4)
    ]
    times = {"lost": 3, "lost once": 2}
    assert Counter(visits(tmp_path)) == {turn: times.get(plan[turn], 1) for turn in turns}
    assert pool.most <= min(workers, 5)
    assert pool.alive() == 0


@pytest.mark.parametrize(
    ("target", "argument", "died"),
    [
        (os._exit, 3, Died("ended with exit code 3")),
        (signal.raise_signal, signal.SIGSEGV, Died("died with signal 11")),
        (signal.raise_signal, signal.SIGKILL, Died("died with signal 9", MEMORY_HINT)),
    ],
)
def test_the_end_of_a_process_is_described(target: Callable, argument: int, died: Died) -> None:
    """Only SIGKILL hints at too little memory."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(argument,))
    process.start()
    theirs.close()
    assert processes._next_event(processes._Child(process, ours)) == died


@pytest.mark.sampled
def test_a_factory_that_raises_ends_the_sweep_with_its_error(executor: Callable) -> None:
    """Another attempt would raise again."""
    with pytest.raises(SweepError, match="There is no such model"):
        list(executor(fake_workers.no_model).run(tasks()))


def test_a_factory_that_cannot_be_pickled_is_named() -> None:
    """Before anything is started."""
    with pytest.raises(SweepError, match=r"Workers cannot be made in other processes.*lambda"):
        list(Processes(lambda device: fake_workers.no_model(device), 2).run(tasks()))


def test_failed_starts_count_only_in_a_row(tmp_path: Path) -> None:
    """A worker that becomes ready resets the count."""
    good = maker(tmp_path, {("m0", "a"): "lost once"})
    starts = iter([lost, lost, good, lost, lost, good])

    class Changing(SimulatedPool):
        def start(self, slot: int) -> int:
            self._make = pack(next(starts))
            return super().start(slot)

    assert list(run_tasks(Changing(good, 0), 1, tasks(1))) == expected(1)


def test_three_failed_starts_in_a_row_end_the_sweep() -> None:
    """Of any workers; none is left."""
    pool = SimulatedPool(lost, 0)
    with pytest.raises(SweepError, match="three in a row died with signal 9"):
        list(run_tasks(pool, 2, tasks()))
    assert pool.started <= 4
    assert pool.alive() == 0


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("raise", SweepError, "outside of any cell: ValueError: a bug"),
        ("raise ours", BenchmarkError, "no such file"),
        ("unpicklable", SweepError, "outside of any cell: .*(pickle|lambda)"),
        ("unreadable", SweepError, "Cannot unpickle the message of a worker: ValueError"),
        ("skip", SweepError, "no outcome for m1 10% on a"),
        ("twice", SweepError, "not asked for: m1 10% on a"),
    ],
)
def test_a_worker_that_is_wrong_is_a_clear_error(what: str, kind: type, message: str, tmp_path: Path) -> None:
    """Not a hang, nor a missing cell; earlier outcomes are not lost."""
    pool = SimulatedPool(maker(tmp_path, {("m1", "a"): what}), 0)
    outcomes = run_tasks(pool, 2, tasks(1))
    assert next(outcomes) == done(Cell("m0", "10%"), "a")
    with pytest.raises(kind, match=message):
        list(outcomes)
    assert pool.alive() == 0


@pytest.mark.parametrize(("what", "message"), [("raise", "ValueError: a bug"), ("unpicklable", "pickle|lambda")])
def test_a_process_that_is_wrong_is_a_clear_error(what: str, message: str, tmp_path: Path) -> None:
    """The cause holds the traceback of the worker."""
    with pytest.raises(SweepError, match=message) as caught:
        list(Processes(maker(tmp_path, {("m1", "a"): what}), 1).run(tasks(1)))
    assert "Traceback" in str(caught.value.__cause__)
    assert "scheduler.py" in str(caught.value.__cause__)


@pytest.mark.parametrize(("what", "message"), [("skip", "no outcome for m1 10% on a"), ("twice", "not asked for")])
def test_a_wrong_worker_is_detected_in_process_too(what: str, message: str, tmp_path: Path) -> None:
    """The same checks apply."""
    with pytest.raises(SweepError, match=message):
        list(InProcess(maker(tmp_path, {("m1", "a"): what})).run(tasks(1)))


def test_an_error_of_the_tasks_iterable_ends_all_workers(tmp_path: Path) -> None:
    """Such as a clip that cannot be made."""
    pool = SimulatedPool(maker(tmp_path), 0)

    def clips() -> Iterator[Task]:
        yield tasks(1)[0]
        raise BenchmarkError("no clip")

    with pytest.raises(BenchmarkError, match="no clip"):
        list(run_tasks(pool, 2, clips()))
    assert pool.alive() == 0


@pytest.mark.slow
def test_workers_share_cores_and_devices_and_end_when_closed_early(tmp_path: Path) -> None:
    """Even in the middle of a cell."""
    plan = {("m1", clip): "hang" for clip in "ab"}
    outcomes = Processes(maker(tmp_path, plan), 2, ("cuda:0", "cuda:1")).run(tasks(2))
    assert by_cell([next(outcomes), next(outcomes)]) == [done(Cell("m0", "10%"), clip) for clip in "ab"]
    assert len(workers_of(psutil.Process())) == 2
    outcomes.close()
    assert workers_of(psutil.Process()) == []
    lines = [line.split() for line in (tmp_path / "visits").read_text().splitlines()]
    assert {threads for *_, threads in lines} == {str(max(1, cores() // 2))}
    assert {device for *_, device, _ in lines} == {"cuda:0", "cuda:1"}


def test_a_replacement_takes_the_slot_of_the_dead_worker(tmp_path: Path) -> None:
    """So two workers never share a device while another is idle."""
    plan = {("m1", clip): "lost once" for clip in "abcd"}
    list(run_tasks(SimulatedPool(maker(tmp_path, plan), 0), 2, tasks()))
    assert {" ".join(line.split()[1:]) for line in (tmp_path / "made").read_text().splitlines()} == {
        "slot 0",
        "slot 1",
    }


@contextmanager
def a_parent(folder: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    """Run a parent process, in its own group, whose two workers hang in their second cell."""
    script = folder / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            from contextlib import closing
            from pathlib import Path
            sys.path.insert(0, {str(HERE)!r})
            from fake_workers import maker, tasks
            from kvpress_video.sweep.run.process_pool import Processes

            if __name__ == "__main__":
                plan = {{("m1", clip): "hang" for clip in "abcd"}}
                outcomes = Processes(maker(Path({str(folder)!r}), plan), 2).run(tasks())
            """
        )
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(script)], text=True, start_new_session=True, **pipes) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def workers_at_work(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return both workers, once both have returned an outcome."""
    assert parent.stdout
    assert [parent.stdout.readline(), parent.stdout.readline()] == ["m0 10%\n", "m0 10%\n"]
    workers = workers_of(psutil.Process(parent.pid))
    assert len(workers) == 2
    return workers


PRINT = """
for outcome in outcomes:
    print(outcome.cell, flush=True)
"""
CATCH = """
try:
    with closing(outcomes):
        for outcome in outcomes:
            print(outcome.cell, flush=True)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_children_ignore_ctrl_c_and_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    """A killed parent cannot end them."""
    with a_parent(tmp_path, PRINT) as parent:
        workers = workers_at_work(parent)
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        workers[0].kill()  # once there is another in its place, the signals before this one have come too
        wait_until(lambda: bool(set(workers_of(psutil.Process(parent.pid))) - set(workers)))
        assert workers[1].is_running()
        workers = workers_of(psutil.Process(parent.pid))
        assert len(workers) == 2
        parent.kill()
        wait_until(lambda: not any(worker.is_running() for worker in workers))
        assert parent.stderr
        assert "KeyboardInterrupt" not in parent.stderr.read()


@pytest.mark.slow
def test_ctrl_c_is_the_parent_s_alone(tmp_path: Path) -> None:
    """The whole group receives it, as from a terminal; the parent ends its children, which print nothing."""
    with a_parent(tmp_path, CATCH) as parent:
        workers = workers_at_work(parent)
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=300)
        assert (out, err, parent.returncode) == ("interrupted\n", "", 0)
        wait_until(lambda: not any(worker.is_running() for worker in workers))


def test_executors_are_chosen_by_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By GPUs and cores."""
    make = maker(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("kvpress_video.sweep.run.executors.cores", lambda: 8)
    assert choose(make) == Processes(make, 2)
    assert choose(make, workers=1) == InProcess(make)
    assert choose(make, workers=3, device="cpu") == Processes(make, 3, ("cpu",))
    assert choose(make, workers=1, device="cpu") == InProcess(make, "cpu")
    assert choose(make, device="cuda:1") == InProcess(make, "cuda:1")
    monkeypatch.setattr("kvpress_video.sweep.run.executors.cores", lambda: 1)
    assert choose(make) == InProcess(make)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose(make) == Processes(make, 2, ("cuda:0", "cuda:1"))
    assert choose(make, workers=4) == Processes(make, 4, ("cuda:0", "cuda:1"))
    assert choose(make, device="cuda:1") == InProcess(make, "cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose(make) == InProcess(make)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ({"kind": "rey"}, UnknownNameError, "Unknown executor 'rey'. Did you mean 'ray'"),
        ({"workers": 0}, SweepError, "at least one worker, got 0"),
        ({"address": "head:6379"}, SweepError, "'head:6379' is for the executor 'ray'"),
    ],
)
def test_a_wrong_choice(how: dict, kind: type, message: str, tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(kind, match=message):
        choose(maker(tmp_path), **how)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any clip is made."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(KVPressVideoError, match=r"pip install 'kvpress-video\[ray\]'"):
        choose(maker(tmp_path), "ray")
    with pytest.raises(KVPressVideoError, match=r"pip install 'kvpress-video\[ray\]'"):
        OnRay(maker(tmp_path))
