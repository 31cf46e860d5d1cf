"""Sessions whose older entries live on the host or on disk."""

from __future__ import annotations

import gc
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from generation import METHODS, UNEVEN
from offloading import (
    AWAY,
    BUDGET,
    FAMILY,
    PATCHES,
    CountingCopyStream,
    check_same,
    gpu,
    logits_of,
    started,
    state,
)
from sessions import STREAMED, TinyProcessor, footage, frames_for, tiny
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache import offload as banks
from kvpress_video.cache.buffers import Buffers
from kvpress_video.cache.layer import CompressedLayer
from kvpress_video.cache.offload import CopyStream
from kvpress_video.cache.offloaded_layer import BANKS, OffloadedLayer
from kvpress_video.compressor.entries import Kind, Places, Tags
from kvpress_video.errors import CacheError, UnknownNameError


def told(session: kv.VideoSession) -> tuple[list[Tensor], list[Any], dict[str, Tensor]]:
    """A stream with everything that sessions do: logits, all else that can be seen from outside, and what is held."""
    seen: list[Any] = []
    with logits_of(session) as logits:
        for number in range(8):
            session.push(footage(6, seed=number))
            if number == 2:
                seen.append(session.ask("What?", max_new_tokens=5))
            if number == 3:
                seen.append(session.ask("Who?", max_new_tokens=3, keep=False))
                session = session.fork()
            seen.append((session.stats.bytes, session.stats.entries, session.stats.position))
        seen.append(session.ask("Where?", max_new_tokens=5))
        seen.append("".join(session.stream_answer("When?", max_new_tokens=4)))
    return logits, seen, state(session)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("method", "positions"), [("detachable", "keep"), ("van", "keep"), *((method, "compact") for method in METHODS)]
)
def test_a_session_is_the_same_wherever_its_bank_is(method: str, positions: Any) -> None:
    limit = None if positions == "keep" else 300 if method in UNEVEN else 240
    (logits, seen, held), *others = (told(started(bank, method, positions=positions, position_limit=limit))
                                     for bank in BANKS)  # fmt: skip
    places = held["0.places"].view(torch.float32)
    if positions == "compact" and method not in UNEVEN:
        assert (places[..., Places.PRESENT] < places[..., Places.ORIGINAL] - 1).any()
    for other_logits, other_seen, other_held in others:
        assert other_seen == seen
        assert len(other_logits) == len(logits) > 10
        assert all(map(torch.equal, other_logits, logits))
        check_same(other_held, held)


@pytest.mark.parametrize("family", STREAMED[1:])
def test_banks_of_every_family(family: str) -> None:
    found = []
    for bank in BANKS:
        session = tiny("van", 60, family, chunk=32, bank_on=bank)
        for number in range(4):
            session.push(frames_for(family, 6, seed=number))
            session.ask("What?", max_new_tokens=3)
            session = session.fork()
        found.append(state(session))
    check_same(found[1], found[0])
    check_same(found[2], found[0])


@pytest.mark.sampled
@pytest.mark.parametrize("bank", AWAY)
def test_no_copy_is_read_early_or_overwritten_before_it_was_read(bank: str, lane: CopyStream) -> None:
    for method in ("detachable", "van", "average-pooling"):
        _, seen, held = told(started(bank, method))
        _, wanted_seen, wanted = told(started("device", method))
        assert seen == wanted_seen
        check_same(held, wanted)


@pytest.mark.parametrize("bank", AWAY)
def test_a_grown_cache_without_a_cap(bank: str, lane: CopyStream) -> None:
    """The bank and the scratch move to more room again and again."""
    found = []
    for place in ("device", bank):
        session = started(place, "full", budget=None, chunk=16, positions="keep", position_limit=None)
        for number in range(12):
            session.push(footage(8, seed=number))
        session.ask("What?", max_new_tokens=70)
        found.append(state(session))
    check_same(*found)
    assert session.stats.bank_bytes > session.stats.bytes / 2


def test_sessions_with_different_banks_answer_together() -> None:
    answers = []
    for places in (["device"] * 3, ["cpu", "disk", "device"]):
        sessions = [started(bank) for bank in places]
        for number, session in enumerate(sessions):
            session.push(footage(10 + 6 * number, seed=number))
        answers.append((kv.ask_all(sessions, "What?", max_new_tokens=4), [state(session) for session in sessions]))
    assert answers[0][0] == answers[1][0]
    for found, wanted in zip(answers[1][1], answers[0][1], strict=True):
        check_same(found, wanted)


Arrived = dict[tuple[int, int, int], tuple[Tensor, Tensor]]


def arrivals(session: kv.VideoSession) -> list[Arrived]:
    """From now on: each layer's keys and values by frame, row and column, as the model first wrote them."""
    seen: list[Arrived] = []

    def watch(layer: CompressedLayer, found: Arrived) -> None:
        update = layer.update

        def noting(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
            if layer.incoming is not None:
                for slot, tags in enumerate(layer.incoming.tags[0].tolist()):
                    if tags[Tags.KIND] == Kind.VIDEO:
                        found[tuple(tags[Tags.FRAME :])] = (keys[0, :, slot].clone(), values[0, :, slot].clone())
            return update(keys, values, *args, **kwargs)

        layer.update = noting  # type: ignore[method-assign]

    for layer in session.stream.layers:
        seen.append({})
        watch(layer, seen[-1])
    return seen


def watched(session: kv.VideoSession) -> tuple[list[Arrived], list[int]]:
    """The arrived frames, and the next position after every push."""
    seen, reached = arrivals(session), []
    for number in range(12):
        session.push(footage(6, seed=number))
        if number % 4 == 1:
            session.ask("What?", max_new_tokens=3)
        reached.append(session.stats.position)
    session.flush()
    return seen, reached


@pytest.mark.parametrize("bank", BANKS)
def test_entries_in_the_bank_are_bit_for_bit_what_they_were_in_the_window(bank: str) -> None:
    session = started(bank, positions="keep", position_limit=None)
    (seen, _), window = watched(session), int(0.7 * BUDGET) // PATCHES
    for layer, arrived in zip(session.stream.layers, seen, strict=True):
        keys, values, old = layer.keys, layer.values, 0
        newest = int(layer.tags[..., Tags.FRAME].max())
        for head in range(keys.shape[1]):
            for slot, tags in enumerate(layer.tags[0, head].tolist()):
                if tags[Tags.KIND] == Kind.VIDEO:
                    key, value = arrived[tuple(tags[Tags.FRAME :])]
                    assert torch.equal(keys[0, head, slot], key[head])
                    assert torch.equal(values[0, head, slot], value[head])
                    old += tags[Tags.FRAME] <= newest - window
        assert old == keys.shape[1] * (BUDGET - window * PATCHES)
        assert (layer.bank_bytes > 0) == (bank != "device")


@pytest.mark.parametrize("bank", BANKS)
def test_entries_in_the_bank_are_a_fresh_rotation_of_what_they_were_after_squeezes(bank: str) -> None:
    session = started(bank, positions="compact")
    rope = session.stream.adapter.rope()
    seen, reached = watched(session)
    assert sum(later < earlier for earlier, later in pairwise(reached)) >= 2
    moved = 0
    for layer, arrived in zip(session.stream.layers, seen, strict=True):
        keys, values = layer.keys, layer.values
        for head in range(keys.shape[1]):
            for slot, tags in enumerate(layer.tags[0, head].tolist()):
                if tags[Tags.KIND] != Kind.VIDEO:
                    continue
                key, value = arrived[tuple(tags[Tags.FRAME :])]
                place = layer.places[0, head, slot]
                shift = place[Places.PRESENT] - place[Places.ORIGINAL]
                wanted = rope.rotate(key[head][None], shift[None])[0]
                torch.testing.assert_close(keys[0, head, slot], wanted, rtol=0, atol=1e-4)
                assert torch.equal(values[0, head, slot], value[head])
                moved += bool(shift.abs().max() > 1)
    assert moved > 100


@pytest.mark.parametrize(("window", "limit"), [(0.3, None), (0.5, 20), (12, 28)])
def test_a_bank_of_few_frames_asks_nothing_that_the_method_does_not(window: Any, limit: int | None) -> None:
    """Before the budget is full a window may be shorter than a frame, and nothing is wrong with that."""
    session = started("cpu", window=window)
    for number in range(4):
        session.push(footage(4, seed=number))
        session.flush()


@pytest.mark.parametrize("bank", AWAY)
def test_the_device_holds_the_window_the_text_and_two_layers(bank: str) -> None:
    """The bank is away, and no layer that waits keeps room for a chunk."""
    session = started(bank, budget=400, chunk=64, window=0.25, position_limit=None)
    for number in range(14):
        session.push(footage(60, seed=number))
    layers = session.stream.layers
    window, text = 100, session.stats.text_entries
    _, heads, _, width = layers[0].keys.shape
    entry = 2 * heads * width * 4
    for layer in layers:
        assert layer.bank_bytes == (400 - window + text) * entry
    metadata = heads * 4 * (Tags.WIDTH + Places.COMPACT_WIDTH) * (400 + 64 + 256)
    scratch = 2 * entry * (400 + 64 + 256)
    device = sum(layer.device_bytes for layer in layers)
    assert device <= len(layers) * (metadata + entry * (window + 8)) + scratch


@pytest.mark.parametrize("bank", AWAY)
def test_nothing_grows(bank: str) -> None:
    gc.collect()  # banks of other tests
    session = started(bank)
    sizes = []
    for number in range(30):
        session.push(footage(6, seed=number))
        session.ask("What?", max_new_tokens=2, keep=False)
        sizes.append((session.stats.reserved_bytes, mapped()))
    assert len(set(sizes[15:])) == 1


@pytest.mark.parametrize("bank", AWAY)
def test_keys_read_from_outside_stay_as_they_were(bank: str) -> None:
    session = started(bank, position_limit=None)
    session.push(footage(30))
    session.flush()
    before = state(session)
    held = [getattr(layer, part) for layer in session.stream.layers for part in ("keys", "values")]
    copies = [part.clone() for part in held]
    session.ask("What?", max_new_tokens=5, keep=False)
    assert all(map(torch.equal, held, copies))
    check_same(state(session), before)


def mapped() -> int:
    """Files of banks that this process maps."""
    return Path("/proc/self/maps").read_text().count("kvpress-video-bank-")


def test_a_bank_on_disk_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    before = mapped()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = started("disk")
    session.push(footage(40))
    assert mapped() == before + 2 * len(session.stream.layers)
    assert not list(tmp_path.iterdir())
    del session
    gc.collect()
    assert mapped() == before


@contextmanager
def _small_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_says_so_and_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = started("disk")
    with _small_files(), pytest.raises(CacheError, match=r"MiB more on disk: .*too large.* TMPDIR .*bank_on='cpu'"):
        session.push(footage(40))
    assert not list(tmp_path.iterdir())
    with pytest.raises(CacheError, match="failed halfway"):
        session.ask("What?", max_new_tokens=2)


def test_a_disk_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(CacheError, match=r"No such file or directory.* TMPDIR"):
        started("disk").push(footage(40))


def test_an_unknown_bank() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown place of the bank 'dsk'\. Did you mean 'disk'\?"):
        started("dsk")


@pytest.mark.parametrize("bank", AWAY)
def test_a_decoded_token_reads_every_bank_once_and_writes_nothing(bank: str, counted: CountingCopyStream) -> None:
    session = started(bank)
    session.push(footage(40))
    session.ask("What?", max_new_tokens=1, keep=False)
    totals = []
    for new in (3, 8):
        counted.watch(session)
        session.ask("What?", max_new_tokens=new, keep=False)
        totals.append(counted.read)
        assert not counted.written
    assert totals[1] - totals[0] == 5 * session.stats.bank_bytes


@pytest.mark.parametrize("bank", AWAY)
def test_a_layers_bank_is_asked_for_while_the_layer_before_it_works(bank: str, counted: CountingCopyStream) -> None:
    session = started(bank)
    session.push(footage(40))
    session.ask("What?", max_new_tokens=2)
    counted.watch(session)
    latest: list[int | None] = []
    for layer in session.stream.layers:
        update = layer.update

        def noting(*args: Any, update: Any = update, **kwargs: Any) -> Any:
            latest.append(counted.copies[-1].read if counted.copies else None)
            return update(*args, **kwargs)

        layer.update = noting  # type: ignore[method-assign]
    session.ask("What?", max_new_tokens=3)
    assert latest == [None, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]


@pytest.mark.parametrize("bank", AWAY)
def test_only_what_is_new_in_the_bank_is_written(bank: str, counted: CountingCopyStream) -> None:
    session = started(bank, "full", budget=None, positions="keep", position_limit=None, chunk=16)
    for number in range(4):
        session.push(footage(8, seed=number))
    held = session.stats.bank_bytes
    counted.watch(session)
    session.push(footage(8, seed=9))
    assert counted.written == session.stats.bank_bytes - held > 0


@pytest.mark.parametrize("bank", AWAY)
def test_a_session_that_began_in_inference_mode_goes_on_without_it(bank: str) -> None:
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        session = started(bank)
        with mode():
            session.push(footage(30))
            session.ask("What?", max_new_tokens=2)
        session.push(footage(30, seed=1))
        session.ask("What?", max_new_tokens=2)
        with mode():
            session.push(footage(30, seed=2))
        found.append(state(session))
    check_same(*found)


@pytest.mark.parametrize("bank", BANKS)
def test_an_answer_that_is_broken_off_anywhere_leaves_no_trace(bank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started(bank, position_limit=None)
    session.push(footage(30))
    session.flush()
    before, wanted = state(session), session.ask("Who?", max_new_tokens=3, keep=False)
    left = [0]

    def failing(stock: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            stock(*args)

        return call

    for calls in (1, 2, 3, 4, 8, 9, 13, 14):
        left[0] = calls
        with monkeypatch.context() as patched:
            for name in ("append", "append_step"):
                patched.setattr(Buffers, name, failing(getattr(Buffers, name)))
            with pytest.raises(KeyboardInterrupt):
                session.ask("What?", max_new_tokens=5)
        assert session.ask("Who?", max_new_tokens=3, keep=False) == wanted
        check_same(state(session), before)


def on_cuda(bank: str, method: str, **options: Any) -> kv.VideoSession:
    model = zoo.build(FAMILY, "sdpa").cuda()
    settings = {"scorer": "van"} if method == "detachable" else {}
    return kv.VideoSession(model, TinyProcessor(FAMILY), method, bank_on=bank,
                           **({"budget": BUDGET, "chunk": 16, "position_limit": 240} | settings | options))  # fmt: skip


class SlowDevice:
    """Makes the device late, where it computes or where it copies, so that what does not wait goes wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        update, copy, cycles = OffloadedLayer.update, banks.CudaCopyStream.copy, 2_000_000

        def slow_update(layer: Any, *args: Any, **kwargs: Any) -> Any:
            torch.cuda._sleep(cycles)
            return update(layer, *args, **kwargs)

        def slow_copy(lane: Any, room: Any, parts: Any) -> Any:
            with torch.cuda.stream(lane._stream):
                torch.cuda._sleep(cycles)
            return copy(lane, room, parts)

        if where == "compute":
            monkeypatch.setattr(OffloadedLayer, "update", slow_update)
        else:
            monkeypatch.setattr(banks.CudaCopyStream, "copy", slow_copy)


@pytest.mark.parametrize("slow", ["compute", "copies"])
@pytest.mark.parametrize("method", ["detachable", "van", "average-pooling"])
@pytest.mark.parametrize("bank", [pytest.param(bank, marks=gpu) for bank in AWAY])
def test_on_cuda_a_session_is_the_same_wherever_its_bank_is(
    bank: str, method: str, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, seen, held = told(on_cuda("device", method))
    SlowDevice(monkeypatch, slow)
    other_logits, other_seen, other_held = told(on_cuda(bank, method))
    assert other_seen == seen
    assert all(map(torch.equal, other_logits, logits))
    check_same(other_held, held)


def _session_memory(bank: str) -> tuple[int, kv.VideoSession]:
    """Bytes that a session takes on the device, and the session."""
    model = zoo.build(FAMILY, "sdpa", layers=16).cuda()
    gc.collect()
    before = torch.cuda.memory_allocated()
    session = kv.VideoSession(model, TinyProcessor(FAMILY), "van", 4000, bank_on=bank)
    for number in range(4):
        session.push(footage(60, 64, 64, seed=number))
    session.ask("What?", max_new_tokens=2)
    torch.cuda.synchronize()
    gc.collect()
    return torch.cuda.memory_allocated() - before, session


@pytest.mark.parametrize("bank", [pytest.param(bank, marks=gpu) for bank in AWAY])
def test_on_cuda_a_session_takes_less_of_the_device(bank: str) -> None:
    """All but two of sixteen layers are away, and the device does not even have room for them."""
    full, session = _session_memory("device")
    assert full >= session.stats.bytes
    away, session = _session_memory(bank)
    assert session.stats.bank_bytes > 0.9 * 16 * 4000 * 2 * 2 * 16 * 4
    assert away <= full - 0.75 * session.stats.bank_bytes


@pytest.mark.parametrize("bank", [pytest.param("cpu", marks=gpu)])
def test_on_cuda_the_bank_is_pinned(bank: str) -> None:
    session = on_cuda(bank, "van")
    session.push(footage(40))
    for layer in session.stream.layers:
        assert all(part.is_pinned() for part in layer._buffers._bank.held)  # type: ignore[attr-defined]
