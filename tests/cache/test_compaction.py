"""`compact` positions: keys that were moved equal keys that were computed there."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, two_videos, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.compaction import compact
from kvpress_video.compressor.entries import Places, Tags
from kvpress_video.models import adapter_for


@torch.no_grad()
def _prefilled(model: Any, inputs: dict[str, Tensor], **options: Any) -> tuple[Any, list[Tensor]]:
    """The compressed cache right after prefill, and the hidden states that each text attention was given."""
    hidden: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, kwargs: hidden.append(kwargs["hidden_states"]), with_kwargs=True
        )
        for module in zoo.attentions(model).values()
    ]
    try:
        with kv.compress(model, "random", "40%", **options):
            cache = model(**inputs, use_cache=True).past_key_values
    finally:
        for handle in handles:
            handle.remove()
    return cache, hidden


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_moved_keys_equal_keys_computed_at_the_new_position(family: str) -> None:
    """The reference projects the same hidden states and applies the model's own rotary functions at the new place."""
    model = model_of(family, "eager")
    inputs = zoo.inputs(model, [two_videos(family)])
    cache, hidden = _prefilled(model, inputs, positions="compact", prefill="whole")
    text, moved = model.get_decoder(), 0
    for attention, given, layer in zip(zoo.attentions(model).values(), hidden, compressed(cache), strict=True):
        states = attention.k_proj(given)
        states = states.reshape(*states.shape[:2], -1, attention.head_dim)
        states = attention.k_norm(states) if hasattr(attention, "k_norm") else states
        for head in range(layer.keys.shape[1]):
            index = layer.tags[0, head, :, Tags.INDEX].long()
            place = layer.places[0, head, :, Places.PRESENT]
            expected = _rotated(text, attention, states[0, index, head], place)
            torch.testing.assert_close(layer.keys[0, head], expected, rtol=0, atol=1e-5)
            moved += int((place != layer.places[0, head, :, Places.ORIGINAL]).any(dim=-1).sum())
    assert moved > 0 or family.startswith("qwen3")  # there text, not frames, moves time on


def _rotated(text: Any, attention: Any, states: Tensor, place: Tensor) -> Tensor:
    """The family's own rotation of (n, head_dim) at fractional (n, 3) positions."""
    module = sys.modules[type(attention).__module__]
    settings = getattr(text.config, "rope_scaling", None) or text.config.rope_parameters
    position = place.T[:, None] if "mrope_section" in settings else place.T[0][None]
    cos, sin = text.rotary_emb(states, position, *({"full_attention"} & set(settings)))
    rows = states[None, None]
    if hasattr(module, "apply_multimodal_rotary_pos_emb"):
        return module.apply_multimodal_rotary_pos_emb(rows, rows, cos, sin, settings["mrope_section"])[1][0, 0]
    return module.apply_rotary_pos_emb(rows, rows, cos, sin)[1][0, 0]


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_the_rotation_read_off_a_model_is_the_models_own(family: str) -> None:
    model = model_of(family, "eager")
    text = model.get_decoder()
    attention = next(iter(zoo.attentions(model).values()))
    states, place = torch.randn(7, attention.head_dim), torch.randint(0, 50, (7, 3)).float()
    if not adapter_for(model).rope().axes.any():
        place = place[:, :1].expand(-1, 3)
    rope = adapter_for(model).rope()
    torch.testing.assert_close(rope.rotate(states, place), _rotated(text, attention, states, place))
    torch.testing.assert_close(rope.rotate(rope.rotate(states, place), -place), states)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_generation_goes_on_right_after_the_compacted_positions(family: str) -> None:
    model = model_of(family)
    prompt = zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(20, *zoo.grid(family), seed=2), zoo.Text(8, seed=3)])
    with kv.compress(model, "random", "25%", positions="compact"):
        cache = answer(model, zoo.inputs(model, [prompt]), new=4).output.past_key_values
    place = compressed(cache)[0].places[0, 0]
    last, new = place[-4, Places.PRESENT], place[-3:, Places.PRESENT]
    assert new.tolist() == [[last[0] + step] * 3 for step in (1, 2, 3)]
    if "llava" in family:
        assert new[0, 0] < place[-3, 0] / 2


def test_time_shrinks_and_everything_after_moves_up() -> None:
    frames, rows, columns = 8, 2, 3
    ordinal = torch.arange(frames * rows * columns)
    grid = torch.stack([ordinal // 6 + 2, ordinal % 6 // 3 + 2, ordinal % 3 + 2], dim=-1)
    text = torch.tensor([[0] * 3, [1] * 3]), torch.tensor([[10] * 3, [11] * 3])
    position = torch.cat([text[0], grid, text[1]]).float()[None]
    tags = torch.full((1, len(position[0]), Tags.WIDTH), -1, dtype=torch.int32)
    tags[0, :, Tags.INDEX] = torch.arange(len(position[0]))
    tags[0, 2:-2, Tags.SEGMENT] = 0
    new, later = compact(tags, position, [{0: 0.5}], [0], spatial=True)
    assert new[0, :2].tolist() == text[0].tolist()
    assert new[0, 2:-2, 0].unique().tolist() == [2 + step / 2 for step in range(8)]
    assert torch.equal(new[0, 2:-2, 1:], grid[:, 1:].float())
    assert new[0, -2:].tolist() == [[6] * 3, [7] * 3]
    assert later == [4]
    flat = torch.arange(len(position[0])).float()[None, :, None].expand(1, -1, 3)
    new, later = compact(tags, flat, [{0: 0.5}], [0], spatial=False)
    assert new[0, -2:, 0].tolist() == [26, 27]
    assert later == [24]


def test_a_rope_that_depends_on_the_length_cannot_be_compacted() -> None:
    model = zoo.build(zoo.FAMILIES[0])
    config = model.get_decoder().config
    settings = getattr(config, "rope_parameters", None) or config.rope_scaling
    settings["rope_type"] = "dynamic"
    with pytest.raises(kv.UnsupportedModelError, match="dynamic"):
        kv.compress(model, "random", "50%", positions="compact")
    with kv.compress(model, "random", "50%"):
        pass


def test_input_stage_compacts_positions_without_rotating_anything() -> None:
    family = zoo.FAMILIES[0]
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family, 20)])
    with kv.compress(model, "uniform", "25%", positions="compact", stage="input") as run:
        cache = answer(model, inputs, new=3).output.past_key_values
    place = cache.layers[0].places[0, 0]
    frames = place[:-2][cache.layers[0].tags[0, 0, :-2, Tags.SEGMENT] == 0][:, Places.PRESENT][:, 0]
    assert run.report.entries == (60,) * 4
    assert frames.max() - frames.min() <= 10  # 2 positions a second, 5 of 20 frames kept
