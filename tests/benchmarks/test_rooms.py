"""The clips of rooms: deterministic, balanced, and every answer can be read off what is drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kvpress_video.benchmarks.rooms import FAMILIES, LEVELS, Difficulty, make_clip, make_clips, photographs
from kvpress_video.benchmarks.rooms.benchmark import Rooms
from kvpress_video.benchmarks.rooms.clips import INDEX, draw_scene, video_frames
from kvpress_video.benchmarks.rooms.questions import ANSWERS, KINDS, PLAN, TEMPLATE_FAMILY, ask
from kvpress_video.benchmarks.rooms.render import render_clean
from kvpress_video.benchmarks.rooms.scene import (
    BLACK,
    BROWN,
    CHANGED,
    DURATIONS,
    OTHER,
    SAME,
    SHORTEST,
    STRIPED,
    VISITOR,
    WHITE,
    Scenes,
    sample_scenes,
)
from kvpress_video.benchmarks.rooms.signs import LETTERS
from kvpress_video.benchmarks.world.clips import HELD_OUT_SEED
from kvpress_video.benchmarks.world.scene import CELL, CELLS, SIDE
from kvpress_video.benchmarks.world.shapes import COLOURS, PLACES, SHAPES

from kvpress_video.errors import BenchmarkError, UnknownNameError
from kvpress_video.video.reader import read_video

pytest.importorskip("skimage", reason="the rooms have the textures of its photographs")
STANDARD = LEVELS["standard"]
COLOUR_NAMES = tuple(COLOURS)


def drawn(count: int, frames: int, seed: int = 0, level: Difficulty = STANDARD) -> tuple[Scenes, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return sample_scenes(torch.arange(count) % 2 == 1, frames, generator, level), generator


def test_a_seed_is_one_clip_and_another_seed_another() -> None:
    def video(seed: int) -> torch.Tensor:
        scenes, _, generator = draw_scene(seed, 8, "moving", STANDARD)
        return video_frames(scenes, STANDARD, generator)

    assert torch.equal(video(5), video(5))
    assert draw_scene(5, 8, "moving", STANDARD)[1] == draw_scene(5, 8, "moving", STANDARD)[1]
    assert not torch.equal(video(5), video(6))


@pytest.mark.parametrize("frames", [SHORTEST, 64])
def test_a_file_holds_two_video_frames_for_each_frame_and_equals_what_was_rendered(frames: int, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames, "moving", seed=HELD_OUT_SEED + 1)
    read = torch.from_numpy(read_video(clip.path).frames).permute(0, 3, 1, 2)
    scenes, questions, generator = draw_scene(clip.seed, frames, "moving", STANDARD)
    assert read.shape == (2 * frames, 3, SIDE, SIDE)
    assert clip.questions == questions
    assert (read.float() - video_frames(scenes, STANDARD, generator).float()).abs().mean() < 12


def test_files_are_made_once(tmp_path: Path) -> None:
    made = make_clips(2, 8, folder=tmp_path)
    before = [clip.path.stat().st_mtime_ns for clip in made]
    assert make_clips(2, 8, folder=tmp_path) == made == INDEX.load(tmp_path)
    assert [clip.path.stat().st_mtime_ns for clip in made] == before
    assert [clip.camera for clip in made] == ["still", "moving"]


# --- Answers ----------------------------------------------------------------------------------------------------------


def shown(scenes: Scenes, tile: int) -> list[tuple[int, str, str, str]]:
    """Frame, shape, colour and place of what is on tiles of a kind in the first clip, by frame."""
    stamps = scenes.stamps
    rows = zip(
        *(part[0].tolist() for part in (stamps.frame, stamps.tile, stamps.shape, stamps.colour, stamps.cell)),
        strict=True,
    )
    return sorted(
        (frame, SHAPES[shape], COLOUR_NAMES[colour], PLACES[cell])
        for frame, kind, shape, colour, cell in rows
        if kind == tile and frame < scenes.frames
    )


def expected(kind: str, text: str, scenes: Scenes) -> str:
    """The answer, found anew from what is drawn frame by frame."""
    words = text.replace("?", " ").replace(".", " ").split()
    shape = next((word for word in words if word in SHAPES), "")
    flashes, rooms = shown(scenes, WHITE), list(dict.fromkeys(scenes.room[0].tolist()))
    residents = [SHAPES[shape] for shape in scenes.resident_shape[0].tolist()]
    named = [flash for flash in flashes if flash[1] == shape]
    match kind:
        case "flash colour":
            return named[0][2]
        case "flash place":
            return named[0][3]
        case "first" | "last":
            return flashes[0 if kind == "first" else -1][1]
        case "count":
            return ("two", "three", "four", "five")[len(flashes) - 2]
        case "when":
            return ("first", "second", "third", "fourth")[int(named[0][0] / scenes.frames * 4)]
        case "duration":
            return {2: "two", 4: "four", 8: "eight", 16: "sixteen"}[len(shown(scenes, BROWN))]
        case "colour":
            assert residents.index(shape) in rooms
            return COLOUR_NAMES[int(scenes.resident_colour[0, residents.index(shape)])]
        case "letter":
            colour = next(word for word in words if word in COLOURS)
            room = scenes.sign_colour[0].tolist().index(COLOUR_NAMES.index(colour))
            assert room in rooms
            return LETTERS[int(scenes.sign_letter[0, room])]
        case "place":
            assert shape == SHAPES[int(scenes.hopper_shape[0])]
            return PLACES[int(scenes.hopper_cell[0, -1])]
        case "seen before":
            visitors = shown(scenes, STRIPED)
            assert len(visitors) == 2 * VISITOR
            before, after = visitors[0][1:3], visitors[-1][1:3]
            return "yes" if before == after else "changed" if before[0] == after[0] else "no"
        case "first scene" | "second scene":
            return residents[rooms[kind == "second scene"]]
    raise AssertionError(kind)


@pytest.mark.parametrize("camera", ["still", "moving"])
@pytest.mark.parametrize(("frames", "level"), [(SHORTEST, "hard"), (64, "standard"), (200, "easy")])
def test_answers_are_true(camera: str, frames: int, level: str) -> None:
    for seed in range(6):
        scenes, questions, _ = draw_scene(seed, frames, camera, LEVELS[level])
        assert {question.family for question in questions} == set(FAMILIES)
        for kind, question in zip(PLAN, questions, strict=True):
            assert question.answer == expected(kind, question.text, scenes), (seed, question)


def test_no_constant_answer_is_much_better_than_chance() -> None:
    scenes, generator = drawn(3000, 64)
    asked = ask(scenes, generator)
    choices = {"count": 4, "when": 4, "duration": 4, "seen before": 3, "colour": 8, "flash colour": 8, "place": 16}
    choices |= {"flash place": 16, "letter": 16, "first": 10, "last": 10, "first scene": 10, "second scene": 10}
    for number, kind in enumerate(PLAN):
        best = Counter(asked.answer[:, number].tolist()).most_common(1)[0][1] / 3000
        assert best < 1 / choices[kind] + 0.035, (kind, best)


def test_the_name_in_a_question_does_not_give_its_answer_away() -> None:
    scenes, generator = drawn(4000, 32, seed=1)
    asked = ask(scenes, generator)
    for number, kind in enumerate(PLAN):
        pairs = Counter(zip(asked.name[:, number].tolist(), asked.answer[:, number].tolist(), strict=True))
        best = {name: max(count for (n, _), count in pairs.items() if n == name) for name, _ in pairs}
        plain = Counter(asked.answer[:, number].tolist()).most_common(1)[0][1]
        assert sum(best.values()) < plain + 400, kind


# --- What is drawn ----------------------------------------------------------------------------------------------------


def test_tiles_of_one_frame_are_apart_and_leave_the_hopper_visible() -> None:
    scenes, _ = drawn(64, 24, level=LEVELS["hard"])
    stamps = scenes.stamps
    for clip in range(64):
        cells = [(f, c) for f, c in zip(stamps.frame[clip].tolist(), stamps.cell[clip].tolist(), strict=True) if f < 24]
        hopper = list(enumerate(scenes.hopper_cell[clip].tolist()))
        assert len({*cells, *hopper}) == len(cells) + 24


def test_a_white_tile_is_white_where_it_is_said_to_be() -> None:
    level = replace(STANDARD, dimmed=0.0, screen=0.0)
    scenes, _ = drawn(4, 16, level=level)
    video = render_clean(scenes, level) / scenes.light[:, :, None, None, None]
    for clip in range(4):
        for frame, cell in zip(scenes.flash_frame[clip].tolist(), scenes.flash_cell[clip].tolist(), strict=True):
            if frame < 16:
                top, left = cell // CELLS * CELL + 2, cell % CELLS * CELL + 2
                corner = video[clip, frame, :, top : top + 3, left : left + 3]
                assert (corner - 225).abs().max() < 0.1


def test_the_camera_cuts_returns_and_only_moves_where_it_may() -> None:
    scenes, _ = drawn(200, 128)
    assert (scenes.room[:, 0] == 0).all()
    firsts = [list(dict.fromkeys(rooms)) for rooms in scenes.room.tolist()]
    assert all(order[:2] == [0, 1] for order in firsts)
    cuts = (scenes.room[:, 1:] != scenes.room[:, :-1]).sum(1)
    assert torch.equal(cuts, scenes.visit[:, -1])
    assert int(cuts.min()) == 1
    assert int(cuts.max()) == STANDARD.visits - 1
    assert any(visits >= len(order) for visits, order in zip(cuts.tolist(), firsts, strict=True))
    assert not scenes.offset[~scenes.moving].any()
    assert (scenes.offset[scenes.moving].amax(1) > CELL).all()


def test_visitors_and_durations_take_every_value() -> None:
    scenes, _ = drawn(60, 64)
    assert set(scenes.visitor.tolist()) == {SAME, OTHER, CHANGED}
    lengths = (scenes.stamps.tile == BROWN) & (scenes.stamps.frame < 64)
    assert set(lengths.sum(1).tolist()) == set(DURATIONS)
    short, _ = drawn(60, 16)
    assert set(short.duration.tolist()) == {0, 1, 2}


def test_the_screen_and_movers_change_while_walls_stand() -> None:
    scenes, _ = drawn(1, 12, seed=3)
    video = render_clean(scenes, replace(STANDARD, noise=(0.0, 0.0)))[0] / scenes.light[0, :, None, None, None]
    same = scenes.room[0, 1:] == scenes.room[0, :-1]
    change = (video[1:] - video[:-1]).abs().amax(1)[same]
    assert (change > 5).float().mean(dim=(1, 2)).min() > 0.02
    assert (change > 5).float().mean(dim=(1, 2)).median() < 0.4


def test_decoys_look_like_what_is_asked_about() -> None:
    scenes, _ = drawn(40, 64, level=replace(STANDARD, lookalikes=1.0))
    for clip in range(40):
        flashed = set(scenes.flash_shape[clip, : int(scenes.flash_count[clip])].tolist())
        black = (scenes.stamps.tile[clip] == BLACK) & (scenes.stamps.frame[clip] < 64)
        assert int(black.sum()) == STANDARD.decoys
        assert set(scenes.stamps.shape[clip][black].tolist()) <= flashed


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def test_the_benchmark_gives_clips_of_both_cameras_with_all_questions(tmp_path: Path) -> None:
    clips = Rooms(count=2, frames=8).clips(1, tmp_path)
    assert [clip.group for clip in clips] == ["still", "moving"]
    assert [len(clip.questions) for clip in clips] == [len(PLAN)] * 2
    assert Rooms(count=5, frames=8).outline(1, tmp_path)[1] == [len(PLAN)] * 5
    question = clips[0].questions[0]
    assert Rooms().score(question, f" {question.expected.upper()}. ") == 1.0
    assert Rooms().score(question, "blurple") == 0.0


def test_only_the_chosen_families_are_asked(tmp_path: Path) -> None:
    [every] = Rooms(count=1, frames=8).clips(1, tmp_path)
    [chosen] = Rooms(count=1, frames=8, families="needle+scene").clips(1, tmp_path)
    asked = [question.text for question in every.questions if question.task in ("needle", "scene")]
    assert [question.text for question in chosen.questions] == asked
    assert Rooms(count=4, frames=8, families="needle+scene").outline(1, tmp_path)[1] == [len(asked)] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 4}, "frames is 4: a clip of rooms has 8"),
        ({"level": "insane"}, "level is 'insane': choose easy, standard, hard"),
        ({"count": 0}, "count is 0"),
        ({"camera": "drone"}, "camera is 'drone'"),
        ({"families": "needle+ordre"}, "'ordre'. Did you mean 'order'"),
        ({"families": ""}, "Unknown family of questions ''"),
    ],
)
def test_bad_options_are_explained(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises((BenchmarkError, UnknownNameError), match=message):
        Rooms(**options).clips(0, tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"rooms": 5}, "rooms is 5"), ({"flashes": (2, 9)}, "2 to 6 flashes"), ({"glyph": 3.0}, "glyph is 3")],
)
def test_impossible_settings_are_explained(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Difficulty(**knobs)  # type: ignore[arg-type]


def test_without_photographs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match=r"kvpress-video\[rooms\]"):
        photographs._folder()


def test_every_template_belongs_to_a_family_and_answers_are_distinct() -> None:
    assert set(TEMPLATE_FAMILY) == set(FAMILIES) == {family for family, _ in KINDS.values()}
    assert len(set(ANSWERS)) == len(ANSWERS)
