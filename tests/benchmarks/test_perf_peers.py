"""The comparison with kvpress and with the released InfiniPot-V: what is compared, without the packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from kvpress_video.benchmarks.perf import DEFAULT, program
from kvpress_video.benchmarks.perf.cases import peers as peers_module
from kvpress_video.benchmarks.perf.cases.compress_pass import COLUMNS, ROWS, TEXT, Layer
from kvpress_video.benchmarks.perf.results.goals import TARGETS
from kvpress_video.benchmarks.perf.results.measurement import Figure, Goal
from kvpress_video.benchmarks.perf.setup.released_infinipot_v import compress, kept
from kvpress_video.benchmarks.perf.setup.scales import bed
from safetensors import safe_open
from torch import Tensor

from kvpress_video import select
from kvpress_video.errors import BenchmarkError

TINY = bed("tiny", "cpu")
GOLDEN = Path(__file__).parents[1] / "methods" / "golden" / "infinipot_v"


@dataclass
class FakeKnorm:
    """A press that keeps the shortest keys, as kvpress does."""

    compression_ratio: float

    def compress(self, module: Any, hidden: Any, keys: Tensor, values: Tensor, attentions: Any, kwargs: Any) -> Any:
        keep = int(keys.shape[2] * (1 - self.compression_ratio))
        index = (-keys.norm(dim=-1)).topk(keep, dim=-1).indices[..., None].expand(-1, -1, -1, module.head_dim)
        return keys.gather(2, index), values.gather(2, index)

    @contextmanager
    def __call__(self, model: Any) -> Iterator[None]:
        PRESSED.append(type(self).__name__)
        yield


@dataclass
class FakeSnapKV(FakeKnorm):
    """A press that looks at the rotations it is given."""

    window_size: int = 64

    def score(self, module: Any, hidden: Any, keys: Any, values: Any, attentions: Any, kwargs: Any) -> Any:
        return kwargs["position_embeddings"]


PRESSED: list[str] = []
ASKED_OF_US: list[tuple[str, Any]] = []


def stand_in() -> Any:
    """A package of the same names."""
    module: Any = ModuleType("kvpress")
    module.KnormPress, module.SnapKVPress = FakeKnorm, FakeSnapKV
    module.__spec__ = object()
    return module


@pytest.fixture(scope="module")
def found() -> Iterator[list[Figure]]:
    compress = peers_module.kv.compress

    def noted(model: Any, method: str, budget: Any) -> Any:
        ASKED_OF_US.append((method, budget))
        return compress(model, method, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kvpress", stand_in())
        patch.setattr(peers_module, "version", lambda name: "0.5.5")
        patch.setattr(peers_module.kv, "compress", noted)
        yield list(program("peers")(TINY))


@pytest.mark.slow
def test_peers_compare_time_and_memory(found: list[Figure]) -> None:
    ratios = [one for one in found if "÷" in one.what]
    assert {one.case.partition(",")[0] for one in ratios if " pass " in one.what} == {
        "key-norm and KnormPress",
        "infinipot-v and the released formula",
    }
    assert {one.case.partition(",")[0] for one in ratios if " prefill " in one.what} == {
        "key-norm and KnormPress",
        "snapkv and SnapKVPress",
    }
    for one in ratios:
        assert one.goal == Goal(1)
        assert one.raw["kvpress"] == "0.5.5"
        if one.what.startswith("peak memory"):
            assert one.measured == pytest.approx(one.raw["peak_bytes"] / one.raw["peer_peak_bytes"])
        assert sum(one in asked.of([one]) for asked in TARGETS) == 1
    assert set(PRESSED) == {"FakeKnorm", "MergedSnapKV"}
    for one in found:
        assert one.measured > 0, one


@pytest.mark.slow
def test_peers_evict_the_same_share(found: list[Figure]) -> None:
    assert set(ASKED_OF_US) == {("key-norm", "25%"), ("snapkv", "25%")}
    presses = peers_module.presses(stand_in(), TINY.model()[0])
    assert {name: press.compression_ratio for name, press in presses.items()} == {"key-norm": 0.75, "snapkv": 0.75}


def test_snapkv_is_given_one_rotation_per_position() -> None:
    model = TINY.model()[0]
    section = model.get_decoder().config.rope_scaling["mrope_section"]
    press = peers_module.presses(stand_in(), model)["snapkv"]
    width = 2 * sum(section)
    rotation = torch.arange(3.0)[:, None, None, None].expand(3, 1, 5, width)
    cos, sin = press.score(None, None, None, None, None, {"position_embeddings": (rotation, -rotation)})
    axes = torch.repeat_interleave(torch.arange(3.0), torch.tensor(section)).repeat(2)
    torch.testing.assert_close(cos, axes.expand(1, 5, width))
    torch.testing.assert_close(sin, -axes.expand(1, 5, width))


def test_without_kvpress_the_command_to_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match="make bench-peers"):
        list(program("peers")(TINY))
    assert "peers" not in DEFAULT


@pytest.mark.parametrize("name", ["default", "paper_recent", "tar_only", "two_pass"])
def test_the_released_formula_keeps_what_the_released_code_keeps(name: str) -> None:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        keys, values, expected = (file.get_tensor(part) for part in ("keys", "values", "kept"))
        header = file.metadata()
    prefix, patches = int(header["system"]), int(header["grid_h"]) * int(header["grid_w"])
    keep = int(header["keep_frames"]) * patches
    ratios = float(header["tar_ratio"]), float(header["recent_ratio"])
    found = kept(keys[:, :, prefix:], values[:, :, prefix:], patches, keep, *ratios)
    assert torch.equal(found, expected.long())
    left_keys, left_values = compress(keys, values, prefix, patches, keep, *ratios)
    index = (expected.long() + prefix)[..., None].expand(-1, -1, -1, keys.shape[-1])
    for left, whole in ((left_keys, keys), (left_values, values)):
        assert torch.equal(left[:, :, :prefix], whole[:, :, :prefix])
        assert torch.equal(left[:, :, prefix:], whole.gather(2, index))


def test_figures_say_what_each_of_them_takes(found: list[Figure]) -> None:
    for work in ("pass", "prefill"):
        time = [one for one in found if one.what == f"time of a {work}"]
        peak = [one for one in found if one.what == f"peak memory of a {work}"]
        assert len(time) == len(peak) > 0
        assert all(one.unit == "ms" for one in time)
        assert all(one.measured == one.raw["peak_bytes"] / 2**20 for one in peak)


def test_the_released_formula_and_this_package_keep_the_same_entries() -> None:
    layer = Layer(972, torch.device("cpu"))
    keys, values = (states.float() for states in layer.states)
    keep = int(0.75 * layer.length)
    theirs = kept(keys[:, :, TEXT:], values[:, :, TEXT:], ROWS * COLUMNS, keep, 0.5, 0.25)[0]
    grid = (layer.length // (ROWS * COLUMNS), ROWS, COLUMNS)
    ours = select("infinipot-v:released", keys[0], values[0], grid=grid, keep=keep, prefix=TEXT)
    assert torch.equal(theirs, ours)
