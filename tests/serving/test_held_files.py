"""Files that one process holds at a time, until it lets go or ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl")

from kvpress_video.serving.server.held_files import HeldFile, is_held, told
from kvpress_video.serving.server.served_session import Lost, Progress
from kvpress_video.serving.server.session_files import SessionFiles

HOLD = """
import pathlib, sys, time
from kvpress_video.serving.server.held_files import HeldFile
HeldFile.take(pathlib.Path(sys.argv[1])).tell(frames=3)
print("held", flush=True)
time.sleep(600)
"""


def test_one_process_holds_a_file_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file.lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert is_held(path)
            assert HeldFile.take(path) is None
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait(30)
    assert not is_held(path)
    assert told(path) == {"frames": 3}
    mine = HeldFile.take(path)
    assert mine is not None
    mine.tell(a=1)
    mine.release()
    assert told(path) == {"a": 1}


def test_a_deleted_file_is_free(tmp_path: Path) -> None:
    path = tmp_path / "file.lock"
    first = HeldFile.take(path)
    assert first is not None
    path.unlink()
    second = HeldFile.take(path)
    assert second is not None
    first.release()
    assert is_held(path)
    second.delete()
    assert not path.exists()
    assert (told(path), is_held(path)) == ({}, False)


@pytest.mark.parametrize(
    ("saved", "reached", "lost"),
    [
        (Progress(8, 3.5, 1), Progress(8, 3.5, 1), None),
        (Progress(8, 3.5, 1), Progress(12, 5.5, 2), Lost(4, 3.5, 5.5, 1)),
        (Progress(0, None, 0), Progress(2, 0.5, 0), Lost(2, None, 0.5, 0)),
        (Progress(8, 3.5, 1), Progress(8, 3.5, 2), Lost(0, 3.5, 3.5, 1)),
        (Progress(9, 4.0, 1), Progress(8, 3.5, 1), None),
    ],
)
def test_what_is_lost(saved: Progress, reached: Progress, lost: Lost | None) -> None:
    assert Lost.between(saved, reached) == lost


def test_files_that_are_not_a_servers_are_kept(tmp_path: Path) -> None:
    """Only what a killed server has not finished, or no longer holds, is removed."""
    name = f"sess_{'0' * 32}"
    left = [f"{name}.kvv", f"{name}.lock", f".{name}.kvv.123.0123abcd.tmp", "server_0123456789ab.lock"]
    others = ["session.0.kvv", "stream.lock", "sess_1.kvv", "server.lock", ".stream.kvv.123.0123abcd.tmp"]
    for file in (*left, *others):
        (tmp_path / file).touch()
    (tmp_path / "server_folder.lock").mkdir()
    SessionFiles(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "server_folder.lock"}
