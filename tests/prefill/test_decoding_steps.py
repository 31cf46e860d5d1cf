"""What a decoding step of a compressed cache does beyond the stock model's: counted, so that it holds at any speed."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import zoo
from generation import video_prompt
from operations import Operations
from transformers.cache_utils import DynamicCache

import kvpress_video as kv
from kvpress_video.cache.adoption import layers_of

FAMILY = "qwen2_5_vl"
PACKAGE = str(Path(kv.__file__).parent)
LAYERS = 4


def own_calls(work: Any) -> int:
    """Number of functions of the package that a call enters."""
    found = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal found
        found += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def step(model: Any, cache: Any) -> None:
    ids = torch.full((1, 1), 5)
    model(input_ids=ids, past_key_values=cache, position_ids=ids.new_full((3, 1, 1), cache.get_seq_length()))


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.build(FAMILY, "sdpa", layers=LAYERS)


@pytest.fixture(params=["100%", 24], ids=["all held", "capped"])
def decoding(request: pytest.FixtureRequest, model: Any) -> tuple[Any, Any]:
    """A compression that has answered, and its cache, which has room for more tokens."""
    prompt = zoo.inputs(model, [video_prompt(FAMILY)])
    with torch.no_grad(), kv.compress(model, "key-norm", request.param) as run:
        cache = model.generate(**prompt, max_new_tokens=3, return_dict_in_generate=True).past_key_values
    return run, cache


@torch.no_grad()
def test_a_step_writes_and_views_and_does_nothing_else_with_tensors(model: Any, decoding: tuple[Any, Any]) -> None:
    run, cache = decoding
    stock = DynamicCache(config=model.get_decoder().config)
    for number, layer in enumerate(layers_of(cache)):
        stock.update(layer.keys.clone(), layer.values.clone(), number)
    with Operations() as plain:
        step(model, stock)
    with run:
        step(model, cache)  # the first step of a compression may move to a larger room
        with Operations() as ours:
            step(model, cache)
    more = Counter(ours.counts)
    more.subtract(plain.counts)
    assert {name: count for name, count in more.items() if count} == {
        "cat": -2 * LAYERS, "slice": 4 * LAYERS, "copy_": 2 * LAYERS
    }  # fmt: skip


@torch.no_grad()
def test_a_step_enters_few_functions(model: Any, decoding: tuple[Any, Any]) -> None:
    run, cache = decoding
    with run:
        step(model, cache)
        found = own_calls(lambda: step(model, cache))
    assert found <= 58 + 16 * LAYERS  # the call itself, and each layer
