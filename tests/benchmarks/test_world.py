"""The bundled world: clips are deterministic, real videos, and their answers are true."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from kvpress_video.benchmarks.train import train as training
from kvpress_video.benchmarks.world import FAMILIES, HELD_OUT_SEED, Clip, load_clips, make_clip, make_clips
from kvpress_video.benchmarks.world.benchmark import World
from kvpress_video.benchmarks.world.clips import NOISE, draw_scene, when_was_it
from kvpress_video.benchmarks.world.questions import KINDS, PLAN, Question
from kvpress_video.benchmarks.world.render import WHITE, render, render_clean
from kvpress_video.benchmarks.world.scene import CELL, CELLS, SIDE, Scenes, sample_scenes
from kvpress_video.benchmarks.world.shapes import COLOURS, COLUMNS, NUMBERS, ROWS, SHAPES

FRAMES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clips(folder: Path) -> list[Clip]:
    pytest.importorskip("av", reason="PyAV writes the clips")
    return make_clips(6, FRAMES, folder=folder)


def decode(path: Path) -> torch.Tensor:
    """All video frames, uint8 (N, 3, H, W)."""
    decord = pytest.importorskip("decord")
    reader = decord.VideoReader(str(path))
    frames = reader.get_batch(list(range(len(reader))))
    return torch.from_numpy(np.asarray(frames.asnumpy())).permute(0, 3, 1, 2)


def rendered(seed: int, camera: str, frames: int = FRAMES) -> torch.Tensor:
    """The video frames before encoding, (2 · frames, 3, H, W)."""
    scenes, _, generator = draw_scene(seed, frames, camera)
    return render(scenes, NOISE, generator)[0].flatten(0, 1)


def test_the_same_seed_draws_the_same_clip() -> None:
    assert torch.equal(rendered(5, "moving"), rendered(5, "moving"))
    assert draw_scene(5, FRAMES, "moving")[1] == draw_scene(5, FRAMES, "moving")[1]
    assert not torch.equal(rendered(5, "moving"), rendered(6, "moving"))


def test_half_of_the_clips_have_a_moving_camera(clips: list[Clip]) -> None:
    assert [clip.camera for clip in clips] == ["still", "moving"] * 3
    assert [clip.seed for clip in clips] == list(range(HELD_OUT_SEED, HELD_OUT_SEED + 6))


def test_every_clip_is_asked_about_every_family(clips: list[Clip]) -> None:
    for clip in clips:
        assert len(clip.questions) == len(PLAN)
        assert {question.family for question in clip.questions} == set(FAMILIES)
        assert all(1 <= len(question.answer.split()) <= 3 for question in clip.questions)


def test_the_file_is_a_video_of_the_rendered_frames(clips: list[Clip]) -> None:
    for clip in clips:
        decoded = decode(clip.path)
        assert decoded.shape == (2 * FRAMES, 3, SIDE, SIDE)
        error = (decoded.float() - rendered(clip.seed, clip.camera)).abs()
        assert error.mean() < 8
        assert error.flatten(1).mean(1).max() < 12


def test_two_video_frames_show_one_moment(clips: list[Clip]) -> None:
    pairs = rendered(clips[0].seed, "still").view(FRAMES, 2, 3, SIDE, SIDE)
    difference = pairs[:, 0] - pairs[:, 1]
    assert 0 < difference.abs().mean() < 3 * NOISE


def test_the_file_plays_at_two_frames_a_second(clips: list[Clip]) -> None:
    decord = pytest.importorskip("decord")
    assert decord.VideoReader(str(clips[0].path)).get_avg_fps() == pytest.approx(2.0)
    assert clips[0].fps == 2


def test_a_moving_camera_moves_and_a_still_one_does_not() -> None:
    for seed in range(4):
        still, moving = (draw_scene(seed, 24, camera)[0] for camera in ("still", "moving"))
        assert still.offset.abs().max() == 0
        assert (still.zoom == 1).all()
        assert (moving.offset[0, 0] - moving.offset[0, -1]).abs().max() > CELL / 2
        assert moving.zoom[0, -1] == 1
        assert moving.zoom.max() > 1
        corners = [render_clean(scene)[0, :, :, :40, :40] for scene in (still, moving)]
        changes = [(corner[1:] - corner[:-1]).abs().mean(dim=(1, 2, 3)).median() for corner in corners]
        assert changes[1] > 3 * changes[0]


def expected(scenes: Scenes, text: str) -> str:
    """The answer to a question, found anew from the list of events and not from the question's own bookkeeping."""
    events = [
        (frame, SHAPES[shape], list(COLOURS)[colour], cell)
        for frame, shape, colour, cell in zip(
            *(part[0].tolist() for part in (scenes.flash_frame, scenes.flash_shape, scenes.flash_colour)),
            scenes.flash_cell[0].tolist(),
            strict=True,
        )
        if frame < scenes.frames
    ]
    events.sort()
    words = text.lower().replace("?", "").replace(".", "").split()
    kind = next(kind for kind, (_, templates) in KINDS.items() for t in templates if matches(t, text))
    if kind == "count":
        return NUMBERS[len(events) - 1]
    if kind in ("first", "last"):
        return events[0 if kind == "first" else -1][1]
    shape = next(word for word in words if word in SHAPES)
    if kind.startswith("flash"):
        _, _, colour, cell = next(event for event in events if event[1] == shape)
        return colour if kind == "flash colour" else place(cell)
    sprite = [SHAPES[i] for i in scenes.sprite_shape[0].tolist()].index(shape)
    if kind == "colour":
        return list(COLOURS)[int(scenes.sprite_colour[0, sprite])]
    x, y = ((scenes.sprite_at[0, -1, sprite] - scenes.offset[0, -1]) % SIDE).tolist()
    return place(int(y // CELL) * CELLS + int(x // CELL))


def matches(template: str, text: str) -> bool:
    return any(template.format(shape=shape) == text for shape in SHAPES)


def place(cell: int) -> str:
    return f"{ROWS[cell // CELLS]} {COLUMNS[cell % CELLS]}"


@pytest.mark.parametrize("camera", ["still", "moving"])
@pytest.mark.parametrize("frames", [1, 2, 5, 32])
def test_answers_are_true(camera: str, frames: int) -> None:
    for seed in range(12):
        scenes, questions, _ = draw_scene(seed, frames, camera)
        for question in questions:
            assert question.answer == expected(scenes, question.text), (seed, question)


@pytest.mark.parametrize("camera", ["still", "moving"])
def test_the_second_of_a_flash_is_that_of_its_frame(camera: str) -> None:
    answers = set()
    for seed in range(12):
        clip = Clip(Path("clip.mp4"), camera, seed, 32, 2, ())
        question = when_was_it(clip)
        scenes, *_ = draw_scene(seed, 32, camera)
        shape = next(word for word in question.text.replace("?", " ").replace(".", " ").split() if word in SHAPES)
        flash = scenes.flash_shape[0].tolist().index(SHAPES.index(shape))
        assert question == Question("time", question.text, str(int(scenes.flash_frame[0, flash])))
        answers.add(question.answer)
    assert len(answers) > 4


def test_only_a_benchmark_that_says_so_asks_for_times(tmp_path: Path) -> None:
    plain, timed = (World(count=2, frames=4, when=when).clips(0, tmp_path) for when in (False, True))
    for without, with_time in zip(plain, timed, strict=True):
        assert with_time.questions[:-1] == without.questions
        assert with_time.questions[-1].task == "time"
        assert "time" not in {question.task for question in without.questions}


def test_a_flash_lasts_one_frame_and_shapes_are_unique() -> None:
    for seed in range(8):
        scenes, *_ = draw_scene(seed, 16, "still")
        count = int(scenes.flash_count[0])
        shapes = [*scenes.sprite_shape[0].tolist(), *scenes.flash_shape[0, :count].tolist()]
        assert len(set(shapes)) == len(shapes)
        times = scenes.flash_frame[0, :count].tolist()
        assert len(set(times)) == count
        lit = (render_clean(scenes)[0] / scenes.gain[0, :, None, None, None] - WHITE).abs().amax(1) < 0.1
        tiles = lit.view(16, CELLS, CELL, CELLS, CELL).float().mean(dim=(2, 4)).flatten(1)
        flashed = torch.zeros(16, CELLS * CELLS, dtype=torch.bool)
        flashed[times, scenes.flash_cell[0, :count]] = True
        assert torch.equal(tiles > 0.1, flashed)


def test_flashes_leave_sprites_visible() -> None:
    scenes = sample_scenes(torch.tensor([True, False] * 16), 12, torch.Generator().manual_seed(3))
    for b in range(32):
        for frame, cell in zip(scenes.flash_frame[b].tolist(), scenes.flash_cell[b].tolist(), strict=True):
            if frame < 12:
                assert cell not in scenes.sprite_cell()[b, frame].tolist()


def test_training_never_sees_a_held_out_seed() -> None:
    assert training.step_seed(0, 0) == 0
    for seed, steps in ((HELD_OUT_SEED - 1, 0), (HELD_OUT_SEED - 1, 1), (3 * HELD_OUT_SEED, 10**6)):
        assert 0 <= training.step_seed(seed, steps) < HELD_OUT_SEED


def test_files_that_match_are_reused(clips: list[Clip], folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    assert make_clips(6, FRAMES, folder=folder) == clips
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")} == before


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    (clip,) = make_clips(1, 2, folder=tmp_path)
    clip.path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="missing or changed"):
        load_clips(tmp_path)
    make_clips(1, 2, folder=tmp_path)
    assert decode(clip.path).shape[0] == 4


def test_clips_are_loaded_as_they_were_made(clips: list[Clip], folder: Path) -> None:
    assert load_clips(folder) == clips
    assert json.loads((folder / "clips.json").read_text())["clips"]


def test_an_interrupted_call_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", fail)
    with pytest.raises(KeyboardInterrupt):
        make_clip(tmp_path / "clip.mp4", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count is 0: make at least one"),
        ({"count": 1, "frames": 0}, "frames is 0"),
        ({"count": 1, "camera": "drone"}, "camera is 'drone'"),
        ({"count": 1, "seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_explained(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_clips(**arguments, folder=tmp_path)  # type: ignore[arg-type]


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make clips there first"):
        load_clips(tmp_path)


def test_the_same_clip_is_the_same_file_every_time(tmp_path: Path) -> None:
    files = [make_clip(tmp_path / f"{number}.mp4", frames=24, camera="moving").path for number in range(6)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{",
        "[" * 10_000,
        '{"world": 2}',
        '{"world": 2, "clips": []}',
        '{"world": 2, "clips": {"still-2-1000000000.mp4": {}}}',
        '{"world": 2, "clips": {"still-2-1000000000.mp4": 1}}',
        "\xff",
    ],
)
def test_a_damaged_index_is_made_again(tmp_path: Path, index: str) -> None:
    (tmp_path / "clips.json").write_bytes(index.encode("latin-1"))
    (tmp_path / "still-2-1000000000.mp4").write_text("no clip")
    [clip] = make_clips(1, frames=2, camera="still", folder=tmp_path)
    assert [clip] == load_clips(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_an_index_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clips.json")
    with pytest.raises(OSError, match="a device or pipe"):
        make_clips(1, frames=2, folder=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["clips.json"]
