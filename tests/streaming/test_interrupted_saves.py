"""Writing sessions: a save that is killed, or fails, leaves what was there before."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from saved_sessions import lived

import kvpress_video as kv

CRASHES = """
import os, random, resource, signal, sys, time
from pathlib import Path
import torch
from saved_sessions import lived, same
import kvpress_video as kv
from kvpress_video.streaming.checkpoint import read_snapshot, write_snapshot

torch.set_num_threads(1)
model, processor = kv.load_bundled(device="cpu")
session = lived(model, processor, budget=2000, chunk=2000)
states = [session.snapshot()]
session.ask("what is there now?", max_new_tokens=5)
states.append(session.snapshot())
path = Path(sys.argv[1]) / "session.kvv"

def found():
    read = read_snapshot(path, model)
    which = [state.state == read.state and same(state.tensors, read.tensors) for state in states]
    assert sum(which) == 1, which
    return which.index(True)

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(name):
    setattr(os, name, die)

def die_in_the_middle_of_the_file():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2,) * 2)

def die_when_the_folder_is_synchronised():
    replace = os.replace
    os.replace = lambda *paths: (replace(*paths), die_at("fsync"))

def killed(prepare, saves, delay=None):
    child = os.fork()
    if not child:
        prepare()
        for number in range(saves):
            write_snapshot(path, states[1 - number % 2], model)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0

write_snapshot(path, states[0], model)
for prepare in (die_in_the_middle_of_the_file, lambda: die_at("fsync"), lambda: die_at("replace")):
    killed(prepare, 1)
    assert found() == 0
killed(die_when_the_folder_is_synchronised, 1)
assert found() == 1

start = time.perf_counter()
write_snapshot(path, states[0], model)
took = time.perf_counter() - start
moments = random.Random(0)
for _ in range(15):
    killed(lambda: None, 1_000_000, moments.uniform(0, 4) * took)
    found()
write_snapshot(path, states[0], model)
assert found() == 0
print("survived", path.stat().st_size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")
def test_kill_minus_nine_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CRASHES, str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1] / "support", capture_output=True, text=True, timeout=300
    )
    assert done.stdout.startswith("survived"), done.stderr


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, bundled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.kvv"
    lived(*bundled, budget=200).save(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(kv.CacheError, match=r"a\.kvv cannot be written \(No space left on device\)"):
        lived(*bundled, budget=100).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.kvv"]
    assert path.read_bytes() == before


def test_threads_that_save_to_one_path(tmp_path: Path, bundled: Any) -> None:
    path = tmp_path / "a.kvv"
    sessions = [lived(*bundled, budget=budget) for budget in (100, 200)]
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(sessions[number % 2].save, path) for number in range(40)]:
            done.result()
    assert kv.VideoSession.load(path, *bundled).stats in [session.stats for session in sessions]
    assert [file.name for file in tmp_path.iterdir()] == ["a.kvv"]


def test_paths_that_cannot_be_written_to(tmp_path: Path, bundled: Any) -> None:
    session = lived(*bundled, budget=200)
    with pytest.raises(kv.CacheError, match=r"No such file or directory.* a folder that exists"):
        session.save(tmp_path / "missing" / "a.kvv")
    with pytest.raises(kv.CacheError, match="is a folder: give the path of a file"):
        session.save(tmp_path)
    pipe = tmp_path / "pipe.kvv"
    os.mkfifo(pipe)
    with pytest.raises(kv.CacheError, match="is a device or pipe"):
        session.save(pipe)
    assert pipe.is_fifo()


def test_a_session_file_is_private_and_keeps_its_permissions(tmp_path: Path, bundled: Any) -> None:
    session, path, link = lived(*bundled, budget=100), tmp_path / "a.kvv", tmp_path / "link.kvv"
    umask = os.umask(0)
    try:
        session.save(path)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o640)
        link.symlink_to("a.kvv")
        session.ask("what is there now?", max_new_tokens=3)
        session.save(link)
    finally:
        os.umask(umask)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert kv.VideoSession.load(path, *bundled).turns == session.turns


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path, bundled: Any) -> None:
    left = tmp_path / ".a.kvv.99999999.0123abcd.tmp"
    left.write_bytes(bytes(100))
    lived(*bundled, budget=100).save(tmp_path / "a.kvv")
    assert [file.name for file in tmp_path.iterdir()] == ["a.kvv"]


@pytest.mark.parametrize(
    ("name", "said"),
    [("a" * 256, "File name too long"), ("a\0.kvv", "a path cannot hold a NUL"), ("file/a.kvv", "Not a directory")],
)
def test_names_that_no_file_can_have(name: str, said: str, tmp_path: Path, bundled: Any) -> None:
    session = lived(*bundled, budget=100)
    (tmp_path / "file").write_text("")
    with pytest.raises(kv.CacheError, match=rf"(?i)^{tmp_path}/{name} cannot be written \({said}"):
        session.save(tmp_path / name)
    with pytest.raises(kv.CacheError, match=rf"^{tmp_path}/{name} "):
        kv.VideoSession.load(tmp_path / name, *bundled)
