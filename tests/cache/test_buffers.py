"""What a layer holds, in buffers that do not grow by concatenation, against tensors that do."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import transformers
import zoo
from generation import answer, model_of, video_prompt
from sessions import TinyProcessor, footage
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.buffers import Buffers
from kvpress_video.cache.forward_pass import ForwardPass, RowState, TokenMetadata, text_tags
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.compressor.entries import Context, Entries, Places, Tags

WIDTHS = (5, 3, 2, 1)


class Naive:
    """The same operations by torch.cat."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []

    def append(self, parts: Sequence[Tensor]) -> None:
        heads = max(part.shape[1] for part in parts)
        wide = [part.expand(-1, heads, -1, -1) for part in parts]
        self.parts = [torch.cat(pair, dim=2) for pair in zip(self.parts, wide, strict=True)] if self.parts else wide

    def assign(self, parts: Sequence[Tensor]) -> None:
        self.parts = [part.clone() for part in parts]

    def drop_last(self, entries: int) -> None:
        self.parts = [part[:, :, : part.shape[2] - entries] for part in self.parts]

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.parts = [change(part) for part in self.parts]


def some(batch: int, heads: int, length: int, *, one_head: bool = False) -> list[Tensor]:
    """Random parts; metadata may come for one head, and stands for all."""
    shapes = [(batch, 1 if one_head and number > 1 else heads, length, width) for number, width in enumerate(WIDTHS)]
    drawn = [torch.randn(shape) for shape in shapes]
    return [*drawn[:2], (drawn[2] * 100).int(), drawn[3]]


def check(found: Buffers, naive: Naive) -> None:
    assert len(found.held) == len(naive.parts)
    for part, wanted in zip(found.held, naive.parts, strict=True):
        assert torch.equal(part, wanted)
        assert part.dtype == wanted.dtype
    assert found.length == naive.parts[0].shape[2] <= found.capacity
    sizes = [part.shape[0] * part.shape[1] * part.shape[3] * part.element_size() for part in naive.parts]
    assert found.bytes == sum(sizes) * found.capacity


@pytest.mark.parametrize("floor", [0, 50, 400])
@pytest.mark.parametrize("seed", range(6))
def test_random_operations_equal_concatenation(seed: int, floor: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    found, naive, batch, heads = Buffers(floor), Naive(), draw.choice([1, 3]), 2
    for step in range(80):
        name = draw.choice(["append"] * 4 + ["assign"] * 2 + ["drop_last", "rows", "repeat"]) if step else "append"
        length = found.length
        if name == "append":
            parts = some(batch, heads, draw.choice([0, 1, 1, 7, 60] if step else [5]), one_head=draw.random() < 0.7)
            found.append(parts), naive.append(parts)
        elif name == "assign":
            parts = some(batch, heads, draw.randint(0, length + 20))
            naive.assign(parts), found.assign(parts)
        elif name == "drop_last":
            entries = draw.randint(0, length)
            found.drop_last(entries), naive.drop_last(entries)
        else:
            rows = torch.tensor([draw.randrange(batch) for _ in range(draw.randint(1, 4))])
            change = (lambda part: part.repeat_interleave(2, dim=0)) if name == "repeat" else None
            change = change if change and batch < 5 else lambda part, rows=rows: part[rows]
            found.map_rows(change), naive.map_rows(change)
            batch = len(naive.parts[0])
        check(found, naive)
        assert found.capacity >= floor


def test_room_that_is_reserved_is_filled_in_place() -> None:
    found, naive = Buffers(floor=300), Naive()
    places: set[int] = set()
    for _ in range(20):  # fill to the cap, compress, fill again
        for length in (100, 1, 99):
            parts = some(1, 2, length)
            found.append(parts), naive.append(parts)
            places.add(found.held[0].data_ptr())
        kept = [part[:, :, ::3].clone() for part in found.held]
        found.assign(kept), naive.assign(kept)
        check(found, naive)
        places.add(found.held[0].data_ptr())
    assert len(places) == 1


def test_growth_takes_few_moves_and_little_spare_room() -> None:
    found, held = Buffers(), []
    moves, before = 0, 0
    for length in range(1, 3001):
        found.append(some(1, 1, 1))
        moves += found.held[0].data_ptr() != before
        before = found.held[0].data_ptr()
        held.append(found.capacity / length)
    assert moves < 40
    assert max(held[1000:]) < 1.2


def test_room_is_given_back_when_little_is_left() -> None:
    found = Buffers()
    found.append(some(1, 2, 5000))
    found.assign(some(1, 2, 100))
    assert found.capacity < 1000


def test_entries_that_are_assigned_are_not_written_to_later() -> None:
    """The caller may still read the tensors it passed."""
    found = Buffers()
    found.append(some(1, 2, 40))
    parts = some(1, 2, 20)
    before = [part.clone() for part in parts]
    found.assign(parts)
    found.drop_last(5)
    found.append(some(1, 2, 5))
    found.assign(some(1, 2, 12))
    for part, wanted in zip(parts, before, strict=True):
        assert torch.equal(part, wanted)


@pytest.mark.parametrize("floor", [0, 500])
def test_what_began_in_inference_mode_goes_on_without_it(floor: int) -> None:
    found, naive = Buffers(floor), Naive()
    for number in range(40):
        with torch.inference_mode(number % 3 == 0), torch.no_grad():
            parts = some(1, 2, 7)
            found.append(parts), naive.append(parts)
            if number % 5 == 4:
                parts = some(1, 2, 9)
                naive.assign(parts), found.assign(parts)
            if number % 7 == 6:
                found.map_rows(lambda part: part[[0]]), naive.map_rows(lambda part: part[[0]])
            found.drop_last(2), naive.drop_last(2)
            check(found, naive)


@pytest.mark.parametrize("trained", ["keys", "values", "both"])
@pytest.mark.parametrize("floor", [0, 100])
def test_gradients_equal_those_of_concatenation(trained: str, floor: int) -> None:
    """Attention after every step looks back at all that is held, and one backward pass goes through all of it."""

    def loss_of(cache: Any) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        weight = torch.full((5,), 1.5, requires_grad=True)
        total = torch.zeros(())
        for step in range(6):
            if step == 3:
                chosen = [part[:, :, ::2].clone() for part in getattr(cache, "held", None) or cache.parts]
                cache.assign(chosen)
            keys, values = torch.randn(1, 2, 4, 5), torch.randn(1, 2, 4, 3)
            keys = keys * weight if trained != "values" else keys
            values = values * weight[:3] if trained != "keys" else values
            cache.append([keys, values])
            keys, values = getattr(cache, "held", None) or cache.parts
            queries = torch.randn(1, 2, 4, 5) * weight  # they always need a gradient, so that both others are saved
            total = total + (queries @ keys.transpose(2, 3)).softmax(-1).matmul(values).square().sum()
        return total, weight

    (ours, found), (wanted, expected) = loss_of(Buffers(floor)), loss_of(Naive())
    ours.backward(), wanted.backward()
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("trained", ["k_proj", "v_proj"])
@pytest.mark.parametrize("prefill", ["split", "chunked"])
def test_one_projection_can_be_trained_through_a_compressed_prefill(trained: str, prefill: Any) -> None:
    """As adapters do that leave the other one frozen. Nothing is evicted, so the stock gradient is the right one."""
    model = zoo.build(zoo.FAMILIES[0], "eager")
    model.requires_grad_(False)
    projections = [getattr(layer.self_attn, trained).requires_grad_(True) for layer in model.get_decoder().layers]
    inputs = zoo.inputs(model, [video_prompt(zoo.FAMILIES[0])])

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(**inputs).logits[:, -1].square().sum().backward()
        return [projection.weight.grad.clone() for projection in projections]

    wanted = gradients()
    options: dict[str, Any] = {"chunk": 24} if prefill == "chunked" else {}
    with kv.compress(model, "van", 10_000 if options else "100%", prefill=prefill, **options):
        found = gradients()
    for ours, stock in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_a_session_at_its_cap_never_moves_its_keys() -> None:
    """Frames come and go, and hundreds of tokens are decoded, in the storage that was there at the beginning."""
    family = zoo.FAMILIES[0]
    session = kv.VideoSession(model_of(family), TinyProcessor(family), "random", budget=40)
    session.push(footage(8))
    before = [layer.keys.untyped_storage().data_ptr() for layer in session.stream.layers]
    places = {tuple(before)}
    for number in range(5):
        session.push(footage(30, seed=number))
        session.ask("What?", max_new_tokens=60, keep=number % 2 == 0)
        places.add(tuple(layer.keys.untyped_storage().data_ptr() for layer in session.stream.layers))
    assert len(places) == 1
    assert min(session.stats.entries) == 40


@pytest.mark.parametrize("frames", [60, 200])
def test_the_buffers_of_a_session_with_a_budget_of_bytes_fit_the_budget_and_a_chunk(frames: int) -> None:
    family, budget = zoo.FAMILIES[0], 400_000
    session = kv.VideoSession(model_of(family), TinyProcessor(family), "random", budget=f"{budget}B", chunk=16,
                              text_room=100)  # fmt: skip
    session.push(footage(frames))
    session.ask("What?", max_new_tokens=20)
    session.push(footage(frames, seed=1))
    entry = session.stats.bytes / sum(layer.physical for layer in session.stream.layers)
    opening = 1 + len(TinyProcessor(family).tokenizer("<|im_end|>\n<|im_start|>user\n<|start|>", False)["input_ids"])
    assert session.stats.reserved_bytes <= budget + (16 + opening) * entry * len(session.stream.layers)


class Reference:
    """A layer as stock transformers would grow it, with its metadata."""

    def __init__(self) -> None:
        self.naive, self.seen = Naive(), 0

    def update(self, keys: Tensor, values: Tensor) -> None:
        batch, heads, length, _ = keys.shape
        index = self.seen + torch.arange(length)
        tags = text_tags(index.expand(batch, -1))[:, None].expand(-1, heads, -1, -1)
        places = index[None, None, :, None].float().expand(batch, heads, -1, Places.WIDTH)
        self.naive.append([keys, values, tags, places])
        self.seen += length


@pytest.mark.parametrize("seed", range(6))
def test_a_layer_equals_concatenation_under_random_use(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    layer, wanted, batch = CompressedLayer(reserve=draw.choice([0, 90])), Reference(), 2
    for step in range(50):
        name = draw.choice(["update"] * 5 + ["evict", "select", "repeat", "crop"]) if step else "update"
        if name == "update":
            keys, values = torch.randn(batch, 2, draw.choice([1, 1, 6, 40]), 8).repeat(2, 1, 1, 1, 1).unbind(0)
            ours = layer.update(keys, -values)
            wanted.update(keys, -values)
            assert torch.equal(ours[0], wanted.naive.parts[0])
            assert torch.equal(ours[1], wanted.naive.parts[1])
        elif name == "evict":
            left = max(1, layer.physical // 2)
            scores = torch.rand(batch, 2, layer.physical)
            chosen = scores.topk(left, dim=-1).indices.sort(dim=-1).values
            entries = layer.entries(Context()).gather(chosen)
            layer.replace(entries, layer.rows)
            wanted.naive.assign([entries.keys, entries.values, entries.tags, entries.places])
        elif name == "select":
            rows = torch.tensor([draw.randrange(batch) for _ in range(2)])
            layer.batch_select_indices(rows)
            wanted.naive.map_rows(lambda part, rows=rows: part[rows])
            batch = len(rows)
        elif name == "repeat":
            layer.batch_repeat_interleave(2), layer.reorder_cache(torch.tensor([0, 2]))
            wanted.naive.map_rows(lambda part: part.repeat_interleave(2, dim=0)[[0, 2]])
        else:
            fresh = (wanted.naive.parts[2][:, :, -3:, Tags.INDEX] == wanted.seen - 3 + torch.arange(3)).all()
            if wanted.naive.parts[2].shape[2] >= 3 and bool(fresh):
                layer.crop(-3)
                wanted.naive.drop_last(3)
                wanted.seen -= 3
        held = (layer.keys, layer.values, layer.tags, layer.places)
        for part, expected in zip(held, wanted.naive.parts, strict=True):
            assert torch.equal(part, expected)
        assert layer.logical == layer.get_seq_length() == wanted.seen
        assert layer.bytes == sum(part.nbytes for part in map(Tensor.contiguous, wanted.naive.parts))
        assert layer.reserved_bytes >= layer.bytes
        assert layer.get_mask_sizes(4) == (layer.physical + 4, wanted.seen - layer.physical)


def test_a_layer_is_empty_again_after_reset() -> None:
    layer = CompressedLayer(reserve=30)
    layer.begin_pass(
        ForwardPass.of(text_tags(torch.arange(3)[None]), torch.zeros(1, 3, Places.WIDTH), 3, [RowState(padding=1)])
    )
    layer.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4))
    assert layer.padded
    layer.reset()
    assert (layer.keys, layer.logical, layer.physical, layer.bytes, layer.padded) == (None, 0, 0, 0, False)
    keys, _ = layer.update(torch.zeros(2, 1, 2, 4), torch.zeros(2, 1, 2, 4))
    assert keys.shape == (2, 1, 2, 4)
    assert not keys.any()
    assert layer.kept.tolist() == [[[0, 1]], [[0, 1]]]


def test_a_layer_shares_no_memory_with_its_inputs_and_outputs() -> None:
    """A restored layer that is compressed and goes on leaves the tensors alone that it was restored from."""
    source = CompressedLayer()
    source.update(torch.randn(1, 2, 30, 8), torch.randn(1, 2, 30, 8))
    parts = [source.keys.clone(), source.values.clone(), source.tags.clone(), source.places.clone()]
    before = [part.clone() for part in parts]
    layer = CompressedLayer()
    layer.restore(parts, 30, [RowState()])
    held = layer.entries(Context())
    entries = Entries(held.keys.flip(2), held.values.clone(), held.tags.clone(), held.places.clone())
    layer.replace(entries, [RowState()])
    for part, wanted in zip(parts, before, strict=True):
        assert torch.equal(part, wanted)


@pytest.mark.skipif(transformers.__version__.startswith("4."), reason="forward() without positions is wrong there")
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_conversation_that_began_in_inference_mode_goes_on_without_it(mode: Any) -> None:
    model = model_of(zoo.FAMILIES[0])
    inputs = zoo.inputs(model, [video_prompt(zoo.FAMILIES[0])])
    with kv.compress(model, "infinipot-v", 30):
        wanted = answer(model, inputs, 6)
        with mode():
            first = answer(model, inputs, 3)
        cache = first.output.past_key_values
        with torch.no_grad():
            logits, token = [], first.tokens[:, -1:]
            for _ in range(3):
                output = model(input_ids=token, past_key_values=cache)
                logits.append(output.logits[:, -1])
                token = output.logits[:, -1:].argmax(-1)
    torch.testing.assert_close(torch.stack(logits, 1), wanted.logits[:, 3:], rtol=0, atol=1e-5)


class Unmade:
    """Metadata that there is no memory for."""

    @property
    def tags(self) -> Tensor:
        raise MemoryError

    places = tags


def test_late_metadata_that_cannot_be_made_is_asked_for_again_or_dropped() -> None:
    """A failure loses nothing; entries that are dropped need no metadata."""
    buffers, parts = Buffers(), some(1, 1, 6)
    buffers.append([part[:, :, :3] for part in parts])

    def of(slot: int) -> TokenMetadata:
        return TokenMetadata(*(part[:, 0, slot : slot + 1] for part in parts[2:]))

    late: list[Any] = [of(3), of(4), Unmade()]
    for slot, metadata in enumerate(late, 3):
        buffers.append_step([part[:, :, slot : slot + 1] for part in parts[:2]], metadata)
    for read in (lambda: buffers.held, lambda: buffers.metadata, lambda: buffers.append([p[:, :, 5:] for p in parts])):
        with pytest.raises(MemoryError):
            read()
        assert buffers.length == 6
    buffers.drop_last(1)
    for held, part in zip(buffers.held, parts, strict=True):
        assert torch.equal(held, part[:, :, :5])
    buffers.append_step([part[:, :, 5:] for part in parts[:2]], of(5))
    buffers.drop_last(2)
    for held, part in zip(buffers.held, parts, strict=True):
        assert torch.equal(held, part[:, :, :4])


def test_a_move_that_fails_halfway_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, parts, calls = Buffers(), some(1, 2, 8), [0]
    buffers.append([part[:, :, :6] for part in parts])

    def filled() -> tuple[Tensor, ...]:
        calls[0] += 1
        held = Buffers._filled(buffers)
        return held if calls[0] == 1 else (*held[:3], held[3][:, :, :2])  # which cannot be copied

    with monkeypatch.context() as patched:
        patched.setattr(buffers, "_filled", filled)
        with pytest.raises(RuntimeError, match="must match"):
            buffers.append([part[:, :, 6:] for part in parts])
    for held, part in zip(buffers.held, parts, strict=True):
        assert torch.equal(held, part[:, :, :6])
