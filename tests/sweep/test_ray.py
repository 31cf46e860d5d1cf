"""On Ray, tasks come to the same as here, whichever actors are lost, and nothing that was running before ends."""

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
from kvpress_video.sweep.run.executors import choose
from kvpress_video.sweep.run.ray_pool import OnRay

ray: Any = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module", autouse=True)
def _importable_there() -> Iterator[None]:
    """Ray's processes import what pickles name; the tests' folder is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parents[1] / "support"), os.environ.get("PYTHONPATH", "")]),
        )
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two cores that this process was connected to before."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_the_same_outcomes_as_here_whoever_is_lost(cluster: None, tmp_path: Path) -> None:
    """A lost actor's rest is done by another; a cell that fails, or that three actors die at, ends nothing."""
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


def test_more_workers_than_cores_or_tasks_wait_and_are_not_waited_for(cluster: None, tmp_path: Path) -> None:
    """Actors for which the cluster has no room hold no task back."""
    assert by_cell(list(OnRay(maker(tmp_path), workers=5).run(tasks(3)))) == expected(3)


def test_closing_early_ends_the_actors_and_their_tasks(cluster: None, tmp_path: Path) -> None:
    """Whatever they are at."""
    outcomes = OnRay(maker(tmp_path, {("m1", clip): "hang" for clip in "abcd"}), workers=2).run(tasks())
    assert next(outcomes).cell == Cell("m0", "10%")
    outcomes.close()
    pids = {int(line.split()[0]) for line in (tmp_path / "made").read_text().splitlines()}
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))


def test_no_tasks_need_no_actor(cluster: None, tmp_path: Path) -> None:
    """Nothing is started for nothing."""
    assert list(OnRay(maker(tmp_path)).run([])) == []
    assert not (tmp_path / "made").exists()


def test_a_worker_that_is_wrong_is_a_clear_error(cluster: None, tmp_path: Path) -> None:
    """The same as of a process, with its traceback."""
    outcomes = OnRay(maker(tmp_path, {("m1", "a"): "unpicklable"}), workers=1).run(tasks(1))
    assert next(outcomes) == done(Cell("m0", "10%"), "a")
    with pytest.raises(SweepError, match=r"outside of any cell: .*(pickle|lambda)") as caught:
        list(outcomes)
    assert "scheduler.py" in str(caught.value.__cause__)


def test_a_maker_that_raises_ends_the_sweep_with_its_error(cluster: None) -> None:
    """It would raise for ever."""
    with pytest.raises(SweepError, match="There is no such model"):
        list(OnRay(fake_workers.no_model, workers=1).run(tasks()))


def test_another_address_than_the_one_connected_to_is_an_error(cluster: None, tmp_path: Path) -> None:
    """The work would be done on the wrong cluster."""
    with pytest.raises(SweepError, match=r"connected to Ray at .*got 'other:6379'"):
        list(OnRay(maker(tmp_path), "other:6379").run(tasks(1)))
    here = ray.get_runtime_context().gcs_address
    assert list(OnRay(maker(tmp_path), here).run([])) == []


def test_a_device_of_its_own(tmp_path: Path) -> None:
    """Ray numbers the GPUs."""
    with pytest.raises(SweepError, match="'cuda:1'"):
        choose(maker(tmp_path), "ray", device="cuda:1")
    make = maker(tmp_path)
    assert choose(make, "ray", 3, "head:6379", "cpu") == OnRay(make, "head:6379", 3, "cpu")


@pytest.mark.parametrize("address", ["127.0.0.1:{free}", "nobody.invalid:6379", "nonsense", "head:port"])
def test_a_wrong_address_is_named(address: str, tmp_path: Path) -> None:
    """Soon: Ray itself would try for minutes."""
    if ray.is_initialized():
        ray.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address.format(free=server.getsockname()[1])
    with pytest.raises(SweepError, match=address):
        list(OnRay(maker(tmp_path), address).run(tasks(1)))


def test_a_ray_of_its_own_ends_with_the_run(tmp_path: Path) -> None:
    """Started for the tasks, gone after them."""
    if ray.is_initialized():
        ray.shutdown()
    assert by_cell(list(choose(maker(tmp_path), "ray", address="local").run(tasks(2)))) == expected(2)
    assert not ray.is_initialized()
