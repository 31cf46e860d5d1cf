"""Reading in forked processes: the same frames and errors as in new ones, and nothing that outlives its reader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from video_files import write_video

from kvpress_video.errors import VideoError
from kvpress_video.video import fork_server, read_untrusted, read_video
from kvpress_video.video.fork_server import ForkServer
from kvpress_video.video.video import Video

MEMORY, SECONDS = 1 << 30, 60.0
HANGS = "import time\nopen({note!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


@pytest.fixture
def forks() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


def read(server: ForkServer, video: Path | bytes, seconds: float = SECONDS, memory: int = MEMORY) -> Video:
    return server.read(video, memory=memory, seconds=seconds)


def process(server: ForkServer) -> int:
    assert server._process is not None
    return server._process.pid


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def becomes(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return done()


def written(note: Path) -> int:
    assert becomes(lambda: note.exists() and bool(note.read_text()))
    return int(note.read_text())


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def misbehaving(monkeypatch: pytest.MonkeyPatch, folder: Path, deed: str) -> None:
    """Make processes that fork servers start do something while they read a video whose name holds `bad`."""
    folder.mkdir()
    (folder / "av.py").write_text(
        "import os, signal, sys\n"
        "sys.path.remove(os.path.dirname(__file__))\n"
        "del sys.modules['av']\n"
        "import av\n"
        "_open = av.open\n"
        "def _misbehave(file, *more, **options):\n"
        "    if 'bad' in str(file):\n"
        + "".join(f"        {line}\n" for line in deed.splitlines())
        + "    return _open(file, *more, **options)\n"
        "av.open = _misbehave\n"
    )
    monkeypatch.syspath_prepend(folder)


def test_frames_errors_and_warnings_are_those_of_a_plain_read(clip: Path, tmp_path: Path, forks: ForkServer) -> None:
    for video in (clip, clip.read_bytes()):
        found, expected = read(forks, video), read_video(video)
        assert np.array_equal(found.frames, expected.frames)
        assert np.array_equal(found.times, expected.times)
        assert found.path == expected.path
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:100])
    with pytest.raises(VideoError, match=r"broken\.mp4 .*cannot be opened as a video"):
        read(forks, tmp_path / "broken.mp4")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        read(forks, write_video(tmp_path / "raw.h264"))
    assert [one.filename for one in said] == [__file__]


def test_one_process_reads_one_video(clip: Path, tmp_path: Path, forks: ForkServer, monkeypatch) -> None:
    note = tmp_path / "pids"
    deed = f"with open({str(note)!r}, 'a') as note:\n    note.write(f'{{os.getpid()}}\\n')"
    misbehaving(monkeypatch, tmp_path / "first", deed)
    bad = clip.rename(tmp_path / "bad.mp4")
    with ThreadPoolExecutor(4) as threads:
        assert {len(found) for found in threads.map(lambda _: read(forks, bad), range(8))} == {30}
    pids = {*note.read_text().split()}
    assert len(pids) == 8
    assert str(process(forks)) not in pids
    assert becomes(lambda: children(process(forks)) == [])


@pytest.mark.parametrize(
    ("deed", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os._exit(3)", "exit status 3"),
        ("os.write(1, b'{}[]'); os._exit(0)", "exit status 0"),
    ],
)
def test_a_process_that_dies(clip: Path, tmp_path: Path, forks: ForkServer, monkeypatch, deed: str, how: str) -> None:
    misbehaving(monkeypatch, tmp_path / "first", deed)
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes())
    with pytest.raises(VideoError, match=rf"bad\.mp4 ended the process that read it \({how}\)"):
        read(forks, tmp_path / "bad.mp4")
    before = process(forks)
    assert len(read(forks, clip)) == 30
    assert process(forks) == before


def test_limits_hold_for_each_video_anew(clip: Path, tmp_path: Path, forks: ForkServer, monkeypatch) -> None:
    note = tmp_path / "pid"
    misbehaving(monkeypatch, tmp_path / "first", HANGS.format(note=str(note)))
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes())
    with pytest.raises(VideoError, match="needs more memory to read than allowed"):
        read(forks, clip, memory=8 << 20)
    with pytest.raises(VideoError, match=r"bad\.mp4 was not read within 2 s"):
        read(forks, tmp_path / "bad.mp4", seconds=2)
    assert becomes(lambda: gone(written(note)))
    for _ in range(3):  # memory and time of earlier videos are not counted
        assert len(read(forks, clip)) == 30


def test_nothing_of_others_is_open_in_a_process(clip: Path, tmp_path: Path, forks: ForkServer, monkeypatch) -> None:
    note = tmp_path / "open"
    misbehaving(
        monkeypatch,
        tmp_path / "first",
        f"with open({str(note)!r}, 'w') as note:\n"
        "    note.write(' '.join(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]))",
    )
    read(forks, clip.rename(tmp_path / "bad.mp4"))
    assert "socket" not in note.read_text()
    assert note.read_text().count("pipe") <= 3  # request, reply, and perhaps standard error


def test_a_fork_server_that_died_is_started_again(clip: Path, tmp_path: Path, forks: ForkServer, monkeypatch) -> None:
    note = tmp_path / "pid"
    misbehaving(monkeypatch, tmp_path / "first", HANGS.format(note=str(note)))
    bad = clip.rename(tmp_path / "bad.mp4")
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read, forks, bad)
        hung, killed = written(note), process(forks)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(VideoError, match=r"ended the process that read it \(SIGKILL\)"):
            reading.result()
    assert becomes(lambda: gone(hung))
    assert len(read(forks, bad.rename(clip))) == 30
    assert process(forks) != killed


def test_a_fork_server_that_hangs_is_killed(clip: Path, forks: ForkServer, monkeypatch) -> None:
    monkeypatch.setattr(fork_server, "_PATIENCE", 0.5)
    read(forks, clip)
    os.kill(process(forks), signal.SIGSTOP)
    with pytest.raises(VideoError, match="was not read within 1 s"):
        read(forks, clip, seconds=1)
    assert len(read(forks, clip)) == 30


@pytest.mark.parametrize("how", ["close", "kill"])
def test_nothing_outlives_the_reader(clip: Path, tmp_path: Path, monkeypatch, how: str) -> None:
    note = tmp_path / "pid"
    misbehaving(monkeypatch, tmp_path / "first", HANGS.format(note=str(note)))
    bad = clip.rename(tmp_path / "bad.mp4")
    script = (
        "import sys, threading\nfrom kvpress_video.video.fork_server import ForkServer\n"
        "forks = ForkServer()\n"
        f"read = lambda: forks.read({str(bad)!r}, memory=1 << 30, seconds=600)\n"
        "threading.Thread(target=read, daemon=True).start()\nsys.stdin.read()\nforks.close()\n"
    )
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as reader:
        hung = written(note)
        (server,) = children(reader.pid)
        if how == "kill":
            reader.kill()
        else:
            reader.communicate(b"")
    assert becomes(lambda: gone(hung) and gone(server))


def test_a_video_costs_no_start_of_python(clip: Path, forks: ForkServer) -> None:
    def cost(once: Callable[[], object]) -> float:
        """CPU seconds of reaped processes and of those below them."""
        before = os.times()
        once()
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def eight() -> None:
        for _ in range(8):
            read(forks, clip)
        forks.close()

    assert cost(eight) < 4 * cost(lambda: read_untrusted(clip))
