"""Files that ask for more memory than they are worth, and frames that are scaled while they are read."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import looped, numbers_of, write_video

from kvpress_video.errors import VideoError
from kvpress_video.video import headers, packets, selection
from kvpress_video.video.reader import frame_rate, read_in_groups, read_video


def patched(path: Path, box: bytes, values: dict[int, int]) -> Path:
    """Overwrite numbers of 32 bits in a box, at offsets behind its type."""
    data = bytearray(path.read_bytes())
    place = data.index(box) + 4
    for offset, value in values.items():
        struct.pack_into(">I", data, place + offset, value)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("count", [2_000, 100_000_000, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 1, 1_000])
def test_a_table_of_more_samples_than_the_file_has_bytes(tmp_path: Path, count: int, size: int) -> None:
    """A demuxer would allocate up to 73 bytes for each, 14 GiB for a file of 2 KB."""
    path = patched(write_video(tmp_path / "bomb.mp4", frames=3), b"stsz", {4: size, 8: count})
    patched(path, b"stsc", {12: count})
    with pytest.raises(VideoError, match=rf"bomb\.mp4 declares {count:,} samples in \d,\d+ bytes: .*exhaust memory"):
        read_video(path)
    with pytest.raises(VideoError, match="exhaust memory"):
        frame_rate(path.read_bytes())


def test_a_fragment_of_more_samples_than_the_file_has_bytes(tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = write_video(tmp_path / "bomb.mp4", frames=3, container_options=options)
    patched(path, b"trun", {0: 0, 4: 100_000_000})
    with pytest.raises(VideoError, match="declares 100,000,000 samples in"):
        read_video(path)


def test_edits_that_repeat_the_samples(tmp_path: Path) -> None:
    path = write_video(tmp_path / "bomb.mp4", options={"bf": "2"})
    patched(path, b"elst", {4: 2_000_000})
    with pytest.raises(VideoError, match="declares 30 samples in 2,000,000 edits"):
        read_video(path)


def test_sound_of_many_samples_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PCM has one sample for each moment of sound, and a demuxer indexes them by chunks."""
    path = tmp_path / "pcm.mov"
    with av.open(str(path), "w") as file:
        video, audio = file.add_stream("libx264", rate=10), file.add_stream("pcm_s16le", rate=48000, layout="mono")
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for number in range(10):
            picture = np.full((64, 96, 3), 20 * number, np.uint8)
            file.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
            sound.rate, sound.pts = 48000, 4800 * number
            file.mux(audio.encode(sound))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    monkeypatch.setattr(headers, "MAX_SAMPLES", 1_000)
    assert len(read_video(path)) == 10


def test_a_file_of_too_many_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_SAMPLES", 29)
    monkeypatch.setattr(packets, "MAX_SAMPLES", 29)
    with pytest.raises(VideoError, match=r"declares 30 samples: .* At most 29 samples are read"):
        read_video(write_video(tmp_path / "long.mp4"))
    with pytest.raises(VideoError, match="has more than 29 frames: cut it first"):
        read_video(write_video(tmp_path / "long.mkv"))


def test_boxes_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "_MAX_BOXES", 100)
    (tmp_path / "boxes.mp4").write_bytes(b"\0\0\0\x08free" * 1_000)
    with pytest.raises(VideoError, match="declares over 100 boxes"):
        read_video(tmp_path / "boxes.mp4")


BOXES = ["moov", "trak", "mdia", "stbl", "stsz", "stts", "stsc", "hdlr", "elst", "mdat"]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("length", [0, 1, 2, 7, 9, 0x7FFFFFFF, 0xFFFFFFFF])
def test_boxes_of_a_wrong_length(tmp_path: Path, box: str, length: int) -> None:
    """The video, or an error; no exception of another kind, no endless loop."""
    path = write_video(tmp_path / "wrong.mp4", frames=4, options={"bf": "2"})
    patched(path, box.encode(), {-8: length})
    try:
        video = read_video(path)
    except VideoError:
        return
    assert numbers_of(video.frames) == list(range(len(video)))


def test_frames_of_enormous_size(tmp_path: Path) -> None:
    """One pixel of GIF on a canvas of a gigabyte."""
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    canvas = struct.pack("<HHBBB", 16_000, 16_000, 0x80, 0, 0) + bytes(6)
    (tmp_path / "canvas.gif").write_bytes(b"GIF89a" + canvas + image * 3 + b"\x3b")
    with pytest.raises(VideoError, match=r"canvas\.gif .*more than 67,108,864 pixels"):
        read_video(tmp_path / "canvas.gif")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 seconds of 4K in 100 KB."""
    folder = tmp_path_factory.mktemp("large")
    second = write_video(folder / "second.mp4", frames=25, rate=25, size=(2160, 3840), options={"preset": "ultrafast"})
    return looped(second, folder / "large.mp4", 75)


def test_more_memory_than_a_call_may_take(large: Path) -> None:
    with pytest.raises(VideoError) as said:
        read_video(large, fps=2)
    expected = "150 frames of 3840×2160 pixels take 3.5 GiB, more than 2 GiB. Scale them down while they are read"
    assert expected in str(said.value)
    assert "(max_pixels=…), take fewer (fps=… or frames=…), or allow that many (max_frames=150)" in str(said.value)
    assert read_video(large, fps=2, end=1, max_pixels=20_000).frames.shape == (2, 99, 176, 3)


def test_frames_are_scaled_while_they_are_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", size=(640, 960))
    small = read_video(path, fps=2, max_pixels=160 * 240)
    assert small.frames.shape == (6, 160, 240, 3)
    assert numbers_of(small.frames) == [0, 5, 10, 15, 20, 25]
    assert small.times.tolist() == read_video(path, fps=2).times.tolist()
    assert read_video(path, frames=1, max_pixels=640 * 960).frames.shape == (1, 640, 960, 3)
    count, groups = read_in_groups(path, size=20, max_pixels=5_000)
    assert (count, [group.frames.shape for group in groups]) == (2, [(20, 56, 84, 3), (10, 56, 84, 3)])


def test_the_number_of_frames_may_be_limited_and_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match=r"30 frames were asked for, more than max_frames=29"):
        read_video(path, max_frames=29)
    monkeypatch.setattr(selection, "MAX_BYTES", 30 * 64 * 96 * 3 - 1)
    with pytest.raises(VideoError, match=r"allow that many \(max_frames=30\)"):
        read_video(path)
    assert len(read_video(path, max_frames=30)) == 30
    with pytest.raises(VideoError, match=r"30 frames of 96×64 pixels take"):
        read_video(path, max_frames=30, max_bytes=30 * 64 * 96 * 3 - 1)
    assert len(read_video(path, frames=29)) == 29


def test_groups_of_large_frames_are_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4")
    monkeypatch.setattr(selection, "GROUP_BYTES", 4 * 64 * 96 * 3 + 1)
    count, groups = read_in_groups(path)
    assert (count, [len(group) for group in groups]) == (8, [4] * 7 + [2])
    monkeypatch.setattr(selection, "GROUP_BYTES", 1)
    assert read_in_groups(path)[0] == 30


@pytest.mark.parametrize("limit", [{"max_pixels": 0}, {"max_pixels": -1}, {"max_frames": 0}, {"max_pixels": 1.5}])
def test_limits_that_are_none(tmp_path: Path, limit: dict[str, int]) -> None:
    with pytest.raises(VideoError, match=r"must be (above zero|a whole number)"):
        read_video(write_video(tmp_path / "clip.mp4"), **limit)


@pytest.mark.filterwarnings("ignore:.*no usable timestamps")
@pytest.mark.parametrize("delta", [0, 0x10000000, 0x7FFFFFFF])
def test_implausible_times(tmp_path: Path, delta: int) -> None:
    """Frames that last for ages, or no time at all."""
    options = {"use_editlist": "0"}  # an edit list ends after the times of before
    path = write_video(tmp_path / "slow.mp4", frames=8, options={"bf": "0"}, container_options=options)
    patched(path, b"stts", {12: delta})
    video = read_video(path)
    assert numbers_of(video.frames) == list(range(8))
    assert (np.diff(video.times) > 0).all()
    assert video.duration < 7 * 24 * 3600


READ_ALL = """
import resource, sys, warnings
from contextlib import suppress
from pathlib import Path
from kvpress_video.errors import VideoError
from kvpress_video.video.reader import read_video

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

warnings.simplefilter("ignore")
read_video(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (16 << 30,) * 2)
before = peak()
for path in sorted(Path(sys.argv[2]).iterdir()):
    with suppress(VideoError):
        read_video(path.read_bytes())
    assert peak() < before + 256, (path, before, peak())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip.mp4", "fragments.mp4", "clip.mov", "clip.mkv", "clip.avi", "clip.mxf"])
def test_no_header_ends_the_process_or_takes_much_memory(tmp_path: Path, name: str) -> None:
    """Counts and lengths of hundreds of headers are replaced by large ones."""
    options = {"movflags": "frag_keyframe+empty_moov"} if name.startswith("frag") else {}
    rate = 25 if name.endswith("mxf") else 10
    codec = {".avi": "mpeg4", ".mxf": "mpeg2video"}.get(Path(name).suffix, "libx264")
    whole = write_video(tmp_path / name, codec, frames=8, rate=rate, container_options=options)
    header, folder, chance = whole.read_bytes(), tmp_path / "changed", random.Random(name)
    folder.mkdir()
    starts = [0, max(0, header.rfind(b"moov") - 4)]
    for number in range(400):
        data = bytearray(header)
        for _ in range(chance.choice((1, 1, 2, 4))):
            place = min(chance.choice(starts) + chance.randrange(1500), len(data) - 4)
            many = chance.choice((0xFFFFFFFF, 0x7FFFFFFF, 100_000_000, 0x10000000))
            struct.pack_into(chance.choice("<>") + "I", data, place, many)
        (folder / f"{number}").write_bytes(bytes(data))
    done = subprocess.run([sys.executable, "-c", READ_ALL, str(whole), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.filterwarnings("ignore:.*(no usable timestamps|damaged frames)")
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts", "clip.flv"])
def test_damaged_bytes_give_a_video_or_an_error(tmp_path: Path, name: str) -> None:
    """Never another exception, nor times that do not rise."""
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    container = "mpegts" if name.endswith("ts") else None
    whole = write_video(tmp_path / name, codec, frames=12, options={"bf": "2"}, container=container).read_bytes()
    chance = random.Random(name)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3))):
            place = chance.randrange(min(len(data), chance.choice((300, 10**6))))
            doubled = data[place : place + 50] * 2
            patch = chance.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", chance.randbytes(1), doubled))
            data[place : place + chance.choice((len(patch), 50))] = patch
        with suppress(VideoError):
            assert (np.diff(read_video(bytes(data)).times) > 0).all()
