"""Sessions with banks, and host-device copies that are counted or late; a plugin with their fixtures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
import zoo
from generation import SETTINGS, UNEVEN, model_of
from sessions import TinyProcessor
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache import offload as banks
from kvpress_video.cache.offload import CopyStream
from kvpress_video.cache.offloaded_layer import BANKS

FAMILY = zoo.FAMILIES[0]


AWAY = [bank for bank in BANKS if bank != "device"]


PARTS = ("keys", "values", "tags", "places")


BUDGET, PATCHES = 40, 4


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class LateCopyStream(CopyStream):
    """Copies are made in order, and as late as a device may make them: when somebody waits for one."""

    def __init__(self) -> None:
        self.asked: list[Callable[[], Any]] = []

    def copy(self, room: Sequence[Tensor], parts: Sequence[Tensor]) -> Callable[[], None]:
        self.asked.append(partial(super().copy, room, parts))
        return partial(self._make, len(self.asked))

    def finish(self) -> None:
        self._make(len(self.asked))

    def _make(self, count: int) -> None:
        for number, job in enumerate(self.asked[:count]):
            job()
            self.asked[number] = _done


def _done() -> None:
    pass


class Copied(NamedTuple):
    """A copy: the layer whose bank it read, None where it wrote one; and its bytes."""

    read: int | None
    bytes: int


class CountingCopyStream(CopyStream):
    """Notes every copy."""

    def __init__(self) -> None:
        self.copies: list[Copied] = []
        self._owners: dict[int, int] = {}

    def copy(self, room: Sequence[Tensor], parts: Sequence[Tensor]) -> Callable[[], None]:
        owner = self._owners.get(parts[0].untyped_storage().data_ptr())
        self.copies.append(Copied(owner, sum(part.numel() * part.element_size() for part in parts)))
        return super().copy(room, parts)

    def watch(self, session: kv.VideoSession) -> None:
        """Begin to count; a bank is known by its memory."""
        for number, layer in enumerate(session.stream.layers):
            for part in layer._buffers._bank._whole:  # type: ignore[attr-defined]
                self._owners[part.untyped_storage().data_ptr()] = number
        self.copies.clear()

    @property
    def read(self) -> int:
        return sum(copy.bytes for copy in self.copies if copy.read is not None)

    @property
    def written(self) -> int:
        return sum(copy.bytes for copy in self.copies if copy.read is None)


@pytest.fixture(params=[CopyStream, LateCopyStream], ids=["at once", "late"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CopyStream:
    """Copies at the first and at the last moment that is allowed."""
    made: CopyStream = request.param()
    monkeypatch.setattr(banks, "copy_stream", lambda device: made)
    return made


def started(bank: str, method: str = "detachable", **options: Any) -> kv.VideoSession:
    settings = {"scorer": "van", "window": 0.7} if method == "detachable" else SETTINGS.get(method, {})
    small = {"budget": 20, "chunk": 48} if method in UNEVEN else {"budget": BUDGET, "chunk": 16}
    options = small | {"position_limit": 240, "fps": 0.25} | settings | options
    return kv.VideoSession(model_of(FAMILY), TinyProcessor(FAMILY), method, bank_on=bank, **options)


def state(session: kv.VideoSession) -> dict[str, Tensor]:
    """Contents of every layer, bit for bit."""
    held = {f"{number}.{part}": getattr(layer, part).cpu()
            for number, layer in enumerate(session.stream.layers) for part in PARTS}  # fmt: skip
    return {name: part.clone(memory_format=torch.contiguous_format).view(torch.uint8) for name, part in held.items()}


def check_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    different = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert not different


@contextmanager
def logits_of(session: kv.VideoSession) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    hook = session.model.register_forward_hook(lambda module, given, output: seen.append(output.logits.cpu()))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountingCopyStream:
    made = CountingCopyStream()
    monkeypatch.setattr(banks, "copy_stream", lambda device: made)
    return made
