"""Reading videos: which frames, at which seconds, what processors make of them, and every way it can go wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from copy import deepcopy
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

from kvpress_video.compressor.entries import Grid, Kind
from kvpress_video.errors import UnsupportedModelError, VideoError
from kvpress_video.models.internvl import InternVL
from kvpress_video.models.smolvlm import SmolVLM
from kvpress_video.prefill.token_layout import MediaItem, lay_out
from kvpress_video.video.prompt import prepare
from kvpress_video.video.reader import Video, frame_rate, read_video

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip

av = pytest.importorskip("av", reason="PyAV writes the videos")

STEP = 10  # grey levels from one frame to the next
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>", "<image>", "<video>", "<img>", "</img>", "<IMG_CONTEXT>", "<end_of_utterance>"]
SPECIAL += ["<fake_token_around_image>", "<global-img>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2))]
ROLES = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
TEMPLATE = (
    "{% for part in messages[0].content %}"
    "{% if part.type == 'video' %}VIDEO{% else %}{{ part.text }}{% endif %}{% endfor %}"
)


def write(path: Path, frames: int, fps: int) -> Path:
    """A grey mp4, 56 × 84, whose frame i has level STEP · i."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps), options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 56, 84, "yuv420p"
        for level in range(0, STEP * frames, STEP):
            picture = np.full((56, 84, 3), level, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def shown(video: Video) -> list[int]:
    """Ordinals of the frames, read off their grey levels."""
    levels = video.frames.mean(axis=(1, 2, 3)) / STEP
    assert np.abs(levels - levels.round()).max() < 0.3
    return levels.round().astype(int).tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames at 4 a second: 6 seconds."""
    return write(tmp_path_factory.mktemp("video") / "clip.mp4", 24, 4)


def test_every_frame_unless_asked_otherwise(clip: Path) -> None:
    video = read_video(clip)
    assert video.frames.shape == (24, 56, 84, 3)
    assert video.frames.dtype == np.uint8
    assert shown(video) == list(range(24))
    assert video.times.tolist() == [i / 4 for i in range(24)]
    assert (video.fps, video.duration, video.path, len(video)) == (4.0, 6.0, clip, 24)
    assert frame_rate(clip) == 4.0


def test_sampling_by_rate_by_count_and_in_a_range(clip: Path) -> None:
    assert shown(read_video(clip, fps=2)) == list(range(0, 24, 2))
    assert shown(read_video(clip, frames=3)) == [0, 8, 16]
    assert read_video(clip, frames=3).fps == 0.5
    assert shown(read_video(clip, start=1, end=2)) == [4, 5, 6, 7]
    part = read_video(clip, fps=1, start=1.1, end=4.1)
    assert shown(part) == [4, 8, 12]
    assert part.times.tolist() == [1, 2, 3]
    assert (part.fps, part.duration) == (1, 6)
    assert shown(read_video(clip, fps=0.01)) == [0]
    assert shown(read_video(clip, fps=4)) == list(range(24))


def test_a_video_of_one_frame(tmp_path: Path) -> None:
    video = read_video(write(tmp_path / "one.mp4", 1, 1))
    assert (len(video), video.fps, video.duration) == (1, 1.0, 1.0)


def test_metadata_says_when_each_frame_is_shown(clip: Path) -> None:
    video = read_video(clip, frames=5, start=2)
    metadata = video.metadata
    assert [index / metadata["fps"] for index in metadata["frames_indices"]] == pytest.approx(video.times.tolist())
    rate = len(metadata["frames_indices"]) / metadata["total_num_frames"] * metadata["fps"]
    assert rate == video.fps == 5 / 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"fps": 0}, "fps must be above zero, got 0"),
        ({"fps": -2.0}, "got -2"),
        ({"fps": float("nan")}, "got nan"),
        ({"frames": 0}, "frames must be above zero, got 0"),
        ({"frames": -3}, "got -3"),
        ({"fps": 1, "frames": 4}, "not both"),
        ({"frames": 25}, "has 24 frames between 0 s and 6 s, 25 were asked for"),
        ({"frames": 5, "start": 1, "end": 2}, "has 4 frames between 1 s and 2 s, 5 were asked for"),
        ({"fps": 5}, r"30 were asked for \(fps=5\)"),
        ({"start": 6}, "start=6 lies outside .*, which is 6 s long"),
        ({"start": -1}, "start=-1 lies outside"),
        ({"end": 6.5}, "end=6.5 lies outside"),
        ({"start": 3, "end": 2}, "end=2 must be after start=3"),
        ({"start": 2, "end": 2}, "must be after"),
        ({"start": 1.05, "end": 1.2}, "no new frame between 1.05 s and 1.2 s"),
    ],
)
def test_what_cannot_be_had_is_refused(clip: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        read_video(clip, **asked)


def test_files_that_are_no_videos(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no video .*missing\.mp4"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        read_video(tmp_path)
    for name, content in (("empty.mp4", b""), ("text.mp4", b"not a video " * 50)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=f"{name} .* cannot be opened as a video"):
            read_video(tmp_path / name)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_video_is_refused(clip: Path, tmp_path: Path, share: float) -> None:
    whole = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(VideoError, match=r"cut.mp4.* (cut off|damaged)"):
        read_video(tmp_path / "cut.mp4")


def test_only_pyav_is_needed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert len(read_video(clip)) == 24
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match="pip install av"):
        read_video(clip)


def test_clips_of_the_world_are_read_as_decord_reads_them(clips: list[Clip]) -> None:
    """Bit for bit: the bundled model and its published figures come from decord's frames."""
    decord = pytest.importorskip("decord")
    for clip in clips:
        reader = decord.VideoReader(str(clip.path))
        frames = reader.get_batch(range(len(reader))).asnumpy()
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        del reader
        video = read_video(clip.path)
        assert (video.frames == frames).all()
        assert video.times.tolist() == times.tolist()
        assert (video.fps, video.duration) == (2.0, len(frames) / 2)


def test_frames_from_memory() -> None:
    video = Video.from_frames(np.zeros((4, 8, 8, 3), np.uint8), fps=2)
    assert (video.times.tolist(), video.duration, video.path) == ([0, 0.5, 1, 1.5], 2, None)
    with pytest.raises(VideoError, match=r"got \(4, 8, 8\) uint8"):
        Video.from_frames(np.zeros((4, 8, 8), np.uint8), fps=2)
    with pytest.raises(VideoError, match="fps must be above zero"):
        Video.from_frames(np.zeros((4, 8, 8, 3), np.uint8), fps=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bytes, two words and special tokens, of the class that every processor here accepts."""
    from tokenizers import pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    parts = [(word[:end], word[end]) for word in ("Frame", "\u0120from") for end in range(1, len(word))]
    vocabulary = [*alphabet, *SPECIAL, *(first + second for first, second in parts)]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, parts)]) + "\n")
    made = transformers.Qwen2TokenizerFast.from_pretrained(folder, additional_special_tokens=SPECIAL)
    made.padding_side = "right"
    return made


def processor(family: str, tokenizer: Any) -> Any:
    size = {"shortest_edge": 28 * 28, "longest_edge": 64 * 28 * 28}
    square = {"height": 56, "width": 56}
    placeholder = "<|vision_start|><|video_pad|><|vision_end|>" if "qwen" in family else "<video>\n"
    template = TEMPLATE.replace("VIDEO", placeholder)
    if family == "internvl":
        small, tokenizer = {"height": 24, "width": 24}, deepcopy(tokenizer)
        for role, token in ROLES.items():
            setattr(tokenizer, f"{role}_token", token)
            setattr(tokenizer, f"{role}_token_id", tokenizer.convert_tokens_to_ids(token))
        return transformers.InternVLProcessor(
            transformers.GotOcr2ImageProcessor(size=small, min_patches=4, max_patches=4),
            tokenizer,
            transformers.InternVLVideoProcessor(size=small),
            image_seq_length=9,
            chat_template=template,
        )
    if family == "smolvlm":
        sizes: Any = {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 24}}
        return transformers.SmolVLMProcessor(
            transformers.SmolVLMImageProcessor(**sizes),
            tokenizer,
            transformers.SmolVLMVideoProcessor(**sizes),
            image_seq_len=9,
            chat_template=template,
        )
    if family == "llava":
        return transformers.LlavaOnevisionProcessor(
            transformers.LlavaOnevisionImageProcessor(size=square),
            tokenizer,
            transformers.LlavaOnevisionVideoProcessor(size=square),
            num_image_tokens=17,
            vision_feature_select_strategy="full",
            chat_template=template,
        )
    made, videos = {
        "qwen2.5": (transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor),
        "qwen3": (transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor),
    }[family]
    return made(transformers.Qwen2VLImageProcessor(size=size), tokenizer, videos(size=size), chat_template=template)


@pytest.mark.parametrize(("fps", "seconds"), [(1.0, 2.0), (4.0, 0.5), (0.5, 4.0)])
def test_qwen2_5_vl_is_told_the_seconds_of_a_frame(clip: Path, tokenizer: Any, fps: float, seconds: float) -> None:
    """Two sampled frames make one; the part of the file that was read must not matter."""
    video = read_video(clip, fps=fps, start=1, end=5)
    inputs = prepare(processor("qwen2.5", tokenizer), video, ["What?", "Why is that?"])
    assert torch.as_tensor(inputs["second_per_grid_ts"]).tolist() == [seconds, seconds]
    assert inputs["video_grid_thw"][:, 0].tolist() == [-(-len(video) // 2)] * 2


def test_qwen3_vl_writes_the_seconds_of_the_file(clip: Path, tokenizer: Any) -> None:
    video = read_video(clip, fps=1, start=1, end=5)
    inputs = prepare(processor("qwen3", tokenizer), video, "What?")
    text = tokenizer.decode(inputs["input_ids"][0])
    assert re.findall(r"<(\d+\.\d) seconds>", text) == ["1.5", "3.5"]


def test_llava_gets_every_frame(clip: Path, tokenizer: Any) -> None:
    inputs = prepare(processor("llava", tokenizer), read_video(clip, frames=3), ["What?", "Why is that?"])
    assert inputs["pixel_values_videos"].shape == (2, 3, 3, 56, 56)


@pytest.fixture
def spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolVLM2 spells the number of frames with an optional package."""
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)


def test_internvl_numbers_the_frames(clip: Path, tokenizer: Any) -> None:
    inputs = prepare(processor("internvl", tokenizer), read_video(clip, frames=12), ["What?", "Why is that?"])
    assert inputs["pixel_values"].shape == (24, 3, 24, 24)
    for row in inputs["input_ids"]:
        assert re.findall(r"Frame(\d+): <img>", tokenizer.decode(row)) == [str(i + 1) for i in range(12)]


def test_smolvlm_writes_the_seconds_of_the_file(clip: Path, tokenizer: Any, spelled: None) -> None:
    video = read_video(clip, fps=1, start=1, end=5)
    inputs = prepare(processor("smolvlm", tokenizer), video, ["What?", "Why is that?"])
    assert inputs["pixel_values"].shape == (2, 4, 3, 24, 24)
    for row in inputs["input_ids"]:
        assert re.findall(r"Frame from (\d\d:\d\d):", tokenizer.decode(row)) == ["00:01", "00:02", "00:03", "00:04"]


IMAGE_FRAMES = {"internvl": (InternVL.label, "<IMG_CONTEXT>"), "smolvlm": (SmolVLM.label, "<image>")}


def segments(inputs: Any, family: str, tokenizer: Any) -> list[list[int]]:
    """Frames of each video or image of each row, for frames of 3 × 3 tokens."""
    label, placeholder = IMAGE_FRAMES[family]
    ids, token = inputs["input_ids"], tokenizer.convert_tokens_to_ids(placeholder)
    frames = int((ids == token).sum()) // 9
    items = {Kind.IMAGE: [MediaItem(Grid(1, 3, 3), label=label)] * frames}
    layout = lay_out(ids, inputs["attention_mask"].bool(), {Kind.IMAGE: token}, items, 0, [0] * len(ids))
    return [[grid.frames for grid in row.grids.values()] for row in layout.rows]


@pytest.mark.parametrize("family", IMAGE_FRAMES)
def test_frames_that_are_images_are_one_video(clip: Path, tokenizer: Any, spelled: None, family: str) -> None:
    made = processor(family, tokenizer)
    inputs = prepare(made, read_video(clip, frames=12), ["What?", "Why is that?"])
    assert segments(inputs, family, tokenizer) == [[12], [12]]
    video = read_video(clip, frames=3).frames
    adjacent = made(text=["<video>\n<video>\nWhat?"], videos=[[video, video]], padding=True, return_tensors="pt")
    assert segments(adjacent, family, tokenizer) == [[3, 3]]


@pytest.mark.parametrize("family", IMAGE_FRAMES)
def test_tiles_of_an_image_are_no_frames(clip: Path, tokenizer: Any, spelled: None, family: str) -> None:
    """Four tiles and the whole."""
    image = read_video(clip, frames=1).frames[0][:, :56]
    token = IMAGE_FRAMES[family][1]
    made = processor(family, tokenizer)
    inputs = made(text=[f"{token}\n{token}\nWhat?"], images=[[image, image]], padding=True, return_tensors="pt")
    assert inputs["pixel_values"].shape[-3:] == (3, 24, 24)
    assert segments(inputs, family, tokenizer) == [[1] * 10]


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "llava", "internvl", "smolvlm"])
def test_rows_are_padded_on_the_left(clip: Path, tokenizer: Any, spelled: None, family: str) -> None:
    inputs = prepare(processor(family, tokenizer), read_video(clip, frames=2), ["What?", "Why is that?"])
    mask = inputs["attention_mask"]
    assert mask[:, -1].all()
    assert mask[1].all()
    assert not mask[0, : len("Why is that?") - len("What?")].any()


def test_a_processor_of_text_alone_is_refused(clip: Path, tokenizer: Any) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^\w+ takes neither videos nor images: .*AutoProcessor"):
        prepare(tokenizer, read_video(clip, frames=2), "What?")


def test_the_package_imports_nothing_heavy_for_videos() -> None:
    code = (
        "import sys, kvpress_video; print([m for m in ('decord', 'av', 'torchvision', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_at_most_takes_what_there_is(clip: Path) -> None:
    assert shown(read_video(clip, frames=30, at_most=True)) == list(range(24))
    assert read_video(clip, fps=1000, at_most=True).fps == 4.0
    late = read_video(clip, start=4, end=60, frames=4, at_most=True)
    assert (shown(late), late.fps) == ([16, 18, 20, 22], 2.0)
    assert shown(read_video(clip, fps=2, end=2, at_most=True)) == [0, 2, 4, 6]
    with pytest.raises(VideoError, match="start=7"):
        read_video(clip, start=7, at_most=True)
