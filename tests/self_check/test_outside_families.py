"""Models of no registered type, as code outside transformers writes them: served, or refused with what to mend."""

from __future__ import annotations

import pytest
import transformers
from generation import answer
from outside_families import Forgetful, OtherNames, OutsideModel, OwnGenerate, WithoutGenerate, outside
from transformers import PreTrainedModel
from unknown_families import prompt_of

import kvpress_video as kv

pytestmark = pytest.mark.skipif(transformers.__version__.startswith("4."), reason="generate() of transformers 5")


@pytest.mark.parametrize(
    ("family", "argument"),
    [(OutsideModel, "patch_positions"), (OtherNames, "image_grid_hws")],
    ids=["a tower that demands coordinates", "names of Kimi-VL"],
)
def test_a_model_that_passes_is_served(family: type[PreTrainedModel], argument: str) -> None:
    model = outside(family)
    assert kv.inspect(model).adapter == "general"
    inputs = prompt_of(model)
    assert argument in inputs
    stock = answer(model, inputs, eos_token_id=None)
    for budget, apart in (("100%", 0), (5, 1)):
        with kv.compress(model, "van", budget) as run:
            logits = answer(model, inputs, eos_token_id=None).logits
        assert bool((logits - stock.logits).abs().max() > 1e-4) == apart
    assert set(run.report.entries) == {5}


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (Forgetful, r"never encodes the pixels.*must pass pixel_values, image_grid_thw, patch_positions on"),
        (OwnGenerate, r"its generate\(\) passes embeddings to that of its language model"),
        (WithoutGenerate, r"its class has no generate\(\)"),
    ],
)
def test_a_refusal_says_what_to_mend(family: type[PreTrainedModel], reason: str) -> None:
    with pytest.raises(kv.UnsupportedModelError, match=reason):
        kv.compress(outside(family), "van", "50%")
