"""A sweep that is killed repeatedly and resumed ends with the rows of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_sweeps import answered

from kvpress_video.sweep import Store, make_grid, run_sweep

KILLS = int(os.environ.get("KVPRESS_VIDEO_KILLS", "3"))
GRID = """
methods: [full, random, recent, tar, van, novelty]
budgets: [50%, 25%, 10%, 40]
benchmarks: {world: {count: 8, frames: 8}}
device: cpu
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def kill_after(command: list[str], folder: Path, more: int, whole_group: bool) -> bool:
    """Run a command, kill it after some more answers, and return whether it was still running."""
    wanted = answered(folder) + more
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while running.poll() is None and answered(folder) < wanted:
        time.sleep(0.01)
    alive = running.poll() is None
    if alive and whole_group:
        os.killpg(running.pid, signal.SIGKILL)
    elif alive:
        running.kill()
    running.wait()
    return alive


def contents(folder: Path) -> list[tuple]:
    """Return everything but times and shared prefills, in order."""
    with Store(folder) as store:
        assert not store.failures()
        rows = store.rows()
    return [(row.cell, row.clip, row.answered, row.measured.report.entries, row.measured.report.bytes) for row in rows]


@pytest.mark.slow
def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """With all its processes, or alone; then its workers end by themselves."""
    file, folder = tmp_path / "grid.yaml", tmp_path / "killed"
    file.write_text(GRID)
    command = [sys.executable, "-m", "kvpress_video.cli", "sweep", str(file), "--out", str(folder), "--resume"]
    command += ["--workers", "2", "--overlay-clips", "0"]
    draw = random.Random(0)
    killed = 0
    while killed < KILLS:
        most = max(2, 21 * 8 // (KILLS + 1))
        assert kill_after(command, folder, draw.randint(0, most), whole_group=killed % 2 == 0), "it was done too early"
        killed += 1
    subprocess.run(command, check=True, capture_output=True)
    grid = make_grid(methods=["full", "random", "recent", "tar", "van", "novelty"], budgets=["50%", "25%", "10%", 40],
                     benchmarks="world:count=8,frames=8", device="cpu")  # fmt: skip
    other = tmp_path / "undisturbed"
    other.mkdir()
    (other / "clips").symlink_to(folder / "clips")
    run_sweep(grid, other, workers=1)
    found = contents(folder)
    assert found == contents(other)
    assert len(found) == 21 * 8 * 8
