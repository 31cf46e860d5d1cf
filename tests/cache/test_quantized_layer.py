"""Quantised entries: how far they are from what they were, what they take, and that nothing adds up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.forward_pass import RowState
from kvpress_video.cache.packing import pack_keys, pack_values, unpack_keys, unpack_values
from kvpress_video.cache.quantization import NBITS, Quantization, canonical
from kvpress_video.cache.quantized_layer import QuantizedLayer, quantized_layers
from kvpress_video.compressor.entries import Context

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
GROUP, WIDTH, HEADS = 8, 16, 2


def states(length: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Some channels are far from zero, as those of keys are."""
    draw = torch.Generator().manual_seed(seed)
    far = 20 * (torch.arange(WIDTH) % 4 == 0)
    return (torch.randn(1, HEADS, length, WIDTH, generator=draw) + far).to(dtype)


def layer(residual: int = GROUP, nbits: int = 4) -> QuantizedLayer:
    [made] = quantized_layers(Quantization(nbits, GROUP, residual), 1, rows=[RowState()])
    return made


def packed(one: QuantizedLayer) -> list[Tensor]:
    return [part.clone() for part in one._buffers._bank.held]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nbits", NBITS)
def test_an_error_is_at_most_half_a_step(nbits: int, dtype: torch.dtype) -> None:
    """A step of values is the range of the group over the highest code; the power of two above it is one of keys."""
    given, top = states(4 * GROUP, 1, dtype), 2**nbits - 1
    rounding = torch.finfo(dtype).eps * 32
    grouped = given.float().unflatten(2, (-1, GROUP))
    step = (grouped.amax(3) - grouped.amin(3)) / top
    found = unpack_keys(pack_keys(given, nbits, GROUP), nbits, GROUP, dtype)
    error = (found.float() - given.float()).abs().unflatten(2, (-1, GROUP)).amax(3)
    assert (error <= step + rounding).all()
    assert dtype == torch.bfloat16 or (error > step / 4).float().mean() > 0.5
    grouped = given.float().unflatten(-1, (-1, GROUP))
    step = (grouped.amax(-1) - grouped.amin(-1)) / top
    found = unpack_values(pack_values(given, nbits, GROUP), nbits, GROUP)
    error = (found.float() - given.float()).abs().unflatten(-1, (-1, GROUP)).amax(-1)
    assert (error <= step / 2 + rounding).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nbits", NBITS)
def test_what_was_unpacked_packs_to_itself(nbits: int, dtype: torch.dtype) -> None:
    keys = unpack_keys(pack_keys(states(4 * GROUP, 2, dtype), nbits, GROUP), nbits, GROUP, dtype)
    assert torch.equal(unpack_keys(pack_keys(keys, nbits, GROUP), nbits, GROUP, dtype), keys)
    values = unpack_values(pack_values(states(9, 3, dtype), nbits, GROUP), nbits, GROUP)
    assert torch.equal(unpack_values(pack_values(values, nbits, GROUP), nbits, GROUP), values)


@pytest.mark.parametrize("nbits", NBITS)
def test_bytes_counted_are_those_of_the_tensors(nbits: int) -> None:
    one = layer(nbits=nbits)
    given = states(50, 4)
    one.update(given, given)
    one.replace(one.entries(Context()).gather(torch.arange(43).expand(1, HEADS, -1)), one.rows)
    recent, metadata = 43 - 32, 43 * HEADS * 4 * 10
    assert one.bytes == sum(part.nbytes for part in packed(one)) + recent * HEADS * WIDTH * 8 + metadata
    assert sum(part.nbytes for part in packed(one)) == 32 * HEADS * Quantization(nbits, GROUP).bytes(WIDTH, 4)


def test_a_prefix_that_stays_is_never_packed_again_and_nothing_drifts() -> None:
    """200 passes: of 8 new entries and those after the first 32, 40 stay, others in each head."""
    one, draw = layer(residual=0), torch.Generator().manual_seed(5)
    known = states(72 + 8 * 200, 6)
    one.update(known[:, :, :72], known[:, :, :72])
    first = [part[:, :, : (32 if part.shape[2] > 20 else 4)].clone() for part in packed(one)]
    values: dict[tuple[int, int], Tensor] = {}
    coarsest = torch.zeros(HEADS, WIDTH)
    for step in range(200):
        new = known[:, :, 72 + 8 * step :][:, :, :8]
        one.update(new, new)
        entries = one.entries(Context())
        slots = 32 + torch.rand(1, HEADS, len(entries) - 32, generator=draw).topk(40).indices.sort(dim=-1).values
        slots = torch.cat([torch.arange(32).expand(1, HEADS, -1), slots], dim=-1)
        one.replace(entries.gather(slots), one.rows)
        coarsest = torch.maximum(coarsest, one._buffers._bank.held[3].float().exp2().amax(dim=(0, 2)))
        read = one.values[0]
        for head, indices in enumerate(one.kept[0, :, ::7].tolist()):
            for number, index in enumerate(indices):
                value = read[head, 7 * number]
                assert torch.equal(values.setdefault((head, index), value), value)
    for part, before in zip(packed(one), first, strict=True):
        assert torch.equal(part[:, :, : before.shape[2]], before)
    at = one.kept.long()[..., None].expand(-1, -1, -1, WIDTH)
    assert ((one.keys - known.gather(2, at)).abs() <= coarsest[None, :, None]).all()


def test_a_question_leaves_no_trace() -> None:
    one = layer(residual=16)
    given, text = states(90, 7), states(60, 8)
    one.update(given, given)
    before, keys, values = packed(one), one.keys, one.values
    mark = one.mark()
    one.update(text, text)
    assert one._buffers._bank.length > len(before[0][0, 0])
    one.rewind(mark)
    assert torch.equal(one.keys, keys)
    assert torch.equal(one.values, values)
    assert all(torch.equal(*pair) for pair in zip(packed(one), before, strict=True))


def test_what_is_dropped_from_a_packed_group_leaves_the_rest_of_it_as_it_was_read() -> None:
    one = layer()
    given = states(50, 9)
    read = one.update(given, given)[0]
    assert torch.equal(read, given)  # attention of the pass itself sees what came
    keys = one.keys
    one.drop_last(21)
    assert one.physical == 29
    assert torch.equal(one.keys, keys[:, :, :29])


@pytest.mark.parametrize("given", [3, "5", True, 4.0, "4:bits=2", "4:residual_length=-1", "4:q_group_size=0", "half"])
def test_settings_that_cannot_be_read(given: object) -> None:
    with pytest.raises(kv.CacheError, match=r"quantize|whole number|2, 4 or 8"):
        Quantization.parse(given)  # type: ignore[arg-type]


def test_settings_as_text() -> None:
    long = kv.Quantization(4, residual_length=128)
    assert Quantization.parse("4:residual_length=128") == long
    assert canonical(long) == "4:residual_length=128"
    assert (canonical(2), canonical("8"), canonical(None), canonical("none")) == ("2", "8", "none", "none")
