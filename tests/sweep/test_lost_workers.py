"""A real sweep, on processes and on Ray, of which a worker is killed midway has the rows of an undisturbed one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kvpress_video.sweep import Store, make_grid, run_sweep

psutil = pytest.importorskip("psutil", reason="finds the workers")

GRID = make_grid(methods=["full", "tar", "van", "standby"], budgets=["50%", "10%", 24],
                 benchmarks="world:count=6,frames=8", device="cpu")  # fmt: skip


def contents(folder: Path) -> list[tuple]:
    with Store(folder) as store:
        assert not store.failures()
        rows = store.rows()
    return [(row.cell, row.clip, row.answered, row.measured.report.entries, row.measured.report.bytes) for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_sweep(GRID, folder, workers=1).done == 60
    return folder


def busiest(names: tuple[str, ...]) -> int:
    """Return the child process with the most CPU time, among those whose command line holds one of the names."""
    below = psutil.Process(os.getpid()).children(recursive=True)
    found = [child for child in below if any(name in " ".join(child.cmdline()) for name in names)]
    return max(found, key=lambda child: sum(child.cpu_times()[:2])).pid


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "names"), [("local", ("spawn_main",)), ("ray", ("ray::_Actor",))])
def test_a_worker_killed_midway_changes_nothing(
    tmp_path: Path, undisturbed: Path, executor: str, names: tuple[str, ...]
) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    shutil.copytree(undisturbed / "clips", tmp_path / "clips")
    killed: list[int] = []

    def kill_once(done: int, total: int, cell: str) -> None:
        if done == 20:
            killed.append(busiest(names))
            os.kill(killed[0], 9)

    swept = run_sweep(GRID, tmp_path, executor=executor, workers=2, progress=kill_once)
    assert killed
    assert (swept.done, swept.failures) == (60, ())
    assert contents(tmp_path) == contents(undisturbed)
