"""The zoo itself: its models run as stock transformers does, and its layouts are true."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

NEW_TOKENS = 6


@pytest.fixture(
    params=[(family, attention) for family in zoo.FAMILIES for attention in ("eager", "sdpa")], ids="-".join
)
def model(request: pytest.FixtureRequest) -> Any:
    return zoo.build(*request.param)


def generate(model: Any, prompts: list[zoo.Prompt]) -> tuple[Tensor, Tensor]:
    """The new tokens, and the logits of the first of them."""
    found = model.generate(
        **zoo.inputs(model, prompts), max_new_tokens=NEW_TOKENS, output_logits=True, return_dict_in_generate=True
    )
    return found.sequences[:, -NEW_TOKENS:], found.logits[0]


@torch.no_grad()
def entering(model: Any, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """Input of the text model."""
    seen: dict[str, Any] = {}
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    return seen


def moved(model: Any, inputs: dict[str, Tensor], changed: dict[str, Tensor]) -> Tensor:
    """Change of each token of the first row at the input of the text model, for a change of the inputs."""
    before, after = (entering(model, found)["inputs_embeds"][0] for found in (inputs, inputs | changed))
    return (after - before).abs().amax(dim=-1)


@pytest.mark.sampled
def test_a_left_padded_batch_equals_its_rows_alone(model: Any) -> None:
    prompts = zoo.default_prompts(model.config.model_type)
    tokens, logits = generate(model, prompts)
    alone = [generate(model, [prompt]) for prompt in prompts]
    assert torch.equal(tokens, torch.cat([row for row, _ in alone]))
    torch.testing.assert_close(logits, torch.cat([row for _, row in alone]), atol=1e-4, rtol=0)


def test_decoding_says_different_words(model: Any) -> None:
    prompts = zoo.default_prompts(model.config.model_type)
    tokens, logits = generate(model, prompts)
    assert len(set(tokens.flatten().tolist())) > len(prompts)
    assert all(token in zoo.WORDS for token in tokens.flatten().tolist())
    assert logits.std(dim=-1).min() > 0.5


def test_a_model_has_the_same_weights_at_every_call_and_the_attention_asked_for(model: Any) -> None:
    attention = model.config._attn_implementation
    family = model.config.model_type
    state, again = model.state_dict(), zoo.build(family, attention).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in state.items())
    used = {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}
    assert used == {attention}


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_layouts_name_the_placeholders(family: str) -> None:
    """All of them, but for the newlines of LLaVA."""
    model = zoo.build(family)
    prompts = zoo.default_prompts(family)
    names = {"image": zoo.IMAGE, "video": zoo.IMAGE if zoo.TABLE[family].frames_are_images else zoo.VIDEO}
    newlines = {"llava_onevision": [1, 2, 6], "llava_next_video": [0, 0, 6]}.get(family, [0, 0, 0])
    assert len({len(zoo.inputs(model, [prompt])["input_ids"][0]) for prompt in prompts}) == len(prompts)
    for prompt, missing in zip(prompts, newlines, strict=True):
        ids = zoo.inputs(model, [prompt])["input_ids"][0]
        layout = zoo.expected_layout(family, prompt)
        kinds = {slot.token: slot.kind for slot in layout}
        assert all(ids[slot.token] == names[slot.kind] for slot in layout)
        assert sum(token in (zoo.IMAGE, zoo.VIDEO) for token in ids.tolist()) == len(kinds) + missing
        assert len({slot[1:] for slot in layout}) == len(layout)


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("frame", [0, 2])
def test_a_changed_frame_changes_its_own_tokens_and_the_answer(family: str, frame: int) -> None:
    model = zoo.build(family)
    prompt = zoo.default_prompts(family)[0]
    inputs = zoo.inputs(model, [prompt])
    name = zoo.video_input(family)
    pixels = inputs[name].clone()
    pixels.view(3, -1)[frame] += 1
    changed = {name: pixels}
    tokens = moved(model, inputs, changed).nonzero().flatten().tolist()
    assert tokens == [slot.token for slot in zoo.expected_layout(family, prompt) if slot.frame == frame]
    with torch.no_grad():
        gap = model(**inputs | changed).logits[:, -1] - model(**inputs).logits[:, -1]
    assert gap.abs().max() > 0.01


@pytest.mark.parametrize("family", [family for family in zoo.FAMILIES if "qwen" in family])
def test_rows_and_columns_are_those_of_the_rotary_positions(family: str) -> None:
    model = zoo.build(family)
    for prompt in zoo.default_prompts(family):
        positions = entering(model, zoo.inputs(model, [prompt]))["position_ids"][:, 0]
        layout = zoo.expected_layout(family, prompt)
        starts = {slot[1:4]: positions[:, slot.token] for slot in layout if slot.row == slot.col == 0}
        for slot in layout:
            assert (positions[:, slot.token] - starts[slot[1:4]]).tolist() == [0, slot.row, slot.col]


SQUARE = [family for family in zoo.FAMILIES if "llava" in family or zoo.TABLE[family].frames_are_images]


@pytest.mark.parametrize("family", SQUARE)
def test_rows_and_columns_are_those_of_the_pixels(family: str) -> None:
    """The token that moves most with the top right corner of a frame, of a base view and of a high-resolution view."""
    model = zoo.build(family)
    prompt = zoo.default_prompts(family)[2]
    inputs, layout = zoo.inputs(model, [prompt]), zoo.expected_layout(family, prompt)
    (_, cols), (side, wide) = zoo.grid(family), zoo.grid(family, "image")
    if zoo.TABLE[family].frames_are_images:  # an image before them
        corners = [("pixel_values", 2, ("video", 1, 1, 0, cols - 1)), ("pixel_values", 0, ("image", 0, 0, 0, wide - 1))]
    else:
        corners = [
            ("pixel_values_videos", 1, ("video", 1, 1, 0, cols - 1)),
            ("pixel_values", 0, ("image", 0, 0, 0, side - 1)),
            ("pixel_values", 2, ("image", 0, 0, side, wide - 1)),
        ]
    for name, view, place in corners:
        pixels = inputs[name].clone()
        pixels.flatten(0, -4)[view, :, : zoo.PATCH, -zoo.PATCH :] += 1
        most = moved(model, inputs, {name: pixels}).argmax()
        assert [slot[1:] for slot in layout if slot.token == most] == [place]
