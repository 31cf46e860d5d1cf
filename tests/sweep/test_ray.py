"""Ray gives the same outcomes as processes, whichever actors are lost, and leaves a running Ray alone."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_workers
import psutil
import pytest
from fake_workers import by_cell, done, expected, maker, tasks, visits, wait_until

from kvpress_video.errors import SweepError
from kvpress_video.sweep.cells import Cell
from kvpress_video.sweep.results.records import Failure
from kvpress_video.sweep.run import ray_pool
from kvpress_video.sweep.run.executors import choose
from kvpress_video.sweep.run.ray_pool import OnRay

ray: Any = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module", autouse=True)
def _importable_there() -> Iterator[None]:
    """Let Ray's processes import the test support that pickles refer to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]),
        )
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores that this process is already connected to."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.slow
def test_the_outcomes_are_the_same_whichever_actors_are_lost(cluster: None, tmp_path: Path) -> None:
    """The rest of a lost actor's task is run by another; failed cells do not stop the others."""
    plan = {("m1", "a"): "die once", ("m1", "b"): "fail", ("m2", "c"): "die"}
    outcomes = by_cell(list(OnRay(maker(tmp_path, plan), workers=2).run(tasks())))
    wanted = expected()
    wanted[4] = Failure(Cell("m1", "10%"), "b", "ValueError: this cell alone")
    died = "worker was lost by Ray (ActorDiedError) three times; probably out of memory: use fewer workers"
    wanted[8] = Failure(Cell("m2", "10%"), "c", died)
    assert outcomes == wanted
    turns = {(outcome.cell.method, outcome.clip): 1 for outcome in wanted}
    assert Counter(visits(tmp_path)) == {**turns, ("m1", "a"): 2, ("m2", "c"): 3}
    assert ray.is_initialized()


def test_surplus_workers_do_not_block(cluster: None, tmp_path: Path) -> None:
    """Actors that cannot be scheduled hold no task."""
    assert by_cell(list(OnRay(maker(tmp_path), workers=5).run(tasks(3)))) == expected(3)


def test_closing_early_ends_the_actors_and_their_tasks(cluster: None, tmp_path: Path) -> None:
    """Even in the middle of a cell."""
    outcomes = OnRay(maker(tmp_path, {("m1", clip): "hang" for clip in "abcd"}), workers=2).run(tasks())
    assert next(outcomes).cell == Cell("m0", "10%")
    outcomes.close()
    pids = {int(line.split()[0]) for line in (tmp_path / "made").read_text().splitlines()}
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))


def test_no_tasks_need_no_actor(cluster: None, tmp_path: Path) -> None:
    """No actor is started."""
    assert list(OnRay(maker(tmp_path)).run([])) == []
    assert not (tmp_path / "made").exists()


def test_a_worker_that_is_wrong_is_a_clear_error(cluster: None, tmp_path: Path) -> None:
    """As with a process, including the traceback."""
    outcomes = OnRay(maker(tmp_path, {("m1", "a"): "unpicklable"}), workers=1).run(tasks(1))
    assert next(outcomes) == done(Cell("m0", "10%"), "a")
    with pytest.raises(SweepError, match=r"outside of any cell: .*(pickle|lambda)") as caught:
        list(outcomes)
    assert "scheduler.py" in str(caught.value.__cause__)


def test_a_factory_that_raises_ends_the_sweep_with_its_error(cluster: None) -> None:
    """Another attempt would raise again."""
    with pytest.raises(SweepError, match="There is no such model"):
        list(OnRay(fake_workers.no_model, workers=1).run(tasks()))


def test_another_address_than_the_one_connected_to_is_an_error(cluster: None, tmp_path: Path) -> None:
    """Tasks would run on the wrong cluster."""
    with pytest.raises(SweepError, match=r"connected to Ray at .*got 'other:6379'"):
        list(OnRay(maker(tmp_path), "other:6379").run(tasks(1)))
    here = ray.get_runtime_context().gcs_address
    assert list(OnRay(maker(tmp_path), here).run([])) == []


def test_a_numbered_device_is_refused(tmp_path: Path) -> None:
    """Ray assigns the GPUs."""
    with pytest.raises(SweepError, match="'cuda:1'"):
        choose(maker(tmp_path), "ray", device="cuda:1")
    make = maker(tmp_path)
    assert choose(make, "ray", 3, "head:6379", "cpu") == OnRay(make, "head:6379", 3, "cpu")


@pytest.mark.parametrize("address", ["127.0.0.1:{free}", "nobody.invalid:6379", "nonsense", "head:port"])
def test_a_wrong_address_is_named(address: str, tmp_path: Path) -> None:
    """Quickly: Ray itself would retry for minutes."""
    if ray.is_initialized():
        ray.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address.format(free=server.getsockname()[1])
    with pytest.raises(SweepError, match=address):
        list(OnRay(maker(tmp_path), address).run(tasks(1)))


def test_a_ray_started_for_a_run_ends_with_it(tmp_path: Path) -> None:
    """It is not left running."""
    if ray.is_initialized():
        ray.shutdown()
    assert by_cell(list(choose(maker(tmp_path), "ray", address="local").run(tasks(2)))) == expected(2)
    assert not ray.is_initialized()


def _kill_raylet() -> None:
    for process in psutil.Process().children(recursive=True):
        if process.name() == "raylet":
            process.kill()


@pytest.mark.slow
def test_a_ray_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait forever for new actors."""
    if ray.is_initialized():
        ray.shutdown()
    monkeypatch.setattr(ray_pool, "_CHECK_EVERY", 1.0)
    run = OnRay(maker(tmp_path, {("m1", clip): "hang" for clip in "abcd"}), "local", workers=2).run(tasks())
    next(run)
    _kill_raylet()
    with pytest.raises(SweepError, match="Ray has died on this machine"):
        list(run)
