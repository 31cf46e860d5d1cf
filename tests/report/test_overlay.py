"""Retained patches: where kept entries are drawn, and the commands that draw them."""

from __future__ import annotations

import html
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zoo
from generation import METHODS, SETTINGS, compressed, model_of, two_videos, video_prompt
from PIL import Image
from summary_rows import overlay

import kvpress_video as kv
from kvpress_video.cache.adoption import layers_of
from kvpress_video.cache.kept_patches import kept_shares
from kvpress_video.cli import look as look_command
from kvpress_video.errors import KVPressVideoError, MissingInputError, UnknownNameError, VideoError
from kvpress_video.report import draw_overlay, look
from kvpress_video.report.overlay import shaded
from kvpress_video.report.page import write_overlay
from kvpress_video.video.reader import Video, read_video

if TYPE_CHECKING:
    from kvpress_video.benchmarks.world import Clip


def kept_by(family: str, prompt: zoo.Prompt, method: str) -> tuple[Any, list[torch.Tensor]]:
    model = model_of(family)
    with kv.compress(model, method, "40%", **SETTINGS.get(method, {})) as run:
        output = model.generate(**zoo.inputs(model, [prompt]), max_new_tokens=2, return_dict_in_generate=True)
    return output, run.kept


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("method", ["random", "infinipot-v", "average-pooling", "recent"])
def test_shares_are_those_of_the_kept_tokens(family: str, method: str) -> None:
    """Against the token indices that `run.kept` gives, and the prompt's own spelling."""
    prompt = video_prompt(family)
    output, kept = kept_by(family, prompt, method)
    places = {slot.token: (slot.frame, slot.row, slot.col) for slot in zoo.expected_layout(family, prompt)}
    shape = (6, *zoo.grid(family))
    expected = np.zeros(shape)
    for layer in kept:
        for head in layer[0].tolist():
            for place in {places[token] for token in head if token in places}:
                expected[place] += 1 / (len(kept) * layer.shape[1])
    found = kept_shares(compressed(output.past_key_values))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    [row] = compressed(output.past_key_values)[0].rows
    labels = sum(row.labels_seen.values())  # which a ratio counts too
    held = round(0.4 * (len(places) + labels)) - row.label_tokens
    assert found.mean() == pytest.approx(held / len(places))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_as_many_patches_as_it_reports(method: str) -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    with kv.compress(model, method, "50%", **SETTINGS.get(method, {})) as run:
        output = model.generate(
            **zoo.inputs(model, [video_prompt(family)]), max_new_tokens=2, return_dict_in_generate=True
        )
    assert kept_shares(layers_of(output.past_key_values)).mean() == pytest.approx(run.report.ratio)


def test_two_videos_are_refused() -> None:
    family = zoo.FAMILIES[0]
    output, _ = kept_by(family, two_videos(family), "random")
    with pytest.raises(VideoError, match="2 videos"):
        kept_shares(layers_of(output.past_key_values))


def test_kept_patches_stay_as_they_are_and_evicted_ones_are_dark() -> None:
    pictures = np.full((1, 4, 6, 3), (200, 100, 0), dtype=np.uint8)
    shares = np.array([[[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]]])
    found = shaded(pictures, shares)[0]
    assert (found[:2, :2] == (200, 100, 0)).all()
    assert (found[2:, 2:4] == (200, 100, 0)).all()
    for dark in (found[:2, 2:4], found[2:, :2], found[2:, 4:]):
        assert (dark == 24).all()
    assert (found[:2, 4:] == (112, 62, 12)).all()


def test_shares_fit_pictures_that_their_grid_does_not_divide() -> None:
    pictures = np.full((1, 7, 5, 3), 255, dtype=np.uint8)
    found = shaded(pictures, np.array([[[1.0, 0.0], [0.0, 1.0]]]))[0, ..., 0]
    assert set(found[0]) == set(found[6]) == {255, 61}
    assert found[0, 0] == found[6, 4] == 255


def test_a_look_shows_the_patches_that_each_method_kept(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    model, processor = bundled
    clip = clips[0]
    video = read_video(clip.path)
    done: list[int] = []
    question = clip.questions[0].text
    found = look(
        model, processor, video, ["full", "recent", "van"], "25%", question, shown=3, done=lambda: done.append(1)
    )
    assert done == [1, 1, 1]
    assert [(each.method, each.budget, each.ratio) for each in found.retained] == [
        ("full", "100%", 1.0), ("recent", "25%", 0.25), ("van", "25%", 0.25)
    ]  # fmt: skip
    full, recent, van = (each.shares for each in found.retained)
    assert full.shape == (8, 4, 4)
    assert (full == 1).all()
    assert (recent == np.repeat([0, 0, 0, 0, 0, 0, 1, 1], 16).reshape(8, 4, 4)).all()
    assert van.mean() == pytest.approx(0.25)
    assert list(found.shown) == [0, 4, 7]
    assert list(found.times) == list(range(8))
    assert found.frames == len(video) == 16
    assert (found.pictures == video.frames[[0, 8, 14]]).all()
    assert found.title == clip.path.name
    for each in found.retained:
        budget = "100%" if each.method == "full" else "25%"
        assert each.answer == kv.ask(model, processor, video, question, method=each.method, budget=budget).text


def test_without_a_question_there_is_no_answer(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    found = look(*bundled, read_video(clips[1].path), ["tar"], "25%", shown=99)
    assert (found.question, found.retained[0].answer) == (None, None)
    assert list(found.shown) == list(range(8))


def test_pictures_are_cropped_as_the_processor_crops(bundled: tuple[Any, Any], clips: list[Clip]) -> None:
    from kvpress_video.report.retained import _pictures

    frames = np.random.default_rng(0).integers(0, 256, (2, 20, 40, 3), dtype=np.uint8)
    cropping = SimpleNamespace(video_processor=SimpleNamespace(do_center_crop=True))
    found = _pictures(cropping, Video.from_frames(frames, 1.0), np.array([1]))
    assert (found == frames[1:, :, 10:30]).all()


@pytest.mark.parametrize(("methods", "shown", "error"), [([], 4, MissingInputError), (["tar"], 0, VideoError)])
def test_a_look_at_nothing_is_refused(
    bundled: tuple[Any, Any], clips: list[Clip], methods: list[str], shown: int, error: type[KVPressVideoError]
) -> None:
    with pytest.raises(error):
        look(*bundled, read_video(clips[0].path), methods, "25%", shown=shown)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".html"])
def test_an_overlay_is_written_by_suffix(tmp_path: Path, suffix: str) -> None:
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".html": b"<!doctype html>"}
    assert write_overlay(overlay(), tmp_path / f"look{suffix}").read_bytes().lstrip().startswith(starts[suffix])


def test_the_figure_has_a_row_per_method_and_a_bar_strip() -> None:
    shown = overlay(("tar", "van"), frames=12, shown=4)
    figure = draw_overlay(shown)
    pictures = [axes for axes in figure.axes if axes.images]
    strips = [axes for axes in figure.axes if axes.patches]
    assert (len(pictures), len(strips)) == (3 * 4, 2)
    assert (pictures[0].images[0].get_array() == shown.pictures[0]).all()
    stairs, *bars = strips[0].patches
    np.testing.assert_allclose(stairs.get_data().values, shown.retained[0].shares.sum(axis=(1, 2)))
    assert len(bars) == 4


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    look_command.add(parser.add_subparsers())
    options = parser.parse_args(["look", *arguments])
    code: int = options.run(options)
    return code


def test_the_command_writes_a_picture(tmp_path: Path, clips: list[Clip], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "look.png"
    asked = ["--methods", "tar:recent_ratio=.25,van", "--budget", "25%", "--question", clips[0].questions[0].text]
    assert run(str(clips[0].path), *asked, "--device", "cpu", "--frames", "3", "--out", str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tar:recent_ratio=.25 25%: 25% of visual entries kept: ")
    assert lines[1].startswith("van 25%: 25% of visual entries kept: ")
    assert lines[2] == f"3 of 16 frames shown in {out}"
    with Image.open(out) as picture:
        assert picture.width > 600
        assert len(picture.getcolors(maxcolors=2**24) or ()) > 100


def test_the_command_draws_a_clip_whatever_its_name(tmp_path: Path, clips: list[Clip]) -> None:
    """Names that are formulas to matplotlib, and names that are not UTF-8."""
    for name in ("$x^{$.mp4", os.fsdecode(b"caf\xe9.mp4")):
        shutil.copy(clips[0].path, tmp_path / name)
        asked = [
            "--methods",
            "tar",
            "--budget",
            "25%",
            "--question",
            "Is it $x^{$?",
            "--frames",
            "1",
            "--device",
            "cpu",
        ]
        assert run(str(tmp_path / name), *asked, "--out", str(tmp_path / "look.svg")) == 0
        text = html.unescape((tmp_path / "look.svg").read_text())
        assert "“Is it $x^{$?”" in text
        assert name.encode(errors="backslashreplace").decode() in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--methods": "tarr"}, "Did you mean 'tar'"),
        ({"--budget": "many"}, "Cannot read the budget"),
        ({"--out": "look.jpg"}, "kind of figure"),
        ({"--fps": "0"}, "fps"),
    ],
)
def test_the_command_refuses_what_cannot_be_before_it_loads_a_model(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    monkeypatch.setattr(look_command, "load_model", lambda options: pytest.fail("a model was loaded"))
    asked = {"--methods": "tar", "--budget": "25%", "--out": str(tmp_path / "look.png"), **changed}
    with pytest.raises(KVPressVideoError, match=said):
        run(str(clips[0].path), *(word for pair in asked.items() for word in pair))
    assert not list(tmp_path.iterdir())


def test_an_unknown_setting_is_refused(tmp_path: Path, clips: list[Clip]) -> None:
    with pytest.raises(UnknownNameError, match="setting of tar"):
        run(str(clips[0].path), "--methods", "tar:recnt_ratio=.25", "--budget", "25%")
