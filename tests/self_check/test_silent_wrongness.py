"""Prompts and models on which a general adapter could go wrong without an error."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
import transformers
from generation import answer
from torch import Tensor
from unknown_families import maker_of, model_of, prompt_of, tiny

import kvpress_video as kv
from kvpress_video.compressor.entries import Grid, Kind, Tags
from kvpress_video.self_check.check import padded_rows
from kvpress_video.self_check.prompts import PromptMaker

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="families of transformers 5")

BOTH = "muse_glimmer"  # images and videos, sliding layers


def joined(*prompts: dict[str, Tensor]) -> dict[str, Tensor]:
    """One row after the other: tokens and pixels."""
    dims = {"input_ids": 1, "attention_mask": 1}
    names = dict.fromkeys(name for prompt in prompts for name in prompt)
    return {name: torch.cat([prompt[name] for prompt in prompts if name in prompt], dim=dims.get(name, 0))
            for name in names}  # fmt: skip


def wider(maker: PromptMaker) -> PromptMaker:
    """A maker of images of four times the tokens."""
    (pixels, patches), (name, grid) = maker.arguments.items()
    rows, columns = 2 * maker.grid.rows, 2 * maker.grid.columns
    return replace(
        maker,
        arguments={pixels: patches.repeat(4, 1), name: grid * torch.tensor([1, 2, 2])},
        grid=Grid(1, rows, columns),
    )


def check(model: Any, inputs: dict[str, Tensor], seen: int) -> kv.Report:
    """Compress as nothing and to half, and return the report of the half."""
    stock = answer(model, inputs, eos_token_id=None)
    with kv.compress(model, "random", "100%"):
        full = answer(model, inputs, eos_token_id=None)
    torch.testing.assert_close(full.logits, stock.logits, rtol=0, atol=1e-4)
    with kv.compress(model, "random", "50%") as run:
        half = answer(model, inputs, eos_token_id=None)
    assert run.report.visual_tokens == seen
    assert set(run.report.entries) == {seen // 2}
    assert (half.logits[:, 1:] - stock.logits[:, 1:]).abs().max() > 1e-3
    return run.report


def test_images_and_videos_take_turns() -> None:
    model = model_of(BOTH)
    image, video = maker_of(model), maker_of(model, Kind.VIDEO)
    inputs = joined(image.prompt(1, seed=1), video.prompt(1, seed=2), image.prompt(1, seed=3), video.prompt(1, seed=4))
    report = check(model, inputs, 2 * (image.grid.tokens + video.grid.tokens))
    assert report.label_tokens == 0
    with kv.compress(model, "full", "100%"):
        output = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True)
    tags = output.past_key_values.layers[1].tags[0, 0]
    kinds = [tags[tags[:, Tags.SEGMENT] == segment, Tags.KIND].tolist() for segment in range(4)]
    wanted = [[int(maker.kind)] * maker.grid.tokens for maker in (image, video)]
    assert kinds == wanted * 2


def test_images_of_two_sizes() -> None:
    model = model_of(BOTH)
    small = maker_of(model)
    large = wider(small)
    inputs = joined(small.prompt(1, seed=1), large.prompt(1, seed=2), small.prompt(1, seed=3))
    check(model, inputs, 2 * small.grid.tokens + large.grid.tokens)


def test_a_padded_batch_equals_its_rows_alone() -> None:
    model = model_of("llava")
    maker = maker_of(model)
    batch = padded_rows(maker)
    padding = (batch["attention_mask"] == 0).sum(dim=1).tolist()
    assert max(padding) > 0 == min(padding)
    with kv.compress(model, "key-norm", 7):
        together = answer(model, batch, eos_token_id=None).logits
    for row, start in enumerate(padding):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone |= {name: alone[name][:, start:] for name in ("input_ids", "attention_mask")}
        with kv.compress(model, "key-norm", 7):
            logits = answer(model, alone, eos_token_id=None).logits
        torch.testing.assert_close(together[row : row + 1], logits, rtol=0, atol=1e-4)


def test_a_prompt_without_pixels_is_unchanged() -> None:
    model = model_of("llava")
    maker = maker_of(model)
    ids = torch.tensor([maker.words(12, torch.Generator().manual_seed(0))])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    stock = answer(model, inputs, eos_token_id=None)
    with kv.compress(model, "random", 3) as run:
        mine = answer(model, inputs, eos_token_id=None)
    torch.testing.assert_close(mine.logits, stock.logits, rtol=0, atol=1e-4)
    assert all(not report.visual_tokens for report in run.reports)


def _shifted(call: Any) -> Any:
    @wraps(call)
    def mask(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs).roll(1, dims=1)

    return mask


def test_a_mask_that_lies_about_placeholders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels end up one token further than the placeholders that the configuration names."""
    model = tiny("llava")
    monkeypatch.setattr(model.model, "get_placeholder_mask", _shifted(model.model.get_placeholder_mask))
    assert "in its configuration and" in kv.inspect(model).unsupported


def test_a_forward_that_lies_about_placeholders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask is right where it is asked, and pixels go elsewhere in a prompt."""
    model = tiny("llava")
    honest = model.model.get_placeholder_mask

    def mask(input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Any:
        found = honest(input_ids, inputs_embeds, image_features)
        return found if input_ids.shape[1] > 400 else found.roll(1, dims=1)

    monkeypatch.setattr(model.model, "get_placeholder_mask", mask)
    assert "not at a placeholder token" in kv.inspect(model).unsupported


def test_pixels_without_a_placeholder_are_refused() -> None:
    """The model scatters them where another token stands, which its configuration does not name."""
    model = tiny("llava")
    maker = maker_of(model)
    prompt = maker.prompt()
    other = maker.words(1, torch.Generator().manual_seed(1))[0]
    hidden = prompt | {"input_ids": prompt["input_ids"].where(prompt["input_ids"] != maker.placeholder, other)}
    model.config.image_token_id = other
    with kv.compress(model, "random", "50%"), pytest.raises(kv.UnsupportedModelError, match="holds no placeholder"):
        answer(model, hidden, eos_token_id=None)
    model.config.image_token_id = maker.placeholder
    with kv.compress(model, "random", "50%") as run:
        answer(model, prompt, eos_token_id=None)
    assert run.report.ratio == 0.5


def test_pixels_that_were_encoded_for_nothing_are_forgotten() -> None:
    """Features from the user's own encoding, or from a failed prompt, do not leak into a later text prompt."""
    model = model_of("llava")
    maker = maker_of(model)
    text = torch.tensor([maker.words(12, torch.Generator().manual_seed(0))])
    with kv.compress(model, "random", 3) as run:
        model.get_image_features(**maker.arguments)
        answer(model, {"input_ids": text, "attention_mask": torch.ones_like(text)}, eos_token_id=None)
    assert not run.reports


def test_a_mask_over_placeholders_is_refused() -> None:
    model = model_of("llava")
    prompt = prompt_of(model, items=1)
    prompt["attention_mask"][0, 5:9] = 0
    with kv.compress(model, "random", 3), pytest.raises(kv.UnsupportedModelError, match="hides 4 image placeholder"):
        answer(model, prompt, eos_token_id=None)
