"""Probes: text that asks at the end of each chunk, for methods that look at attention, and that nobody ever sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import zoo
from generation import answer, model_of, two_videos, video_prompt
from reference_masks import masked_answer, noted, view_of
from torch import Tensor
from transformers import DynamicCache

import kvpress_video as kv
from kvpress_video.compressor.base import Compressor
from kvpress_video.compressor.entries import Entries, Queries

ATTENTIONS = ("eager", "sdpa")
QWEN = zoo.FAMILIES[0]
CHUNK = 26  # two frames of Qwen's twelve tokens, one of LLaVA's sixteen or nine


@dataclass(frozen=True)
class Recorder(Compressor):
    """Keeps the shortest keys, and remembers the queries that it was given."""

    probe: int = 3
    calls: list[tuple[int, Queries, Entries]] = field(default_factory=list, compare=False)

    needs: ClassVar[frozenset[str]] = frozenset({"probe"})

    def scores(self, entries: Entries) -> Tensor:
        assert entries.context.queries is not None
        everything = torch.arange(len(entries)).expand(entries.keys.shape[:3])
        self.calls.append((entries.context.layer, entries.context.queries, entries.gather(everything)))
        return -entries.keys.float().norm(dim=-1)


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_probes_change_nothing_where_everything_is_kept(family: str, positions: Any) -> None:
    model = model_of(family, "eager")
    for prompts in (zoo.default_prompts(family), [two_videos(family)]):
        inputs = zoo.inputs(model, prompts)
        stock = answer(model, inputs)
        with kv.compress(model, Recorder(), 10_000, chunk=CHUNK, positions=positions) as run:
            ours = answer(model, inputs)
        assert run.report.prefill == "chunked"
        torch.testing.assert_close(ours.logits, stock.logits, rtol=0, atol=1e-5)


def test_answers_of_a_method_with_probes_equal_the_masked_stock_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes of earlier chunks were seen by nobody, and none of them is left."""
    model = model_of(QWEN, "eager")
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    length = inputs["input_ids"].shape[1]
    with noted(monkeypatch) as log, kv.compress(model, Recorder(), 20, chunk=CHUNK) as run:
        ours = answer(model, inputs)
    ends = [int(index[0, -1 - Recorder.probe]) + 1 for _, _, index in log.came[0][:3]] + [length]
    columns = [torch.arange(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    visual = {slot.token for slot in zoo.expected_layout(QWEN, video_prompt(QWEN))}
    for passes in log.kept.values():
        for kept, seen in zip(passes, ends, strict=False):
            for head in kept[0].tolist():
                assert head == sorted(set(head))
                assert head[-1] < seen
                assert set(range(seen)) - visual <= set(head)
    assert run.report.entries == (20,) * 4
    assert run.report.text_entries == length - len(visual)
    masked = masked_answer(model, inputs, ours.tokens, view_of(log, length, columns))
    torch.testing.assert_close(ours.logits, masked, rtol=0, atol=1e-5)


def _heads(states: Tensor) -> Tensor:
    return states.unflatten(-1, (-1, 16)).transpose(1, 2)


def _turned(states: Tensor, positions: Tensor) -> Tensor:
    """Qwen2.5-VL's rotation of (1, heads, n, 16) by (3, n) positions: sections of 2, 3 and 3 of 8 frequencies."""
    frequencies = 10000.0 ** -(torch.arange(8) / 8)
    axis = torch.tensor([0] * 2 + [1] * 3 + [2] * 3)
    angle = positions[axis].T.double() * frequencies
    first, second = states.double().chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@torch.no_grad()
def _states(model: Any, arguments: dict[str, Any], columns: Tensor, positions: Tensor, masks: list[Tensor]) -> list:
    """The stock decoder on some columns of a prompt: per layer its projected, rotated queries and keys."""
    projected: dict[str, list[Tensor]] = {"q_proj": [], "k_proj": []}
    groups, lowest = 2, torch.finfo(torch.float32).min

    def mask(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        wide = masks[module.layer_idx].repeat_interleave(groups, dim=0)[None]
        kwargs["attention_mask"] = torch.zeros(wide.shape).masked_fill(~wide, lowest)
        return args, kwargs

    handles = []
    for layer in model.get_decoder().layers:
        handles.append(layer.self_attn.register_forward_pre_hook(mask, with_kwargs=True))
        for name, found in projected.items():
            projection = getattr(layer.self_attn, name)
            handles.append(projection.register_forward_hook(lambda *a, found=found: found.append(a[2])))
    try:
        model.get_decoder()(
            inputs_embeds=arguments["inputs_embeds"][:, columns],
            position_ids=positions[:, None],
            past_key_values=DynamicCache(config=model.config),
        )
    finally:
        for handle in handles:
            handle.remove()
    pairs = zip(projected["q_proj"], projected["k_proj"], strict=True)
    return [(_turned(_heads(q), positions), _turned(_heads(k), positions)) for q, k in pairs]


@torch.no_grad()
def _arguments(model: Any, inputs: dict[str, Tensor]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    handle = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    try:
        answer(model, inputs, 1)
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize("probe", [1, 3])
def test_the_queries_are_those_of_text_right_after_each_chunk(probe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock decoder on all tokens so far and the last tokens of the prompt, masked to what was kept by then."""
    model = model_of(QWEN, "eager")
    inputs = zoo.inputs(model, [video_prompt(QWEN)])
    length = inputs["input_ids"].shape[1]
    arguments = _arguments(model, inputs)
    method = Recorder(probe)
    with noted(monkeypatch) as log, kv.compress(model, method, 20, chunk=CHUNK):
        answer(model, inputs, 1)
    came = [index[0, :-probe].long() for _, _, index in log.came[0][:3]]
    assert torch.equal(log.came[0][1][2][0, -probe:].long(), torch.arange(length - probe, length))
    view = view_of(log, length, came)
    calls = [method.calls[start : start + 4] for start in range(0, len(method.calls), 4)]
    assert [layer for layer, _, _ in calls[0]] == [0, 1, 2, 3]
    assert len(calls) == 3
    asking = torch.arange(length - probe, length)
    own = arguments["position_ids"][-3:, 0]
    for number, call in enumerate(calls):
        seen = torch.cat(came[: number + 1])
        columns = torch.cat([seen, asking])
        start = int(own[:, seen].max()) + 1
        positions = torch.cat([own[:, seen], (start + torch.arange(probe)).expand(3, -1)], dim=1)
        masks = []
        for visible in view.layers:
            wide = torch.zeros(2, len(columns), len(columns), dtype=torch.bool)
            wide[:, : len(seen), : len(seen)] = visible[:, seen][..., seen]
            wide[:, len(seen) :, : len(seen)] = visible[:, seen[-1:], :][..., seen]
            wide[:, len(seen) :, len(seen) :] = torch.ones(probe, probe, dtype=torch.bool).tril()
            masks.append(wide)
        for (_, queries, entries), (states, keys), mask in zip(
            call, _states(model, arguments, columns, positions, masks), masks, strict=True
        ):
            wanted = states[:, :, -probe:] * 16**-0.5
            torch.testing.assert_close(queries.states.double(), wanted, rtol=0, atol=1e-5)
            logits = wanted @ keys.repeat_interleave(2, dim=1).transpose(2, 3)
            blind = ~mask[:, -probe:].repeat_interleave(2, dim=0)
            normaliser = logits.masked_fill(blind, -torch.inf).logsumexp(-1)
            torch.testing.assert_close(queries.normaliser.double(), normaliser, rtol=0, atol=1e-5)
            assert queries.index.tolist() == [asking.tolist()]
            assert int(entries.index.max()) <= int(seen[-1])


@pytest.mark.parametrize("positions", ["keep", "compact"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_probes_of_a_padded_batch_are_those_of_its_rows_alone(attention: str, positions: Any) -> None:
    model = model_of(QWEN, attention)
    size = zoo.grid(QWEN)
    prompts = [
        zoo.Prompt([zoo.Text(before, seed=before), zoo.Video(4, *size, seed=before), zoo.Text(after, seed=after)])
        for before, after in ((5, 7), (2, 9), (8, 4))
    ]
    found = Recorder()
    with kv.compress(model, found, 20, chunk=24, positions=positions):
        together = answer(model, zoo.inputs(model, prompts))
    for row, prompt in enumerate(prompts):
        single = Recorder()
        with kv.compress(model, single, 20, chunk=24, positions=positions):
            alone = answer(model, zoo.inputs(model, [prompt]))
        torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=0, atol=2e-5)
        wanted = [queries for _, queries, _ in single.calls]
        mine = _row_calls(found.calls, row, len(prompts))
        assert len(mine) == len(wanted)
        for (states, normaliser), queries in zip(mine, wanted, strict=True):
            torch.testing.assert_close(states, queries.states[0], rtol=0, atol=2e-5)
            torch.testing.assert_close(normaliser, queries.normaliser[0], rtol=0, atol=2e-5)


def _row_calls(calls: list, row: int, rows: int) -> list[tuple[Tensor, Tensor]]:
    """A method sees rows of one layout at once: here each alone, or all together, in their order."""
    found, waiting = [], 0
    for _, queries, _ in calls:
        count = len(queries.states)
        if waiting <= row < waiting + count:
            found.append((queries.states[row - waiting], queries.normaliser[row - waiting]))
        waiting = (waiting + count) % rows
    return found


def test_rows_that_share_their_video_but_not_their_question_have_their_own_probes() -> None:
    """The last tokens differ, so the chunks are not the same: the answers are those of each row alone."""
    model = model_of(QWEN)
    video = zoo.Video(6, *zoo.grid(QWEN), seed=2)
    prompts = [zoo.Prompt([zoo.Text(4, seed=1), video, zoo.Text(length, seed=length)]) for length in (8, 3)]
    with kv.compress(model, Recorder(), 20, chunk=24):
        together = answer(model, zoo.inputs(model, prompts))
        alone = [answer(model, zoo.inputs(model, [prompt])) for prompt in prompts]
    for row, single in enumerate(alone):
        torch.testing.assert_close(together.logits[row], single.logits[0], rtol=0, atol=2e-5)


def test_more_probes_than_text_after_the_video() -> None:
    model = model_of(QWEN)
    prompt = zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(6, *zoo.grid(QWEN), seed=2), zoo.Text(1, seed=3)])
    method = Recorder(probe=10)
    with kv.compress(model, method, 20, chunk=24):
        answer(model, zoo.inputs(model, [prompt]), 1)
    assert {queries.states.shape[2] for _, queries, _ in method.calls} == {2}  # vision end and one word


def test_probes_need_text_after_the_video() -> None:
    family = "llava_next_video"
    if family not in zoo.FAMILIES:
        pytest.skip("no such family in this version")
    prompt = zoo.Prompt([zoo.Text(4, seed=1), zoo.Video(6, *zoo.grid(family), seed=2)])
    with (
        kv.compress(model_of(family), Recorder(), 20, chunk=18),
        pytest.raises(kv.MissingInputError, match="put text after it"),
    ):
        answer(model_of(family), zoo.inputs(model_of(family), [prompt]), 1)


@pytest.mark.parametrize(
    ("need", "missing"), [("queries", "window"), ("probe", "probe"), ("vision_attention", "n and tokens")]
)
def test_a_need_without_its_setting_is_an_error_at_once(need: str, missing: str) -> None:
    @dataclass(frozen=True)
    class Forgetful(Compressor):
        needs: ClassVar[frozenset[str]] = frozenset({need})

    with pytest.raises(kv.MissingInputError, match=f"no setting {missing},"):
        kv.compress(model_of(QWEN), Forgetful(), "50%")
