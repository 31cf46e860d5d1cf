"""VidCom² against its formula, and what it promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_heads import PlainHead, expected

from kvpress_video.compressor.entries import Entries
from kvpress_video.compressor.registry import make_method
from kvpress_video.contract.random_entries import first_frames, footage, thinned
from kvpress_video.errors import UnknownNameError


def similarities(head: PlainHead, reference: str) -> tuple[list[float], list[float]]:
    """g to the mean of the video and to that of the frame."""
    steadiest = np.argsort(head.shown.var(axis=0), kind="stable")[: head.shown.shape[1] // 2]
    x = head.shown[:, steadiest]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = {frame: x[members].mean(axis=0) for frame, members in head.frames.items()}

    def g(i: int, centre: np.ndarray) -> float:
        return sum(np.exp(-((x[i] - centre) ** 2).sum() / 2 / a) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2))

    def centre(frame: int) -> np.ndarray:
        if reference == "clip":
            return x.mean(axis=0)
        return np.mean([mean for at, mean in means.items() if at <= frame], axis=0)

    each = list(enumerate(head.frame))
    return [g(i, centre(frame)) for i, frame in each], [g(i, means[frame]) for i, frame in each]


def vidcom2(head: PlainHead, keep: int, reference: str) -> list[int]:
    """One entry after the other goes to the frame with the largest claim to one more."""
    video, own = similarities(head, reference)
    novelty = {frame: -np.mean([video[i] for i in members]) for frame, members in head.frames.items()}
    drawn = {frame: np.exp((u - max(novelty.values())) / 0.01) for frame, u in novelty.items()}
    share = {frame: 1 + e / sum(drawn.values()) - 1 / len(drawn) for frame, e in drawn.items()}
    waiting = {frame: sorted(members, key=lambda i: video[i] + own[i]) for frame, members in head.frames.items()}
    chosen: list[int] = []
    seats = dict.fromkeys(waiting, 0)
    while len(chosen) < keep:

        def claim(frame: int) -> tuple[float, float]:
            first = waiting[frame][0]
            return round((seats[frame] + 0.5) / share[frame], 6), video[first] + own[first]

        frame = min((frame for frame in waiting if waiting[frame]), key=claim)
        chosen.append(waiting[frame].pop(0))
        seats[frame] += 1
    return sorted(chosen)


each_pass = pytest.mark.parametrize(
    "entries", [footage(batch=2), thinned(footage(batch=2), 7, 36), thinned(footage(), 8, 40)]
)
each_reference = pytest.mark.parametrize("reference", ["clip", "past"])


@each_pass
@each_reference
@pytest.mark.parametrize("keep", [3, 12, 34, 61])
def test_vidcom2(entries: Entries, reference: str, keep: int) -> None:
    chosen = make_method("vidcom2", reference=reference).select(entries, keep)
    assert chosen.tolist() == expected(entries, lambda head: vidcom2(head, keep, reference))


@each_pass
@each_reference
def test_scores(entries: Entries, reference: str) -> None:
    scores = make_method("vidcom2", reference=reference).scores(entries)
    for row in range(len(scores)):
        for head in range(2):
            video, own = similarities(PlainHead(entries, row, head), reference)
            torch.testing.assert_close(scores[row, head], -torch.tensor(video).float() - torch.tensor(own).float())


def test_a_later_frame_changes_no_score_with_the_mean_of_the_past() -> None:
    """Only through the channels, which here are the same: the others vary by far more."""
    entries = footage()
    keys = entries.keys.clone()
    keys[..., :4] *= 100
    shown = replace(entries, keys=keys, context=replace(entries.context, rope=None))
    early = make_method("vidcom2", reference="past").scores(first_frames(shown, 6))
    torch.testing.assert_close(make_method("vidcom2", reference="past").scores(shown)[..., :72], early)
    clip = make_method("vidcom2")
    assert not torch.allclose(clip.scores(shown)[..., :72], clip.scores(first_frames(shown, 6)))


def test_a_frame_unlike_the_others_gets_more_and_every_frame_its_share() -> None:
    """A frame's share is at most twice the average, as the frame's weight is at most 2."""
    entries = footage()
    scene = entries.keys[:, :, :12].repeat(1, 1, 10, 1) + 0.2 * entries.keys
    scene[:, :, 60:72] = -entries.keys[:, :, 60:72]
    shown = replace(entries, keys=scene, context=replace(entries.context, rope=None))
    counts = torch.bincount(make_method("vidcom2").select(shown, 40)[0, 0] // 12, minlength=10)
    assert counts[5] > 4
    assert counts.min() >= 3
    assert counts.sum() == 40


def test_unknown_reference() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'past'"):
        make_method("vidcom2", reference="pst")
