"""Reading in a process of its own: the same frames, and errors instead of a dead process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video_files import write_video

from kvpress_video.errors import VideoError
from kvpress_video.video import Video, read_untrusted, read_video


def same(one: Video, other: Video) -> bool:
    arrays = np.array_equal(one.frames, other.frames) and np.array_equal(one.times, other.times)
    return arrays and (one.fps, one.duration, one.path) == (other.fps, other.duration, other.path)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4")


@pytest.mark.parametrize("how", [{}, {"frames": np.int64(4)}, {"fps": 3.0, "start": 0.2, "max_pixels": 400}])
def test_frames_are_those_of_a_plain_read(clip: Path, how: dict[str, Any]) -> None:
    expected = read_video(clip, **how)
    found = read_untrusted(clip, **how)
    assert same(found, expected)
    found.frames[:] = 0  # they may be written to, as others


def test_what_is_in_memory_is_handed_over(clip: Path) -> None:
    data = clip.read_bytes()
    expected = read_video(data)
    assert same(read_untrusted(data), expected)
    file = io.BytesIO(data)
    file.read()
    assert same(read_untrusted(file), expected)


def test_a_relative_path_keeps_its_name(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    assert read_untrusted("clip.mp4").path == Path("clip.mp4")
    Path("broken.mp4").write_bytes(clip.read_bytes()[:100])
    with pytest.raises(VideoError, match=r"broken\.mp4 .*cannot be opened as a video"):
        read_untrusted("broken.mp4")


def test_errors_and_warnings_are_those_of_a_plain_read(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="There is no video"):
        read_untrusted(tmp_path / "none.mp4")
    with pytest.raises(VideoError, match=r"frames between 0 s and .*ask for fewer"):
        read_untrusted(clip, frames=10_000)
    with pytest.raises(TypeError, match="'frame'"):
        read_untrusted(clip, frame=3)
    raw = write_video(tmp_path / "raw.h264")
    with warnings.catch_warnings(record=True) as expected:
        warnings.simplefilter("always")
        read_video(raw)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read_untrusted(raw)
    assert [str(one.message) for one in found] == [str(one.message) for one in expected] != []
    assert {one.filename for one in found} == {__file__}


def test_too_little_memory_or_time(clip: Path) -> None:
    with pytest.raises(VideoError, match=r"clip\.mp4 needs more memory to read than allowed: .*memory="):
        read_untrusted(clip, memory=8 << 20)
    with pytest.raises(VideoError, match=r"clip\.mp4 was not read within 0\.01 s: .*seconds="):
        read_untrusted(clip, seconds=0.01)


@pytest.mark.parametrize("memory", ["4GiB", 4e9, None, 0, -1, 1 << 70, True])
def test_memory_is_a_number_of_bytes(clip: Path, memory: Any) -> None:
    with pytest.raises(VideoError, match="memory must be a whole number of bytes above zero"):
        read_untrusted(clip, memory=memory)


@pytest.mark.parametrize("seconds", ["9", None, 0, -1, float("inf"), float("nan"), 1e300])
def test_seconds_end_at_some_time(clip: Path, seconds: Any) -> None:
    with pytest.raises(VideoError, match="seconds must be a number above zero"):
        read_untrusted(clip, seconds=seconds)


def test_arguments_are_numbers(clip: Path) -> None:
    assert same(read_untrusted(clip, start=Fraction(1, 4), seconds=Fraction(9)), read_video(clip, start=Fraction(1, 4)))
    with pytest.raises(TypeError, match="fps must be a number, got '2'"):
        read_untrusted(clip, fps="2")


def test_a_video_in_memory_that_exceeds_the_limit(clip: Path) -> None:
    with pytest.raises(VideoError, match="in memory needs more memory to read than allowed"):
        read_untrusted(clip.read_bytes() + bytes(96 << 20), memory=64 << 20)


def test_errors_name_what_was_given(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 99)
    with broken.open("rb") as file:
        for given in (broken, broken.read_bytes(), file):
            with pytest.raises(VideoError) as expected:
                read_video(given)
            with pytest.raises(VideoError) as found:
                read_untrusted(given)
            assert str(found.value) == str(expected.value)


def test_modules_in_the_current_folder_are_not_run(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("import os\nos._exit(7)\n")
    script = "import sys\nsys.path.remove('')\nfrom kvpress_video.video import read_untrusted\n"
    script += f"read_untrusted({str(clip)!r})"
    search = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=os.environ | search, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("deed", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("os._exit(3)", "exit status 3"),
        ("os.write(1, b'{}[]'); os._exit(0)", "exit status 0"),
        ("os.write(1, b'[]'); os._exit(0)", "exit status 0"),
        ("""os.write(1, b'{"warnings": [], "shape": [9, 9, 9, 3], "times": [0]}'); os._exit(0)""", "exit status 0"),
        ("""os.write(1, b'{"warnings": [], "shape": [1, 2, 2, 3]}'); os._exit(0)""", "exit status 0"),
    ],
)
def test_a_decoder_that_dies(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, how: str) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "av.py").write_text(f"import os, signal\n{deed}\n")
    monkeypatch.syspath_prepend(tmp_path / "first")
    with pytest.raises(VideoError, match=rf"clip\.mp4 ended the process that read it \({how}\)"):
        read_untrusted(clip)


def test_the_process_loads_no_model_library(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").mkdir()
    for name in ("torch", "transformers"):
        (tmp_path / "first" / f"{name}.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path / "first")
    assert len(read_untrusted(clip)) == len(read_video(clip))


def test_nothing_is_left_behind_by_an_interruption(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    note = tmp_path / "begun"
    (tmp_path / "first" / "av.py").write_text(
        f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    script = f"from kvpress_video.video import read_untrusted\nread_untrusted({str(clip)!r})"
    search = os.pathsep.join((str(tmp_path / "first"), *sys.path))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": search}, stderr=subprocess.PIPE) as asking:
        while not (note.exists() and (child := note.read_text())):
            time.sleep(0.02)
        asking.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in asking.communicate()[1]
    assert not Path(f"/proc/{child}").exists()
