"""Families whose frames are images: which images are the frames of one video, and what else is theirs alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, two_videos, video_prompt

import kvpress_video as kv
from kvpress_video.compressor.entries import Grid, Kind, Tags, is_visual
from kvpress_video.models import adapter_for
from kvpress_video.models.frame_labels import FrameLabel
from kvpress_video.models.internvl import InternVL
from kvpress_video.models.smolvlm import SmolVLM
from kvpress_video.prefill.token_layout import MediaItem, TokenLayout, lay_out
from kvpress_video.prefill.vision_tower import VisionRecorder

FAMILIES = [family for family in zoo.FAMILIES if zoo.TABLE[family].frames_are_images]
LABELLED = [family for family in FAMILIES if family != "gemma3"]


def laid_out(text: str, label: FrameLabel, sizes: dict[int, Grid] | None = None) -> TokenLayout:
    """The layout of one row of words, each a token; `#` is an image of 2×3 placeholders, or as sized by its ordinal."""
    known: dict[str, int] = {"#": 0}
    ids: list[int] = []
    items: list[MediaItem] = []
    for word in text.split():
        number = known.setdefault(word, len(known))
        if word == "#":
            items.append(MediaItem((sizes or {}).get(len(items), Grid(1, 2, 3)), label=label))
        ids += [number] * (items[-1].tokens if word == "#" else 1)
    row = torch.tensor([ids])
    return lay_out(row, torch.ones_like(row).bool(), {Kind.IMAGE: 0}, {Kind.IMAGE: items}, 0, [0])


def frames(text: str, label: FrameLabel, sizes: dict[int, Grid] | None = None) -> list[int]:
    """Frames of each segment."""
    return [grid.frames for grid in laid_out(text, label, sizes).rows[0].grids.values()]


def internvl(*numbers: int) -> str:
    return " \\n ".join(f"Frame {' '.join(str(number))} : _ <img> # </img>" for number in numbers)


def smolvlm(*times: str) -> str:
    shown = [f"\\n Frame _from _ {' '.join(time)} : <fake> <global> # <fake>" for time in times]
    intro = "You are provided the following series of six frames from a 0 : 0 0 : 0 6 [ H : M M : S S ] video . \\n"
    return f"{intro} {' '.join(shown)} \\n\\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (internvl(1, 2, 3), [3]),
        (internvl(*range(1, 25)), [24]),
        (internvl(*range(1, 5)) + " \\n " + internvl(*range(1, 4)) + " \\n What ?", [4, 3]),
        (internvl(1, 2, 3) + " \\n and then " + internvl(1, 2), [3, 2]),
        (internvl(1) + " \\n " + internvl(1), [1, 1]),
        ("<img> # </img> \\n " + internvl(1, 2), [1, 2]),
        (internvl(1, 2) + " \\n <img> # </img> \\n What ?", [2, 1]),
        ("<img> # </img> \\n <img> # </img> What ?", [1, 1]),
        ("One : _ <img> # </img> is not as large as this one , is it ? _ <img> # </img>", [1, 1]),
        ("Look at the first <img> # </img> \\n and at the second <img> # </img>", [1, 1]),
        ("<img> # # # </img> \\n <img> # # </img>", [1] * 5),
        ("Image - 1 : _ <img> # </img> \\n Image - 2 : _ <img> # </img>", [2]),
    ],
)
def test_numbered_frames_are_one_video(text: str, expected: list[int]) -> None:
    assert frames("<start> user \\n " + text, InternVL.label) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (smolvlm("00:00", "00:00", "00:01", "00:59", "01:00", "61:01", "100:00"), [7]),
        (smolvlm("00:00", "00:01") + " " + smolvlm("00:00", "00:01", "00:02") + " What ?", [2, 3]),
        ("<fake> <global> # <fake> <fake> <global> # <fake> What ?", [1, 1]),
        ("<fake> <global> # <fake> \\n " + smolvlm("00:00", "00:01"), [1, 2]),
        (
            "<fake> <row_1_col_1> # <fake> <row_1_col_2> # \\n <fake> <row_2_col_1> # <fake> <row_2_col_2> # \\n\\n"
            " <fake> <global> # <fake>",
            [1] * 5,
        ),
    ],
)
def test_timed_frames_are_one_video(text: str, expected: list[int]) -> None:
    assert frames("<start> User : _ " + text, SmolVLM.label) == expected


def test_frames_of_one_video_have_one_size() -> None:
    text = "<start> user \\n " + internvl(1, 2, 3, 4)
    assert frames(text, InternVL.label, {2: Grid(1, 1, 6), 3: Grid(1, 1, 6)}) == [2, 2]


def test_a_video_is_tagged_frame_by_frame_and_a_lone_image_as_one() -> None:
    layout = laid_out("<img> # </img> \\n " + internvl(1, 2), InternVL.label)
    visual = layout.tags[0][is_visual(layout.tags[0, :, Tags.KIND])]
    assert visual[:, Tags.KIND].tolist() == [Kind.IMAGE] * 6 + [Kind.VIDEO] * 12
    patches = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert visual[:, Tags.SEGMENT :].tolist() == [
        [segment, frame, *patch] for segment, frame in ((0, 0), (1, 0), (1, 1)) for patch in patches
    ]


# --- The models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_each_video_of_a_prompt_has_its_own_budget(family: str) -> None:
    model = model_of(family)
    with kv.compress(model, "tar", "34%") as run:
        cache = answer(model, zoo.inputs(model, [two_videos(family)])).output.past_key_values
    patches = zoo.grid(family)[0] * zoo.grid(family)[1]
    [row] = compressed(cache)[0].rows
    held = [row.held[video] + sum(row.labels[video].values()) for video in (0, 1)]
    assert sum(held) == int(0.34 * (6 * patches + run.report.label_tokens) + 0.5)
    assert abs(held[0] - held[1]) <= 1
    assert run.report.visual_tokens == 6 * patches


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_turn_with_more_frames(family: str) -> None:
    """They are a video of their own, whatever stood before them."""
    model = model_of(family)
    prompt, more = video_prompt(family, 2), zoo.Prompt([zoo.Video(3, *zoo.grid(family), seed=9), zoo.Text(3)])
    inputs, later = zoo.inputs(model, [prompt]), zoo.inputs(model, [more])
    both = zoo.inputs(model, [zoo.Prompt([*prompt.parts, *more.parts])])
    later = {name: value[:, 1:] if name == "input_ids" else value for name, value in later.items()}  # no second start
    later["attention_mask"] = both["attention_mask"]
    with torch.no_grad(), kv.compress(model, "van", 10_000):
        cache = model(**inputs, use_cache=True).past_key_values
        ours = model(**later, past_key_values=cache, use_cache=True).logits[:, -1]
    assert [tuple(grid) for grid in compressed(cache)[0].rows[0].grids.values()] == [
        (2, *zoo.grid(family)),
        (3, *zoo.grid(family)),
    ]
    with torch.no_grad():
        torch.testing.assert_close(ours, model(**both).logits[:, -1], rtol=0, atol=1e-4)


needs_smolvlm = pytest.mark.skipif("smolvlm" not in FAMILIES, reason="needs transformers 5")


@needs_smolvlm
def test_empty_images_that_fill_a_row_up_are_no_items() -> None:
    """Nor are they given to the tower, in groups as in one call; where all are empty, the first one counts."""
    model = model_of("smolvlm")
    prompts = [video_prompt("smolvlm", frames) for frames in (2, 5)]
    inputs = zoo.inputs(model, prompts)
    assert inputs["pixel_values"].shape[:2] == (2, 5)
    adapter = adapter_for(model)
    unpacked = adapter.unpack(Kind.IMAGE, inputs)
    assert unpacked is not None
    expected = torch.cat([inputs["pixel_values"][0, :2], inputs["pixel_values"][1]])
    assert torch.equal(torch.cat([frame.pixels for frame in unpacked]), expected)
    given = {name: inputs[name] for name in ("pixel_values", "pixel_attention_mask")}
    empty = {name: torch.zeros_like(value) for name, value in given.items()}
    empty.pop("pixel_attention_mask")
    for arguments, images in ((given, 7), (empty, 1)):
        for group in (None, 18):
            watch = VisionRecorder(adapter, None, group)
            with watch.attached():
                model.model.get_image_features(**arguments)
                items = watch.items[Kind.IMAGE]
            assert [item.grid for item in items] == [Grid(1, 3, 3)] * images


@needs_smolvlm
def test_images_that_are_masked_in_part_are_encoded_in_one_call_and_have_no_importance() -> None:
    model = model_of("smolvlm")
    inputs = zoo.inputs(model, [video_prompt("smolvlm")])
    inputs["pixel_attention_mask"][0, 2, :, 12:] = 0
    stock = answer(model, inputs)
    with kv.compress(model, "van", 10_000, chunk=9):
        ours = answer(model, inputs)
    torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)
    with kv.compress(model, "standby", "50%", n=4), pytest.raises(kv.MissingInputError):
        answer(model, inputs)


@pytest.mark.parametrize("family", LABELLED)
def test_tiles_of_an_image_are_images_of_their_own(family: str) -> None:
    """Placeholders of several images with nothing, or little, between them."""
    model: Any = model_of(family)
    image = zoo.inputs(model, [zoo.Prompt([zoo.Image(*zoo.grid(family)), zoo.Text(4)])])
    patches = int((image["input_ids"] == zoo.IMAGE).sum())
    first = int((image["input_ids"][0] == zoo.IMAGE).nonzero()[0])
    ids = image["input_ids"][0]
    tiled = torch.cat([ids[: first + patches], *([ids[first - 1 : first + patches]] * 2), ids[first + patches :]])[None]
    pixels = torch.randn(3, *image["pixel_values"].shape[-3:], generator=torch.Generator().manual_seed(0))
    given = {"input_ids": tiled, "pixel_values": pixels if family == "internvl" else pixels[None]}
    with kv.compress(model, "van", "50%"):
        cache = answer(model, given).output.past_key_values
    assert [tuple(grid) for grid in cache.layers[0].rows[0].grids.values()] == [(1, *zoo.grid(family))] * 3
