"""Which text is a frame's label: by the tokens of each family's prompt, in one piece and in several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo
from generation import compressed, model_of, video_prompt

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Kind, Tags
from kvpress_video.prefill.label_tokens import label_frames

V = 99  # a visual token


def labels_of(ids: list[int], closes: int) -> list[int]:
    """The frame of each token's label; frames are runs of visual tokens."""
    tokens = np.array(ids)
    where = np.flatnonzero(tokens == V)
    frames = np.cumsum(np.r_[0, np.diff(where) > 1])
    return label_frames(tokens, where, frames, closes).tolist()


@pytest.mark.parametrize(
    ("ids", "closes", "expected"),
    [
        ([5, 1, 2, V, V, 3, 1, 4, 2, V, V, 3, 7], 1, [-1, 0, 0, -1, -1, 0, 1, 1, 1, -1, -1, 1, -1]),
        ([5, 1, 2, V, V, 3, 1, 4, 2, V, V, 7, 7], 1, [-1, 0, 0, -1, -1, 0, 1, 1, 1, -1, -1, -1, -1]),
        ([5, 1, 2, V, 8, 1, 4, 2, V, 8], 0, [-1, 0, 0, -1, 1, 1, 1, 1, -1, -1]),
        ([5, 6, 2, V, 3, 1, 4, 2, V, 3], 1, [-1, -1, -1, -1, 0, 1, 1, 1, -1, 1]),
        ([1, 2, V, V, V, 3], 1, [-1] * 6),
    ],
    ids=["opened and closed", "not closed at the end", "separated", "another opening", "one frame"],
)
def test_tokens_between_frames_are_labels(ids: list[int], closes: int, expected: list[int]) -> None:
    assert labels_of(ids, closes) == expected


@pytest.mark.parametrize("family", zoo.LABELLED)
def test_labels_of_every_family_are_told_from_text(family: str) -> None:
    model = model_of(family)
    prompt = video_prompt(family, frames=5)
    inputs = zoo.inputs(model, [prompt])
    with kv.compress(model, "random", "100%") as run:
        cache = model(**inputs, use_cache=True).past_key_values
    tags = compressed(cache)[0].tags[0, 0]
    label, places = tags[:, Tags.KIND] == Kind.LABEL, tags[:, Tags.FRAME]
    assert run.report.label_tokens == int(label.sum()) > 0
    assert run.report.label_entries == (int(label.sum()),) * len(run.report.entries)
    words = torch.isin(inputs["input_ids"][0], torch.arange(zoo.WORDS.start, zoo.WORDS.stop))
    assert not bool((label & words).any())  # the user's words are never a label
    assert set(places[label].tolist()) == set(range(5))
    visual = torch.nonzero(tags[:, Tags.KIND] == Kind.VIDEO).flatten()
    between = torch.arange(len(tags))
    inside = (between > visual[0]) & (between < visual[-1]) & (tags[:, Tags.KIND] != Kind.VIDEO)
    assert bool(label[inside].all())  # nothing between two frames is left on top of the budget


@pytest.mark.parametrize("family", zoo.LABELLED)
def test_labels_are_text_where_they_are_kept(family: str) -> None:
    model = model_of(family)
    with kv.compress(model, "random", "100%", labels="keep") as run:
        cache = model(**zoo.inputs(model, [video_prompt(family)]), use_cache=True).past_key_values
    assert not bool((compressed(cache)[0].tags[..., Tags.KIND] == Kind.LABEL).any())
    assert run.report.label_tokens == 0


@pytest.mark.skipif("qwen3_vl" not in zoo.FAMILIES, reason="needs transformers 5")
def test_a_chunk_ends_after_the_tokens_that_close_its_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    family = "qwen3_vl"
    model = model_of(family)
    ends: list[int] = []
    keep = CompressedLayer.keep

    def noted(layer: Any, plan: Any) -> None:
        ends.append(int(layer.tags[0, 0, -1, Tags.INDEX]))
        keep(layer, plan)

    monkeypatch.setattr(CompressedLayer, "keep", noted)
    inputs = zoo.inputs(model, [video_prompt(family, 6)])
    with kv.compress(model, "recent", 60, chunk=30):
        model(**inputs, use_cache=True)
    ids = inputs["input_ids"][0].tolist()
    assert len(set(ends)) > 1
    assert all(ids[end] == zoo.VISION_END for end in ends)
