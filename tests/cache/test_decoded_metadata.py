"""The metadata of decoded tokens, which are described one by one and made many at once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from kvpress_video.cache import forward_pass as module
from kvpress_video.cache.buffers import Buffers
from kvpress_video.cache.forward_pass import DecodedMetadata, Metadata, TokenMetadata, joined_metadata, text_tags
from kvpress_video.compressor.entries import Places

BATCH, CPU = 2, torch.device("cpu")
FORMS = {"one axis": (BATCH,), "three axes": (3, BATCH), "four axes": (4, BATCH)}


def positions(form: str, place: int) -> Tensor:
    return place + torch.arange(torch.Size(FORMS[form]).numel()).view(*FORMS[form], 1)


def plain(index: int, at: Tensor) -> TokenMetadata:
    """The metadata of one token, from its index and its position alone."""
    axes = at[-3:] if at.ndim == 3 else at.expand(3, *at.shape)
    places = torch.full((BATCH, 1, Places.WIDTH), torch.nan)
    places[..., Places.ORIGINAL] = axes.permute(1, 2, 0).float()
    return TokenMetadata(text_tags(torch.full((BATCH, 1), index)), places)


def check(found: Sequence[Tensor], wanted: Sequence[TokenMetadata]) -> None:
    for part, name in zip(found, ("tags", "places"), strict=True):
        right = torch.cat([getattr(each, name) for each in wanted], dim=1)[:, None]
        torch.testing.assert_close(part, right, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("form", FORMS)
def test_many_steps_are_made_as_one_by_one(form: str, seed: int) -> None:
    draw = random.Random(seed)
    index, steps, wanted = draw.randint(0, 50), [], []
    for _ in range(draw.randint(1, 40)):
        index += draw.choice([1] * 12 + [2, 30]) if seed else 1
        shape = form if draw.random() < 0.95 or not seed else draw.choice(list(FORMS))
        at = positions(shape, draw.randint(0, 99))
        single: Metadata = plain(index, at) if seed > 4 and draw.random() < 0.2 else DecodedMetadata(index, at)
        steps.append(single), wanted.append(plain(index, at))
    check(joined_metadata(steps, CPU), wanted)


def test_steps_that_follow_each_other_are_made_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(module, "text_tags", lambda index: made.append(tuple(index.shape)) or text_tags(index))
    joined_metadata([DecodedMetadata(7 + step, positions("three axes", step)) for step in range(30)], CPU)
    assert made == [(BATCH, 30)]


def test_layers_share_the_metadata_of_a_step() -> None:
    step = DecodedMetadata(3, positions("one axis", 5))
    tags = [joined_metadata([step], CPU)[0] for _ in range(2)]
    assert tags[0].data_ptr() == tags[1].data_ptr()


@pytest.mark.parametrize("steps", [1, 5, 255, 256, 300, 700])
def test_buffers_write_the_metadata_of_all_steps(steps: int) -> None:
    held, wanted = Buffers(), [plain(0, positions("one axis", 9))]
    states = [torch.zeros(BATCH, 1, 1, 4)] * 2
    held.append([*states, *joined_metadata(wanted, CPU)])
    for index in range(1, steps + 1):
        held.append_step(states, DecodedMetadata(index, positions("one axis", 2 * index)))
        wanted.append(plain(index, positions("one axis", 2 * index)))
    check(held.metadata, wanted)
