"""Containers, codecs and oddities: every frame comes out upright, with its number and its time."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from PIL import Image
from video_files import (
    decoded_frames,
    decoded_times,
    edited,
    number_of,
    numbered,
    numbers_of,
    shift,
    turned,
    write_streams,
    write_video,
)

from kvpress_video.errors import VideoError
from kvpress_video.video import decoding
from kvpress_video.video.reader import read_video

QUIET = {"x265-params": "log-level=0"}
HEVC_OPEN_GOP = {"x265-params": "log-level=0:keyint=10:min-keyint=10:open-gop=1:bframes=3"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"}
BFRAMES = {"bf": "2", "g": "12"}
SHOWN = [0, 1, 2, 3, 10, 11, 12, 40, 41, 90, 91, 92, 200, *range(207, 320, 7)][:30]


class File(NamedTuple):
    """Settings for writing a file."""

    codec: str
    settings: Mapping[str, Any] = MappingProxyType({})


UNEVEN = {"shown_at": SHOWN.__getitem__, "rate": 25}


FILES = {
    "b-frames.mp4": File("libx264", {"options": BFRAMES}),
    "faststart.mp4": File("libx264", {"container_options": {"movflags": "faststart"}}),
    "fragments.mp4": File(
        "libx264", {"options": {"g": "5"}, "container_options": {"movflags": "frag_keyframe+empty_moov"}}
    ),
    "open-gop.mp4": File("libx264", {"options": OPEN_GOP, "frames": 60}),
    "intra-refresh.mp4": File("libx264", {"options": {"x264-params": "intra-refresh=1:keyint=15"}, "frames": 60}),
    "10-bit.mp4": File("libx264", {"pixels": "yuv420p10le"}),
    "negative-offsets.mp4": File(
        "libx264", {"options": BFRAMES, "container_options": {"movflags": "negative_cts_offsets"}}
    ),
    "without-edits.mp4": File("libx264", {"options": BFRAMES, "container_options": {"use_editlist": "0"}}),
    "dash.mp4": File("libx264", {"options": BFRAMES, "container_options": {"movflags": "dash+frag_keyframe"}}),
    "hevc-open-gop.mp4": File("libx265", {"options": HEVC_OPEN_GOP, "frames": 60}),
    "interlaced.mp4": File("libx264", {"options": {"x264-params": "tff=1:interlaced=1:bframes=2"}}),
    "grey.mp4": File("libx264", {"pixels": "gray"}),
    "4-4-4.mp4": File("libx264", {"pixels": "yuv444p", "size": (63, 95)}),
    "one-frame.mp4": File("libx264", {"frames": 1}),
    "uneven.mp4": File("libx264", UNEVEN),
    "hevc.mp4": File("libx265", {"options": QUIET}),
    "av1.mp4": File("libsvtav1"),
    "mpeg4.mp4": File("mpeg4", {"options": BFRAMES}),
    "jpeg2000.mp4": File("jpeg2000", {"pixels": "rgb24", "frames": 8}),
    "h264.mov": File("libx264", {"options": OPEN_GOP}),
    "mjpeg.mov": File("mjpeg", {"pixels": "yuvj420p"}),
    "prores.mov": File("prores_ks", {"pixels": "yuv422p10le"}),
    "png.mov": File("png", {"pixels": "rgb24"}),
    "qtrle.mov": File("qtrle", {"pixels": "rgb24"}),
    "transparent.mov": File("prores_ks", {"pixels": "yuva444p10le"}),
    "uneven.mov": File("mpeg4", UNEVEN),
    "h263.3gp": File("h263", {"size": (144, 176)}),
    "b-frames.mkv": File("libx264", {"options": BFRAMES}),
    "open-gop.mkv": File("libx264", {"options": OPEN_GOP, "frames": 60}),
    "hevc.mkv": File("libx265", {"pixels": "yuv420p10le", "options": QUIET}),
    "mpeg2.mkv": File("mpeg2video", {"options": BFRAMES, "rate": 25}),
    "ffv1.mkv": File("ffv1"),
    "odd-size.mkv": File("libvpx-vp9", {"size": (61, 93)}),
    "av1.mkv": File("libsvtav1"),
    "uneven.mkv": File("libx264", UNEVEN),
    "live.mkv": File("libx264", {"options": BFRAMES, "container_options": {"live": "1"}}),
    "vp8.webm": File("libvpx", {"options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}, "frames": 60}),
    "vp9.webm": File("libvpx-vp9", {"options": {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}, "frames": 60}),
    "uneven.webm": File("libvpx-vp9", UNEVEN),
    "transparent.webm": File("libvpx-vp9", {"pixels": "yuva420p"}),
    "live.webm": File("libvpx", {"container_options": {"live": "1"}}),
    "mpeg4.avi": File("mpeg4", {"options": BFRAMES}),
    "h264.avi": File("libx264", {"options": {"bf": "0"}}),
    "h264-b-frames.avi": File("libx264", {"options": {"bf": "2"}}),
    "mjpeg.avi": File("mjpeg", {"pixels": "yuvj420p"}),
    "raw.avi": File("rawvideo"),
    "mpeg1.avi": File("mpeg1video", {"rate": 25}),
    "cinepak.avi": File("cinepak", {"pixels": "rgb24"}),
    "uneven.avi": File("mpeg4", UNEVEN),
    "huffyuv.avi": File("huffyuv", {"pixels": "yuv422p"}),
    "short-gops.ts": File("libx264", {"options": {"g": "10"}, "container": "mpegts"}),
    "open-gop.ts": File("libx264", {"options": OPEN_GOP, "container": "mpegts", "frames": 60}),
    "mpeg2.ts": File("mpeg2video", {"options": BFRAMES, "rate": 25, "container": "mpegts"}),
    "hevc.ts": File("libx265", {"options": QUIET, "container": "mpegts"}),
    "blu-ray.m2ts": File("libx264", {"container": "mpegts", "container_options": {"mpegts_m2ts_mode": "1"}}),
    "uneven.ts": File("libx264", UNEVEN | {"container": "mpegts"}),
    "mpeg2.mpg": File("mpeg2video", {"options": BFRAMES, "rate": 25}),
    "mpeg1.mpg": File("mpeg1video", {"options": {"g": "12"}, "rate": 25}),
    "mpeg2.vob": File("mpeg2video", {"options": BFRAMES, "rate": 25, "container": "vob"}),
    "sorenson.flv": File("flv"),
    "uneven.flv": File("libx264", UNEVEN),
    "h264.flv": File("libx264", {"options": BFRAMES}),
    "animation.gif": File("gif", {"pixels": "rgb8"}),
    "uneven.gif": File("gif", {"pixels": "rgb8"} | UNEVEN),
    "animation.apng": File("apng", {"pixels": "rgb24"}),
    "windows.wmv": File("wmv2", {"container": "asf"}),
    "real.rm": File("rv20", {"size": (144, 176)}),
    "vp8.ogv": File("libvpx", {"container": "ogg"}),
    "tape.dv": File("dvvideo", {"size": (576, 720), "rate": 25, "frames": 8}),
    "vp9.ivf": File("libvpx-vp9"),
    "raw.y4m": File("rawvideo", {"container": "yuv4mpegpipe"}),
    "broadcast.mxf": File("mpeg2video", {"rate": 25}),
    "lossless.nut": File("ffv1", {"container": "nut"}),
}


def written(name: str, folder: Path) -> tuple[Path, int]:
    """The file, and how many frames were written."""
    codec, settings = FILES[name]
    return write_video(folder / name, codec, **settings), settings.get("frames", 30)


COUNTED = {"h264-b-frames.avi": 10, "mpeg1.avi": 25}
"""Frames per second of files that give FFmpeg only the order of packets."""


def test_enough_files_are_written() -> None:
    assert sum(file.codec in av.codecs_available for file in FILES.values()) >= 40


@pytest.mark.sampled
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FILES)
def test_every_frame_has_its_number_and_its_time(name: str, tmp_path: Path) -> None:
    path, count = written(name, tmp_path)
    video = read_video(path)
    assert numbers_of(video.frames) == list(range(count))
    assert (video.frames == decoded_frames(path)).all()
    expected = [number / COUNTED[name] for number in range(count)] if name in COUNTED else decoded_times(path)
    assert video.times.tolist() == pytest.approx(expected, abs=1e-6)
    assert video.duration > video.times[-1]
    assert video.fps == pytest.approx(count / video.duration)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux tells how a thread is scheduled")
def test_writing_a_file_leaves_the_scheduling_of_the_tests_as_it_was(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    write_video(tmp_path / "av1.mp4", "libsvtav1", frames=2)
    assert os.sched_getscheduler(0) == before


@pytest.mark.sampled
@pytest.mark.parametrize("name", FILES)
def test_frames_out_of_the_middle_are_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames after a seek equal those decoded from the beginning."""
    path, count = written(name, tmp_path)
    video = read_video(path)
    monkeypatch.setattr(decoding, "_MIN_SKIP", 2)
    for first in range(0, count, 7):
        part = read_video(path, start=video.times[first])
        assert numbers_of(part.frames[:1]) == [first]
        assert (part.frames[0] == video.frames[first]).all()
    if count > 5:
        sampled = read_video(path, frames=5)
        assert (np.diff(sampled.times) > 0).all()
        shown = [int(np.searchsorted(video.times, time + 1e-9, side="right")) - 1 for time in sampled.times]
        assert numbers_of(sampled.frames) == shown
        assert (sampled.frames == video.frames[shown]).all()


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_frames_before_the_start_of_a_trimmed_copy_are_not_shown(ending: str, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", options=BFRAMES | {"g": "15"})
    cut = shift(whole, tmp_path / f"cut.{ending}", 0.8)
    video = read_video(cut)
    assert numbers_of(video.frames) == list(range(8, 30))
    assert video.times.tolist() == pytest.approx([number / 10 for number in range(22)])
    assert video.duration == pytest.approx(2.2)
    assert numbers_of(read_video(cut, fps=2).frames) == [8, 13, 18, 23]


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([(0, 2)], range(20)),
        ([(1, 1)], range(10, 20)),
        ([(None, 0.5), (0, 3)], range(30)),
        ([(0, 1), (2, 1)], [*range(10), *range(20, 30)]),
        ([(1, 1), (1, 1)], [*range(10, 20)] * 2),
    ],
    ids=["end", "middle", "delay", "two parts", "repeated"],
)
def test_an_edit_list_determines_the_frames_shown(
    parts: list[tuple[float | None, float]], shown: list[int], tmp_path: Path
) -> None:
    video = read_video(edited(write_video(tmp_path / "edited.mp4", options=BFRAMES), parts))
    assert numbers_of(video.frames) == list(shown)
    assert (np.diff(video.times) > 0.05).all()


@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_cover_pictures_are_not_the_video(ending: str, first: bool, tmp_path: Path) -> None:
    kinds = ["cover", "default"] if first else ["default", "cover"]
    video = read_video(write_streams(tmp_path / f"cover.{ending}", kinds))
    assert numbers_of(video.frames) == list(range(20 * first, 20 * first + 20))


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_the_default_stream_is_the_video(ending: str, tmp_path: Path) -> None:
    for kinds in (["default", "other"], ["other", "default"]):
        path = write_streams(tmp_path / f"two.{ending}", kinds)
        first = 20 * kinds.index("default")
        assert numbers_of(read_video(path).frames) == list(range(first, first + 20))


def test_a_clock_that_overflows(tmp_path: Path) -> None:
    """The clock of MPEG-TS has 33 bits, 26 hours; here it starts over in the middle of the file."""
    path = shift(write_video(tmp_path / "whole.mp4", options=BFRAMES), tmp_path / "wrap.ts", 1.5 - 2**33 / 90_000)
    video = read_video(path)
    assert numbers_of(video.frames) == list(range(30))
    assert video.times.tolist() == pytest.approx([number / 10 for number in range(30)])


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "flv", "ts", "fragmented.mp4"])
def test_a_late_start_is_the_beginning(ending: str, tmp_path: Path) -> None:
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if "frag" in ending else None
    late = shift(write_video(tmp_path / "whole.mp4"), tmp_path / f"late.{ending}", -2.5, options)
    video = read_video(late)
    assert (video.times[0], video.duration) == (0, pytest.approx(3))
    assert numbers_of(read_video(late, start=1, end=1.5).frames) == [10, 11, 12, 13, 14]


def undo(matrix: tuple[int, int, int, int], number: int, height: int, width: int) -> np.ndarray:
    """The stored picture that a display matrix turns into a numbered one."""
    a, _, _, d = matrix
    b, c = matrix[1], matrix[2]
    picture = numbered(number, width, height) if b else numbered(number, height, width)
    x, y = (c, b) if b else (a, d)
    picture = picture[::y, ::x]
    return np.ascontiguousarray(picture.swapaxes(0, 1) if b else picture)


@pytest.mark.parametrize(
    "matrix",
    [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
    ids=["90", "180", "270", "mirrored", "upside-down", "transposed", "transversed"],
)
def test_frames_are_upright(matrix: tuple[int, int, int, int], tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "turned.mp4", frames=8, picture=lambda number, height, width: undo(matrix, number, height, width)
    )
    video = read_video(turned(path, matrix))
    assert video.frames.shape[1:3] == ((96, 64) if matrix[1] else (64, 96))
    assert numbers_of(video.frames) == list(range(8))
    small = read_video(path, frames=2, max_pixels=64 * 96 // 4)
    assert small.frames.shape[1:3] == ((48, 32) if matrix[1] else (32, 48))
    assert numbers_of(small.frames) == [0, 4]


def test_cameras_write_the_orientation_into_each_picture(tmp_path: Path) -> None:
    """As EXIF; PyAV 18 knows no such side data and lists none of the others then."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuvj420p"
        for number in range(8):
            picture = io.BytesIO()
            stored = np.ascontiguousarray(np.rot90(numbered(number)))
            Image.fromarray(stored).save(picture, "jpeg", exif=exif, quality=95)
            packet = av.Packet(picture.getvalue())
            packet.pts, packet.dts, packet.time_base, packet.stream = number, number, Fraction(1, 10), stream
            file.mux(packet)
    video = read_video(path)
    assert video.frames.shape == (8, 64, 96, 3)
    assert numbers_of(video.frames) == list(range(8))


def test_a_frame_that_stays_on_screen_is_repeated(tmp_path: Path) -> None:
    """Ten frames in the first second, and one more that stays for nine."""
    path = write_video(tmp_path / "still.mkv", frames=12, shown_at=lambda number: number if number < 11 else 100)
    video = read_video(path, frames=5)
    assert numbers_of(video.frames) == [0, 10, 10, 10, 10]
    assert (np.diff(video.times) > 0).all()
    assert video.times.tolist() == pytest.approx([0, 1.0, *(video.duration * n / 5 for n in (2, 3, 4))], abs=0.01)


def test_a_codec_without_decoder_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "unknown.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match=r"unknown\.mp4 has a codec that cannot be decoded here: .*zzzz"):
        read_video(path)
    mkv = write_video(tmp_path / "unknown.mkv")
    mkv.write_bytes(mkv.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_NO/SUCH/CODEC"))
    with pytest.raises(VideoError, match=r"unknown\.mkv has a codec that cannot be decoded here"):
        read_video(mkv)


@pytest.mark.parametrize("name", ["short-gops.ts", "open-gop.ts", "mpeg2.ts"])
def test_a_recording_that_starts_between_key_frames(name: str, tmp_path: Path) -> None:
    """Frames before the first key frame cannot be decoded, and are not shown."""
    path, count = written(name, tmp_path)
    packets = path.read_bytes()
    path.write_bytes(packets[len(packets) // 188 // 3 * 188 :])
    video = read_video(path)
    numbers = numbers_of(video.frames)
    assert 0 < numbers[0] < count / 2
    assert numbers == list(range(numbers[0], count))
    assert video.times[0] == 0


@pytest.mark.parametrize("name", ["short-gops.ts", "mpeg2.mpg"])
def test_timestamps_that_start_anew_are_replaced(name: str, tmp_path: Path) -> None:
    path, count = written(name, tmp_path)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.warns(UserWarning, match=r"has no usable timestamps: .*in decoding order, \d+ per second") as said:
        video = read_video(path)
    assert len(said) == 1
    assert numbers_of(video.frames) == [*range(count)] * 2
    assert np.diff(video.times) == pytest.approx(1 / FILES[name].settings.get("rate", 10))


GUESSED = {
    "mpeg2.asf": File("mpeg2video", {"options": BFRAMES, "rate": 25, "container": "asf"}),
    "mpeg1.m1v": File("mpeg1video", {"options": BFRAMES, "rate": 25}),
    "mpeg4.m4v": File("mpeg4", {"options": BFRAMES, "container": "m4v"}),
    "hevc.hevc": File("libx265", {"options": QUIET}),
    "h264.mpg": File("libx264", {"options": BFRAMES}),
    "motion.mjpeg": File("mjpeg", {"pixels": "yuvj420p", "rate": 25}),
    "av1.obu": File("libsvtav1", {"rate": 25}),
}


@pytest.mark.parametrize("name", GUESSED)
def test_timestamps_that_are_guesses_are_replaced(name: str, tmp_path: Path) -> None:
    """FFmpeg makes up what a raw stream or ASF does not say, and gets the order wrong where frames are reordered."""
    codec, settings = GUESSED[name]
    with pytest.warns(UserWarning, match=rf"{name} has no usable timestamps: .*in decoding order, \d+ per second"):
        video = read_video(write_video(tmp_path / name, codec, **settings))
    assert numbers_of(video.frames) == list(range(30))
    assert video.times.tolist() == pytest.approx([number / settings.get("rate", 10) for number in range(30)])


def test_timestamps_that_go_wrong_later(tmp_path: Path) -> None:
    """From the second half on, timestamps follow the order of packets, although frames are reordered."""
    whole, path = write_video(tmp_path / "whole.mp4", "mpeg4", options=BFRAMES), tmp_path / "wrong.mp4"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.pts = packet.pts if packet.dts * packet.time_base < 1.5 else packet.dts
                packet.stream = copy
                new.mux(packet)
    with pytest.raises(VideoError, match=r"wrong\.mp4 has wrong timestamps: after [\d.]+ s they go back"):
        read_video(path)
    assert numbers_of(read_video(path, end=1).frames) == list(range(10))


def test_a_stream_without_timestamps(tmp_path: Path) -> None:
    path = write_video(tmp_path / "raw.h264", options=BFRAMES)
    with pytest.warns(UserWarning, match=r"raw\.h264 has no usable timestamps"):
        video = read_video(path, fps=5)
    assert numbers_of(video.frames) == list(range(0, 30, 2))
    assert video.times.tolist() == pytest.approx([number / 5 for number in range(15)])


def test_key_frames_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its table of sync samples, every frame of an MP4 claims to be one."""
    monkeypatch.setattr(decoding, "_MIN_SKIP", 2)
    for codec in ("libx264", "mpeg4"):
        path = write_video(tmp_path / f"{codec}.mp4", codec, options=BFRAMES | {"sc_threshold": "0"})
        whole = read_video(path).frames
        path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
        assert (read_video(path, start=2).frames == whole[20:]).all()


def test_a_wrong_first_key_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wrong.mp4", options={"g": "10"})
    data = bytearray(path.read_bytes())
    place = data.index(b"stss") + 12
    assert data[place : place + 4] == b"\0\0\0\1"
    data[place + 3] = 4
    path.write_bytes(bytes(data))
    assert numbers_of(read_video(path).frames) == list(range(30))


def test_the_size_may_change_on_the_way(tmp_path: Path) -> None:
    sizes = {"small": (64, 96), "large": (128, 192)}
    parts = [write_video(tmp_path / name, container="mpegts", size=size) for name, size in sizes.items()]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(UserWarning, match="no usable timestamps"):
        video = read_video(path)
    assert video.frames.shape[1:] == (64, 96, 3)
    assert numbers_of(video.frames) == [*range(30)] * 2
    assert number_of(video.frames[-1]) == 29


@pytest.mark.parametrize("name", ["short-gops.ts", "mpeg2.ts"])
def test_losses_of_a_broadcast(name: str, tmp_path: Path) -> None:
    """A receiver loses packets now and then: what is left is shown in order, at its time."""
    path, count = written(name, tmp_path)
    packets = path.read_bytes()
    middle = len(packets) // 188 // 2 * 188
    path.write_bytes(packets[:middle] + packets[middle + 2 * 188 :])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*damaged frames, which are skipped")
        video = read_video(path)
    numbers = numbers_of(video.frames)
    assert count - 5 < len(numbers) <= count
    assert (numbers[0], numbers[-1]) == (0, count - 1)
    assert numbers == sorted(numbers)
    rate = FILES[name].settings.get("rate", 10)
    shown = np.round(video.times * rate).astype(int)
    assert (np.array(numbers) <= shown).all()
    assert (shown - numbers).max() < 12  # not beyond the next key frame
