"""Models with recurrent layers beside those of attention: only the latter are compressed, and every row has a state of
its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import zoo
from generation import answer, compressed, model_of, two_videos, video_prompt
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Entries, Queries
from kvpress_video.models import adapter_for

HYBRIDS = [family for family in zoo.FAMILIES if family.startswith("qwen3_5")]
CHUNK = 26  # two frames of twelve tokens
pytestmark = [
    pytest.mark.skipif(not HYBRIDS, reason="no such family in this version"),
    pytest.mark.parametrize("family", HYBRIDS),
]


def prefilled(model: Any, prompts: list[zoo.Prompt]) -> Any:
    """The cache right after the prompts."""
    return model(**zoo.inputs(model, prompts), use_cache=True).past_key_values


def states(cache: Any) -> list[Tensor]:
    """The states of every recurrent layer, rows first."""
    layers = [
        layer for layer in cache.layers if not isinstance(layer, CompressedLayer) and hasattr(layer, "conv_states")
    ]
    return [state for layer in layers for state in (*layer.conv_states.values(), *layer.recurrent_states.values())]


def measured(parts: list[Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in parts)


def questions(family: str, lengths: tuple[int, ...] = (9, 2, 5)) -> list[zoo.Prompt]:
    """Videos of different lengths, and questions of these lengths after them."""
    size = zoo.grid(family)
    return [
        zoo.Prompt([zoo.Text(text, seed=text), zoo.Video(frames, *size, seed=frames), zoo.Text(asked, seed=asked)])
        for text, frames, asked in zip((4, 9, 1), (3, 6, 5), lengths, strict=True)
    ]


@torch.no_grad()
def test_attention_layers_are_compressed_and_the_others_keep_their_stock_caches(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    stock = model(**inputs, use_cache=True).past_key_values
    with kv.compress(model, "van", "50%") as run:
        cache = model(**inputs, use_cache=True).past_key_values
    kinds = model.get_decoder().config.layer_types
    assert [type(layer) is CompressedLayer for layer in cache.layers] == [kind == "full_attention" for kind in kinds]
    pairs = zip(cache.layers, stock.layers, strict=True)
    assert all(type(mine) is type(its) for mine, its in pairs if type(mine) is not CompressedLayer)
    held = {sum(pair) for pair in zip(run.report.entries, run.report.label_entries, strict=True)}
    assert held == {(72 + run.report.label_tokens + 1) // 2}
    assert len(run.report.entries) == kinds.count("full_attention")
    assert cache.get_seq_length() == stock.get_seq_length() == run.report.logical_length
    assert cache.get_mask_sizes(1, 0)[0] == compressed(cache)[0].physical + 1


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_count_the_states(family: str, dtype: torch.dtype) -> None:
    """As they are measured, of a budget that caps them all."""
    model = zoo.build(family, "sdpa", dtype)
    for prompts in ([video_prompt(family)], [video_prompt(family), two_videos(family)]):
        stock = prefilled(model, prompts)
        grown = [part for layer in stock.layers if hasattr(layer, "keys") for part in (layer.keys, layer.values)]
        full = measured(grown + states(stock))
        with kv.compress(model, "van", f"{full}B") as run:
            cache = prefilled(model, prompts)
        kept = [part for layer in compressed(cache) for part in (layer.keys, layer.values, layer.tags, layer.places)]
        assert run.report.full_bytes == full
        assert 0.9 * full < run.report.bytes == measured(kept + states(cache)) <= full
        assert run.report.ratio < 1  # metadata takes its part


@torch.no_grad()
@pytest.mark.parametrize("method", ["van", "snapkv", "streammem"])
@pytest.mark.parametrize("options", [{"budget": "100%"}, {"budget": 10_000}, {"budget": 10_000, "chunk": CHUNK}])
def test_states_go_on_over_parts_and_take_in_no_probes(family: str, method: str, options: dict[str, Any]) -> None:
    """If everything is kept, they equal those of the stock model."""
    model = model_of(family)
    prompt = two_videos(family)
    stock = states(prefilled(model, [prompt]))
    with kv.compress(model, method, **options):
        ours = states(prefilled(model, [prompt]))
    assert len(ours) == len(stock) > 0
    for mine, its in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "budget", "options", "lengths"),
    [
        ("van", "40%", {}, (9, 2, 5)),
        ("snapkv", 20, {}, (9, 2, 5)),
        ("streammem", 20, {}, (7, 7, 7)),  # asks with as many tokens as the shortest question has
        ("random", "40%", {"stage": "input"}, (9, 2, 5)),
    ],
)
def test_states_of_a_padded_batch_are_those_of_its_rows_alone(
    family: str, method: str, budget: Any, options: dict[str, Any], lengths: tuple[int, ...]
) -> None:
    """Rows whose videos, and the questions after them, differ in length: padding comes between what a row says."""
    model, prompts = model_of(family), questions(family, lengths)
    with kv.compress(model, method, budget, **options):
        together = states(prefilled(model, prompts))
        alone = [states(prefilled(model, [prompt])) for prompt in prompts]
    for number, state in enumerate(together):
        for row, single in enumerate(alone):
            torch.testing.assert_close(state[row : row + 1], single[number], rtol=0, atol=2e-5)
    assert (together[-1][0] - together[-1][1]).abs().max() > 1e-2


@torch.no_grad()
def test_rows_without_a_video_start_from_nothing(family: str) -> None:
    """One of them has a single token, so that the first part brings it none."""
    model = model_of(family)
    prompts = [zoo.Prompt([]), video_prompt(family), zoo.Prompt([zoo.Text(30, seed=20)])]
    with kv.compress(model, "van", "40%"):
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("budget", ["50%", 20])
def test_beams_take_their_states_along(family: str, budget: Any) -> None:
    model, prompts = model_of(family), questions(family)
    with kv.compress(model, "van", budget):
        together = model.generate(**zoo.inputs(model, prompts), max_new_tokens=5, num_beams=3)
        alone = [model.generate(**zoo.inputs(model, [prompt]), max_new_tokens=5, num_beams=3) for prompt in prompts]
    assert torch.equal(together[:, -5:], torch.cat([row[:, -5:] for row in alone]))
    inputs = zoo.inputs(model, prompts)
    stock = model.generate(**inputs, max_new_tokens=5, num_beams=3)
    with kv.compress(model, "van", "100%"):
        assert torch.equal(model.generate(**inputs, max_new_tokens=5, num_beams=3), stock)


@torch.no_grad()
def test_a_shared_prefill_gives_every_compression_separate_states(family: str) -> None:
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    once, found = kv.SharedPrefill(), []
    for _ in range(3):
        with kv.compress(model, "van", "40%", shared=once):
            cache = model(**inputs, use_cache=True).past_key_values
        found.append([state.clone() for state in states(cache)])
        for state in states(cache):
            state.fill_(torch.nan)
    assert once.reused == 2
    for first, *others in zip(*found, strict=True):
        assert first.isfinite().all()
        assert all(torch.equal(first, other) for other in others)


@torch.no_grad()
def test_a_second_turn_continues_from_compressed_caches_and_states(family: str) -> None:
    """As token by token, and at a full budget as the stock model."""
    model = model_of(family)
    inputs = zoo.inputs(model, [video_prompt(family)])
    follow = torch.randint(zoo.WORDS.start, zoo.WORDS.stop, (1, 6), generator=torch.Generator().manual_seed(3))

    def continued(pieces: list[Tensor]) -> Tensor:
        cache = model(**inputs, use_cache=True).past_key_values
        return torch.cat([model(input_ids=piece, past_key_values=cache).logits for piece in pieces], dim=1)

    stock = continued([follow])
    with kv.compress(model, "van", "100%"):
        torch.testing.assert_close(continued([follow]), stock, rtol=0, atol=1e-5)
    with kv.compress(model, "van", "30%"):
        at_once, one_by_one = continued([follow]), continued(list(follow.split(1, dim=1)))
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=2e-5)
    assert (at_once - stock).abs().max() > 1e-3


@dataclass(frozen=True)
class Recorder(Compressor):
    """Keeps the shortest keys, and remembers the queries that it was given."""

    window: int = 5
    calls: list[tuple[int, Queries]] = field(default_factory=list, compare=False)

    needs: ClassVar[frozenset[str]] = frozenset({"queries"})

    def scores(self, entries: Entries) -> Tensor:
        assert entries.context.queries is not None
        self.calls.append((entries.context.layer, entries.context.queries))
        return -entries.keys.float().norm(dim=-1)


@torch.no_grad()
def test_the_last_queries_are_without_the_gate(family: str) -> None:
    """The reference projects, splits, norms and rotates with the model's own functions."""
    model = model_of(family, "eager")
    attentions = zoo.attentions(model)
    given: dict[int, dict[str, Any]] = {}

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        given[module.layer_idx] = kwargs

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in attentions.values()]
    method = Recorder()
    try:
        with kv.compress(model, method, "50%", prefill="whole"):
            prefilled(model, [video_prompt(family)])
    finally:
        for handle in handles:
            handle.remove()
    assert [layer for layer, _ in method.calls] == list(range(len(attentions)))
    for (number, module), (_, queries) in zip(attentions.items(), method.calls, strict=True):
        hidden, (cos, sin) = given[number]["hidden_states"], given[number]["position_embeddings"]
        projected = module.q_proj(hidden).view(*hidden.shape[:2], -1, 2 * module.head_dim)
        wanted = module.q_norm(projected.chunk(2, dim=-1)[0]).transpose(1, 2)
        rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb
        wanted = rotate(wanted, wanted, cos, sin)[0][:, :, -method.window :] * module.scaling
        torch.testing.assert_close(queries.states, wanted, rtol=0, atol=1e-5)


def test_the_recurrent_modules_are_left_as_they_were(family: str) -> None:
    model = zoo.build(family)
    modules = adapter_for(model).recurrences
    assert list(modules) == [0, 2]
    replaced: list[bool] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        replaced.append("forward" in vars(module))

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules.values()]
    with kv.compress(model, "van", "50%"):
        prefilled(model, questions(family))  # rows of different lengths: chunks are padded
        assert any(replaced)
        assert not any("forward" in vars(module) for module in modules.values())
    for handle in handles:
        handle.remove()
    assert all(len(module._forward_pre_hooks) == 0 for module in modules.values())
