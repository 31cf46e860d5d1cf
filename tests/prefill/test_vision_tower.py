"""The vision tower goes through long videos in groups of frames, and through what is repeated once: nobody notices."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zoo
from generation import answer, model_of
from torch import Tensor

import kvpress_video as kv
from kvpress_video.compressor.entries import Grid, Kind
from kvpress_video.models import adapter_for
from kvpress_video.models.base import FramePixels
from kvpress_video.prefill.token_layout import MediaItem
from kvpress_video.prefill.vision_tower import VisionRecorder, first_equal, grouped

STANDBY = SimpleNamespace(n=4, tokens=None)
ANY_SIZE = [family for family in zoo.FAMILIES if "qwen" in family or family == "video_llama_3"]


@contextmanager
def watching(model: Any, group: int | None, standby: Any = None) -> Iterator[VisionRecorder]:
    watch = VisionRecorder(adapter_for(model), standby, group)
    with watch.attached():
        yield watch


@contextmanager
def tower_tokens(model: Any) -> Iterator[list[int]]:
    """Visual tokens of each run of the vision tower."""
    seen: list[int] = []
    names = ("visual", "vision_tower", "vision_model")
    tower = next(getattr(model.model, name) for name in names if hasattr(model.model, name))

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if "grid_thw" in kwargs:
            seen.append(int(kwargs["grid_thw"].prod(-1).sum()) // zoo.MERGE**2)
        else:
            rows, cols = zoo.grid(model.config.model_type)
            seen.append(len(args[0] if args else kwargs["pixel_values"]) * rows * cols)

    handle = tower.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def videos_of(family: str) -> list[zoo.Video]:
    """Two videos of unequal size, or of unequal length where frames are of one size; LLaVA stacks equal ones."""
    rows, cols = zoo.grid(family)
    if "llava" in family:
        return [zoo.Video(5, rows, cols, seed=1), zoo.Video(5, rows, cols, seed=2)]
    other = (rows, cols) if zoo.TABLE[family].frames_are_images else (rows + 2, cols - 1)
    return [zoo.Video(5, rows, cols, seed=1), zoo.Video(3, *other, seed=2)]


def taken(watch: VisionRecorder, family: str) -> list[MediaItem]:
    """The videos that were encoded; where frames are images, those."""
    return watch.items[Kind.IMAGE if zoo.TABLE[family].frames_are_images else Kind.VIDEO]


def encoded_grids(family: str, videos: Sequence[zoo.Video]) -> list[Grid]:
    """Expected output."""
    if zoo.TABLE[family].frames_are_images:
        return [Grid(1, video.rows, video.cols) for video in videos for _ in range(video.frames)]
    return [Grid(video.frames, video.rows, video.cols) for video in videos]


def features(model: Any, visuals: Sequence[Any], kind: str = "video") -> Any:
    """Features from the model's own method for some videos or images, with rows of tokens joined."""
    inputs = zoo.inputs(model, [zoo.Prompt([*visuals, zoo.Text(2)])])
    if kind == "video" and not zoo.TABLE[model.config.model_type].frames_are_images:
        names, encode = ["pixel_values_videos", "video_grid_thw", "video_merge_sizes"], model.model.get_video_features
    else:
        names = ["pixel_values", "image_grid_thw", "image_merge_sizes", "pixel_attention_mask"]
        encode = model.model.get_image_features
    with torch.no_grad():
        found = encode(*(inputs[name] for name in names if name in inputs), **_layers(model))
    if isinstance(getattr(found, "pooler_output", None), list):
        found.pooler_output = torch.cat(found.pooler_output)
    return found


def _layers(model: Any) -> dict[str, Any]:
    names = ("vision_feature_layer", "vision_feature_select_strategy")
    return {name: getattr(model.config, name) for name in names if hasattr(model.config, name)}


def assert_same(ours: Any, stock: Any) -> None:
    """Same types all the way down, same numbers."""
    assert type(ours) is type(stock)
    if isinstance(stock, Tensor):
        torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)
    elif isinstance(stock, dict):
        names = [name for name in stock if name not in ("hidden_states", "attentions")]
        assert list(ours) == names
        for name in {*names, "pooler_output"} if hasattr(stock, "pooler_output") else names:
            assert_same(getattr(ours, name), getattr(stock, name))
    elif stock is not None:
        assert len(ours) == len(stock)
        for mine, theirs in zip(ours, stock, strict=True):
            assert_same(mine, theirs)


@pytest.mark.parametrize("frames", [0.5, 1, 2.5, 6])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_groups_of_frames_return_what_one_call_returns(family: str, frames: float) -> None:
    model = model_of(family)
    videos = videos_of(family)
    stock = features(model, videos)
    patch = max(video.rows * video.cols for video in videos)
    group = int(frames * patch)
    with watching(model, group) as watch, tower_tokens(model) as seen:
        ours = features(model, videos)
        items = taken(watch, family)
    assert_same(ours, stock)
    assert len(seen) > 1
    assert max(seen) <= max(group, patch)
    assert sum(seen) == sum(video.frames * video.rows * video.cols for video in videos)
    assert [item.grid for item in items] == encoded_grids(family, videos)


@pytest.mark.parametrize("family", ANY_SIZE)
def test_images_are_encoded_in_groups_as_well(family: str) -> None:
    model = model_of(family)
    images = [zoo.Image(2, 3, seed=1), zoo.Image(4, 2, seed=2), zoo.Image(2, 3, seed=3)]
    stock = features(model, images, "image")
    with watching(model, 14), tower_tokens(model) as seen:
        assert_same(features(model, images, "image"), stock)
    assert seen == [14, 6]


@pytest.mark.skipif(len(zoo.FAMILIES) == 1, reason="transformers 4 runs Qwen2.5-VL only")
def test_an_any_resolution_image_is_never_cut() -> None:
    model = model_of("llava_onevision")
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Image(5, 10), zoo.Text(3)])])
    stock = answer(model, inputs, new=1)
    with watching(model, 1), tower_tokens(model) as seen:
        assert torch.equal(answer(model, inputs, new=1).logits, stock.logits)
    assert len(seen) == 1


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_generation_is_the_same_in_groups(family: str, beams: int) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, zoo.default_prompts(family))
    stock = answer(model, inputs, num_beams=beams)
    rows, cols = zoo.grid(family)
    with watching(model, 2 * rows * cols), tower_tokens(model) as seen:
        ours = answer(model, inputs, num_beams=beams)
    assert len(seen) > 2
    assert torch.equal(ours.tokens, stock.tokens)
    torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_importance_is_the_same_in_groups(family: str) -> None:
    model = model_of(family)
    first, second = videos_of(family)
    again = [first, second, first]
    rows, cols = zoo.grid(family)
    alone: list[list[MediaItem]] = []
    for video in (first, second):
        with watching(model, None, STANDBY) as watch:
            features(model, [video])
            alone.append(taken(watch, family))
    for group in (None, rows * cols, 2 * rows * cols):
        with watching(model, group, STANDBY) as watch:
            features(model, again)
            found = taken(watch, family)
        for item, expected in zip(found, [*alone[0], *alone[1], *alone[0]], strict=True):
            assert item.grid == expected.grid
            assert item.importance is not None
            torch.testing.assert_close(item.importance, expected.importance, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [2, 12])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_repeated_videos_are_encoded_once(family: str, frames: int) -> None:
    model = model_of(family)
    first, second = videos_of(family)
    stock = features(model, [first, second, second, first])
    with watching(model, frames * first.rows * first.cols) as watch, tower_tokens(model) as seen:
        ours = features(model, [first, second, second, first])
        items = taken(watch, family)
    assert_same(ours, stock)
    assert (len(seen) == 1) == (frames == 12)
    assert sum(seen) == sum(video.frames * video.rows * video.cols for video in (first, second))
    assert [item.grid for item in items] == encoded_grids(family, [first, second, second, first])


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_several_questions_on_one_video_encode_it_once(family: str) -> None:
    model = model_of(family)
    video = videos_of(family)[0]
    inputs = zoo.inputs(model, [zoo.Prompt([video, zoo.Text(tokens, seed=tokens)]) for tokens in (4, 7, 5)])
    stock = answer(model, inputs)
    tokens = video.frames * video.rows * video.cols
    with watching(model, tokens), tower_tokens(model) as seen:
        ours = answer(model, inputs)
    assert seen == [tokens]
    assert torch.equal(ours.tokens, stock.tokens)
    torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_what_fits_the_group_stays_one_call_to_the_bit(family: str) -> None:
    model = model_of(family, "eager")
    first, second = videos_of(family)
    inputs = zoo.inputs(model, [zoo.Prompt([first, zoo.Text(2), second, zoo.Text(3), first, zoo.Text(4)])])
    stock = answer(model, inputs)
    tokens = sum(video.frames * video.rows * video.cols for video in (first, second, first))
    with watching(model, tokens), tower_tokens(model) as seen:
        ours = answer(model, inputs)
    assert seen == [tokens]
    assert torch.equal(ours.logits, stock.logits)


@pytest.mark.skipif(len(zoo.FAMILIES) == 1, reason="transformers 4 runs Qwen2.5-VL only")
@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video"])
def test_hidden_states_of_a_group_are_gone_before_the_next(family: str) -> None:
    model = model_of(family)
    states: list[weakref.ref] = []
    left = []

    def before(module: Any, args: tuple) -> None:
        left.append(sum(state() is not None for state in states))

    def after(module: Any, args: tuple, output: Any) -> None:
        own = [state for state in output.hidden_states if state is not None and state is not output.last_hidden_state]
        states.extend(map(weakref.ref, own))

    tower = model.model.vision_tower
    handles = [tower.register_forward_pre_hook(before), tower.register_forward_hook(after)]
    rows, cols = zoo.grid(family)
    with watching(model, 2 * rows * cols):
        features(model, videos_of(family))
    for handle in handles:
        handle.remove()
    assert states
    assert left == [0] * 5


def test_only_equal_pixels_count_as_repeated() -> None:
    grid = Grid(2, 2, 2)
    first = torch.zeros(2, 16, 6)
    hidden = first.clone()
    hidden[1, 7, 5] = 1  # where no sample looks
    again = [
        FramePixels(grid, first),
        FramePixels(grid, hidden),
        FramePixels(grid, first.clone()),
        FramePixels(Grid(2, 1, 4), first),
    ]
    assert first_equal(again) == [0, 1, 0, 3]
    assert first_equal([FramePixels(grid, torch.full((2, 16, 6), torch.nan))] * 2) == [0, 1]


def test_frames_are_grouped_in_order_and_none_is_cut() -> None:
    sizes = [(5, 2), (1, 9), (3, 2)]  # frames, patches of each
    items = [FramePixels(Grid(n, 1, patches), torch.arange(n)[:, None]) for n, patches in sizes]
    groups = grouped(items, 6)
    assert [[(part.grid.patches, part.pixels.flatten().tolist()) for part in group] for group in groups] == [
        [(2, [0, 1, 2])],
        [(2, [3, 4])],
        [(9, [0])],
        [(2, [0, 1, 2])],
    ]
    assert all(part.grid.frames == len(part.pixels) for group in groups for part in group)


@pytest.mark.skipif(len(zoo.FAMILIES) == 1, reason="transformers 4 takes no such arguments")
def test_what_was_computed_for_the_whole_input_is_refused() -> None:
    model = model_of("qwen2_5_vl")
    inputs = zoo.inputs(model, [zoo.Prompt([zoo.Video(4, 2, 2), zoo.Text(2)])])
    with watching(model, 4), pytest.raises(kv.UnsupportedModelError, match="cu_seqlens"):
        model.model.get_video_features(
            inputs["pixel_values_videos"], inputs["video_grid_thw"], video_cu_seqlens=torch.tensor([0, 16, 32])
        )


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_encode_works_in_groups_and_tells_what_it_saw(family: str) -> None:
    model = model_of(family)
    video = videos_of(family)[0]
    inputs = zoo.inputs(model, [zoo.Prompt([video])])
    adapter = adapter_for(model)
    stock = adapter.encode(inputs)
    with watching(model, 2 * video.rows * video.cols) as watch:
        assert_same(adapter.encode(inputs), stock)
        assert [item.grid for item in taken(watch, family)] == encoded_grids(family, [video])
