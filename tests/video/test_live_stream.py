"""Live streams: which frames are taken, at which times, and how a stream ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_streams import grey_clip, hls_server, http_server, rtsp_server

from kvpress_video.errors import VideoError
from kvpress_video.video.live_stream import LiveStream, Pace

pytest.importorskip("av")


def read(stream: LiveStream) -> tuple[list[float], list[Any]]:
    times, frames = [], []
    while (found := stream.frame()) is not None:
        times.append(found[0])
        frames.append(found[1])
    return times, frames


@pytest.mark.parametrize("serve", [hls_server, rtsp_server])
def test_frames_are_taken_at_the_rate_that_was_asked_for(tmp_path: Path, serve: Any) -> None:
    with serve(tmp_path) as url, LiveStream(url, 2.0) as stream:
        times, frames = read(stream)
    assert times == pytest.approx([0.5 * number for number in range(10)], abs=1e-3)
    levels = [float(frame.mean()) for frame in frames]
    np.testing.assert_allclose(levels, [16 * number for number in range(10)], atol=4)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


def test_large_frames_are_scaled_down(tmp_path: Path) -> None:
    with hls_server(tmp_path) as url, LiveStream(url, 1.0, max_pixels=32 * 24) as stream:
        assert {frame.shape for frame in read(stream)[1]} == {(24, 32, 3)}


def test_a_stream_that_sends_nothing_more_can_be_ended(tmp_path: Path) -> None:
    with rtsp_server(tmp_path, endless=True) as url, LiveStream(url, 2.0) as stream:
        assert stream.frame() is not None
        begun = time.monotonic()
        threading.Timer(0.5, stream.kill).start()
        with pytest.raises(VideoError, match="the stream ended"):
            read(stream)
    assert time.monotonic() - begun < 20


def test_a_stream_that_stalls_is_told(tmp_path: Path) -> None:
    with (
        rtsp_server(tmp_path, endless=True) as url,
        LiveStream(url, 2.0, patience=2.0) as stream,
        pytest.raises(VideoError, match="no frame of it came for 2 seconds"),
    ):
        read(stream)


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    """Its stream has stalled, so it writes nothing, and would not notice a closed pipe."""
    code = (
        "import sys, time; from kvpress_video.video.live_stream import LiveStream; stream = LiveStream(sys.argv[1]); "
        "stream.frame(); print(stream._process.pid, flush=True); time.sleep(60)"
    )
    with rtsp_server(tmp_path, endless=True) as url:
        parent = subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and is_running(child):
            time.sleep(0.05)
        assert not is_running(child)


def is_running(process: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_damaged_packets_are_skipped(tmp_path: Path) -> None:
    grey_clip(tmp_path / "whole.ts")
    with http_server(tmp_path) as url:
        content = bytearray((tmp_path / "whole.ts").read_bytes())
        for place in np.random.default_rng(0).integers(len(content) // 2, len(content) * 3 // 4, 200):
            if place % 188 > 12:  # the headers of packets stay whole
                content[place] ^= 0xFF
        (tmp_path / "damaged.ts").write_bytes(content)
        with LiveStream(f"{url}/damaged.ts", 8.0) as stream:
            times, frames = read(stream)
    assert 20 <= len(frames) < 40
    assert times[-1] == pytest.approx(39 / 8, abs=1e-3)


def test_a_stream_whose_frames_have_no_times_is_told(tmp_path: Path) -> None:
    grey_clip(tmp_path / "raw.h264")
    with (
        http_server(tmp_path) as url,
        LiveStream(f"{url}/raw.h264") as stream,
        pytest.raises(VideoError, match="ended before a frame with a time"),
    ):
        stream.frame()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("file:///etc/passwd", "by an rtsp, rtsps, http, https URL, not by 'file'"),
        ("clip.mp4", "not by ''"),
        ("http://127.0.0.1:9/live.m3u8", "Connection refused"),
    ],
)
def test_what_cannot_be_read_is_told(url: str, what: str) -> None:
    with pytest.raises(VideoError, match=what), LiveStream(url) as stream:
        stream.frame()


def test_a_playlist_cannot_name_files(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    with hls_server(tmp_path) as url:
        playlist = tmp_path / "live.m3u8"
        playlist.write_text(playlist.read_text().replace("live0.ts", f"file://{tmp_path}/live0.ts"))
        with LiveStream(url, 1.0) as stream:
            first = stream.frame()
    assert first is not None
    assert first[1].mean() > 20  # the first segment is missing


def test_a_reset_clock_continues() -> None:
    pace = Pace(2.0)
    taken = [pace(time) for time in (100.0, 100.25, 100.5, 3.0, 3.25, 3.5, 500.0)]
    assert taken == pytest.approx([0.0, None, 0.5, 1.0, None, 1.5, 2.0], nan_ok=True)


def test_a_gap_is_not_made_up_for() -> None:
    pace = Pace(1.0)
    assert [pace(time) for time in (0.0, 5.5, 5.75, 6.5)] == [0.0, 5.5, None, 6.5]
