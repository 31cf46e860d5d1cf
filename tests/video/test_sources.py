"""Where a video may come from, and what is said of everything else."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from video_files import numbered, numbers_of, write_video

import kvpress_video as kv
from kvpress_video.errors import VideoError
from kvpress_video.video.reader import frame_rate, read_in_groups, read_video


def noisy(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """A frame that takes some bytes."""
    noise = np.random.default_rng(number).integers(0, 40, (height, width, 3), np.uint8)
    return np.where(numbered(number, height, width) > 0, 255 - noise, noise).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 10 a second."""
    return write_video(tmp_path_factory.mktemp("source") / "clip.mp4", options={"g": "10"})


@pytest.mark.parametrize(
    "name", ["clip.mp4", "a b.mp4", "50%.mp4", "ü#?.mp4", "a:b.mp4", "img%03d.mp4", "concat:x|y.mp4"]
)
def test_paths_and_file_urls(clip: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.write_bytes(clip.read_bytes())
    for given in (path, str(path), path.as_uri(), f"file://localhost{quote(str(path))}", f"FILE:{quote(str(path))}"):
        assert numbers_of(read_video(given, frames=3).frames) == [0, 10, 20]
    assert read_video(path.as_uri()).path == path
    monkeypatch.chdir(tmp_path)
    assert len(read_video(name)) == 30


def test_a_path_object_of_a_file_url(clip: Path) -> None:
    """A command line makes one out of an argument; it drops slashes."""
    assert len(read_video(Path(f"file://{clip}"))) == 30


URLS = ["https://example.com/clip.mp4", "http://h/c.mp4", "rtsp://camera", "s3://bucket/clip.mp4"]


@pytest.mark.parametrize("url", [*URLS, "data:video/mp4;base64," + "A" * 5000], ids=lambda url: url[:5])
def test_remote_videos_are_to_be_downloaded(url: str) -> None:
    for given in (url, Path(url)):
        with pytest.raises(VideoError, match="is a URL: download the video first"):
            read_video(given)


def test_bytes_and_file_objects(clip: Path) -> None:
    data = clip.read_bytes()
    for given in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        video = read_video(given, fps=2)
        assert (numbers_of(video.frames), video.path) == ([0, 5, 10, 15, 20, 25], None)
        assert frame_rate(given) == 10
    with clip.open("rb") as file:
        file.seek(100)
        assert len(read_video(file)) == len(read_video(file)) == 30
        count, groups = read_in_groups(file, size=8)
        assert (count, [len(group) for group in groups]) == (4, [8, 8, 8, 6])
        assert not file.closed


def test_file_objects_that_cannot_be_read_twice(clip: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb"), os.fdopen(read, "rb") as pipe, pytest.raises(VideoError, match="cannot be rewound"):
        read_video(pipe)
    with clip.open(encoding="latin-1") as text, pytest.raises(VideoError, match=r"open as text: .*'rb'"):
        read_video(text)  # type: ignore[arg-type]
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(VideoError, match="cannot be rewound"):
        read_video(closed)


@pytest.mark.parametrize("given", [None, 3, [1], np.zeros((4, 8, 8, 3), np.uint8), torch.zeros(2, 3, 8, 8)], ids=type)
def test_other_types(given: Any) -> None:
    with pytest.raises(VideoError, match=r"A video is a path, .*, not a .*Video\.from_frames"):
        read_video(given)


def test_special_files(tmp_path: Path) -> None:
    """None of them is opened: a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)
        server.bind("socket.mp4")
        for path, kind in {"pipe.mp4": "pipe", "socket.mp4": "socket", "/dev/zero": "device", ".": "folder"}.items():
            with pytest.raises(VideoError, match=f"{path} is a {kind}: give the path of a video file"):
                read_video(path)


def test_a_pipe_on_the_command_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    command = [sys.executable, "-m", "kvpress_video.cli", "ask", str(tmp_path / "pipe.mp4"), "What?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode
    assert "is a pipe" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a\0b.mp4", "is not the path of a video: .*embedded null"),
        ("x" * 300 + ".mp4", "is not the path of a video: File name too long"),
        ("missing/clip.mp4", "There is no video missing/clip.mp4"),
        ("", "is a folder"),
    ],
)
def test_names_that_are_none(given: str, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        read_video(given)


def test_a_path_through_a_file(clip: Path) -> None:
    with pytest.raises(VideoError, match="There is no video"):
        read_video(clip / "inside.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "private.mp4"
    path.write_bytes(clip.read_bytes())
    path.chmod(stat.S_IWUSR)
    with pytest.raises(VideoError, match="permission"):
        read_video(path)


@pytest.mark.parametrize("name", ["text.mp4", "text.mkv", "text.avi", "text.ts", "text.gif"])
def test_text_under_the_name_of_a_video(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no video.\n" * 100)
    with pytest.raises(VideoError, match=f"{name} .*(not a video|holds no (video|frames))"):
        read_video(tmp_path / name)


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    for given in (tmp_path / "empty.mp4", b"", io.BytesIO()):
        with pytest.raises(VideoError, match=r"\(0 bytes\) cannot be opened as a video"):
            read_video(given)


def sound(path: Path, cover: bool = False) -> Path:
    with av.open(str(path), "w") as file:
        audio = file.add_stream("aac", rate=48000, layout="mono")
        if cover:
            picture = file.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            file.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
            file.mux(picture.encode(None))
        for number in range(50):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 48000, 1024 * number
            file.mux(audio.encode(frame))
        file.mux(audio.encode(None))
    return path


def test_files_without_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"sound\.m4a .*holds no video: is it an audio file"):
        read_video(sound(tmp_path / "sound.m4a"))
    with pytest.raises(VideoError, match=r"cover\.mp4 .*holds no video but a cover picture"):
        read_video(sound(tmp_path / "cover.mp4", cover=True))
    for name in ("none.mp4", "none.avi"):
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            file.start_encoding()
        with pytest.raises(VideoError, match=f"{name} .*holds no (video|frames)"):
            read_video(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*damaged frames, which are skipped")
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", ["faststart.mp4", "clip.mkv", "clip.webm", "clip.avi", "clip.flv", "clip.mpg"])
def test_files_that_are_cut_off(tmp_path: Path, name: str, share: float) -> None:
    """An error, or every frame up to the cut; never a wrong one."""
    codecs = {".webm": "libvpx-vp9", ".avi": "mpeg4", ".flv": "flv", ".mpg": "mpeg2video"}
    codec = codecs.get(Path(name).suffix, "libx264")
    faststart = {"container_options": {"movflags": "faststart"}} if name == "faststart.mp4" else {}
    path = write_video(tmp_path / name, codec, rate=25, **faststart)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    if name == "clip.mpg":  # a stream of packets that may end anywhere
        with suppress(VideoError):
            video = read_video(path)
            assert numbers_of(video.frames) == list(range(len(video)))
    else:
        with pytest.raises(VideoError, match=r"cut off|damaged"):
            read_video(path)


def test_the_part_before_the_cut_can_be_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mp4", container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError, match=r"cut off after [\d.]+ s: .*end="):
        read_video(path)
    assert numbers_of(read_video(path, end=1).frames) == list(range(10))


@pytest.mark.parametrize("hole", [40, 4000], ids=["in a frame", "over several"])
@pytest.mark.parametrize("name", ["damaged.mp4", "damaged.mkv"])
def test_damaged_frames(tmp_path: Path, name: str, hole: int) -> None:
    """Zeros where data should be, as in a download that is not complete; a player would freeze there, or show dirt."""
    path = write_video(tmp_path / name, options={"g": "10", "crf": "4"}, picture=noisy)
    with av.open(str(path)) as file:
        place = [packet.pos for packet in file.demux(video=0)][13]
    data = bytearray(path.read_bytes())
    data[place + 8 : place + 8 + hole] = bytes(hole)
    path.write_bytes(bytes(data))
    with pytest.raises(VideoError, match=r"damaged\.\w+ .*(damaged: not all of its frames can be decoded|cut off)"):
        read_video(path)
    with pytest.raises(VideoError, match="damaged"):
        read_video(path, start=1.8, end=1.9)


@pytest.mark.parametrize("name", ["title.mp4", "title.mkv", "title.flv"])
def test_titles_of_another_encoding(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as file:
        file.metadata["title"] = "kino"
        stream = file.add_stream("flv" if name.endswith("flv") else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(5), format="rgb24")))
        file.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"kino", "кино".encode("cp1251")))
    assert numbers_of(read_video(path).frames) == [5]


def test_playlists_reach_no_network(tmp_path: Path) -> None:
    """A playlist under the name of a video must not make the reader open a connection."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1)

        def serve() -> None:
            try:
                server.accept()
                asked.set()
            except TimeoutError:
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/1.ts"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n"
        (tmp_path / "list.m3u8").write_text(playlist)
        for given in (tmp_path / "list.m3u8", playlist.encode()):
            with pytest.raises(VideoError):
                read_video(given)
        thread.join()
    assert not asked.is_set()


def test_every_door_takes_paths(clip: Path, bundled: tuple[Any, Any]) -> None:
    model, processor = bundled
    for given in (clip, str(clip), clip.as_uri()):
        assert kv.ask(model, processor, given, "What?").report.visual_tokens
    read = kv.read_video(clip, fps=2, max_pixels=2 * 112 * 112)
    assert kv.ask(model, processor, clip, "What?").text == kv.ask(model, processor, read, "What?").text
    session = kv.VideoSession(model, processor, "tar", budget=64)
    session.push_video(clip.as_uri())
    session.push_video(str(clip))
    assert session.stats.frames == 12
