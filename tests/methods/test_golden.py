"""InfiniPot-V keeps exactly the entries that its authors' released code keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from kvpress_video import select
from kvpress_video.compressor.entries import Context, Entries, Grid, segment_entries
from kvpress_video.compressor.registry import make_method

FILES = sorted((Path(__file__).parent / "golden" / "infinipot_v").glob("*.safetensors"))


class Golden(NamedTuple):
    """One golden file."""

    tensors: dict[str, Tensor]
    grid: Grid
    keep: int
    prefix: int
    settings: dict[str, Any]

    @classmethod
    def read(cls, name: str | Path) -> Golden:
        """Tensors, and the settings from the header."""
        with safe_open(FILES[0].parent / name, "pt") as file:
            tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
        grid = Grid(int(header["frames"]), int(header["grid_h"]), int(header["grid_w"]))
        settings = {
            "tar_ratio": float(header["tar_ratio"]),
            "recent_ratio": float(header["recent_ratio"]),
            "pooling": header["pooling"] == "true",
        }
        return cls(tensors, grid, int(header["keep_frames"]) * grid.patches, int(header["system"]), settings)

    def kept(self, method: str, **settings: Any) -> Tensor:
        """Slots that a method keeps in the first pass, (layers, kv_heads, keep)."""
        keys, values = self.tensors["keys"], self.tensors["values"]
        return torch.stack(
            [
                select(
                    method,
                    keys[layer],
                    values[layer],
                    grid=self.grid,
                    keep=self.keep,
                    prefix=self.prefix,
                    layer=layer,
                    layers=len(keys),
                    **settings,
                )
                for layer in range(len(keys))
            ]
        )


def test_all_six_files_are_here() -> None:
    names = ["default", "paper_recent", "pooled", "tar_only", "two_pass", "van_only"]
    assert [file.stem for file in FILES] == names


@pytest.mark.parametrize("treatment", ["official", "tracked"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_first_pass(file: Path, treatment: str) -> None:
    golden = Golden.read(file)
    kept = golden.kept("infinipot-v", entries=treatment, **golden.settings)
    assert torch.equal(kept, golden.tensors["kept"].long())


@pytest.mark.parametrize(("file", "method", "settings"), [
    ("tar_only", "tar", {"recent_ratio": 0.25}),
    ("van_only", "van", {}),
])  # fmt: skip
def test_its_halves_are_methods_of_their_own(file: str, method: str, settings: dict[str, Any]) -> None:
    golden = Golden.read(f"{file}.safetensors")
    assert torch.equal(golden.kept(method, **settings), golden.tensors["kept"].long())


def two_pass(layer: int) -> tuple[Golden, Entries]:
    """Entries of one layer before the second pass: survivors with their true tags, then the new frames."""
    golden = Golden.read("two_pass.safetensors")
    first, more = (
        {name: golden.tensors[name + number][layer][None] for name in ("keys", "values")} for number in ("", "2")
    )
    frames = golden.grid.frames + more["keys"].shape[2] // golden.grid.patches
    grid = golden.grid._replace(frames=frames)
    keys, values = (torch.cat([first[name][:, :, golden.prefix :], more[name]], dim=2) for name in ("keys", "values"))
    seen = segment_entries(keys, values, grid, Context(layer=layer, layers=len(golden.tensors["keys"])))
    survivors = seen.gather(golden.tensors["kept"][layer][None].long())
    return golden, Entries.join([survivors, seen.slice(golden.grid.tokens, grid.tokens)], dim=2)


@pytest.mark.parametrize("layer", [0, 1])
def test_second_pass_read_as_frames_again(layer: int) -> None:
    golden, entries = two_pass(layer)
    kept = make_method("infinipot-v", entries="official", **golden.settings).select(entries, golden.keep)
    assert torch.equal(kept[0], golden.tensors["kept2"][layer].long())


@pytest.mark.parametrize("layer", [0, 1])
def test_second_pass_on_bare_tensors(layer: int) -> None:
    golden, entries = two_pass(layer)
    grid = golden.grid._replace(frames=len(entries) // golden.grid.patches)
    kept = select(
        "infinipot-v",
        entries.keys[0],
        entries.values[0],
        grid=grid,
        keep=golden.keep,
        layer=layer,
        layers=2,
        entries="official",
        **golden.settings,
    )
    assert torch.equal(kept, golden.tensors["kept2"][layer].long())


def test_the_released_settings_have_a_name() -> None:
    golden = Golden.read("default.safetensors")
    assert torch.equal(golden.kept("infinipot-v:released"), golden.tensors["kept"].long())
    assert not torch.equal(golden.kept("infinipot-v"), golden.tensors["kept"].long())


def test_tracked_and_official_part_in_the_second_pass() -> None:
    golden, entries = two_pass(0)
    official, tracked = (
        make_method("infinipot-v", entries=treatment, **golden.settings).select(entries, golden.keep)
        for treatment in ("official", "tracked")
    )
    assert not torch.equal(official, tracked)


def test_official_needs_whole_frames() -> None:
    golden, entries = two_pass(0)
    ragged = replace(entries.slice(3, len(entries)))
    with pytest.raises(ValueError, match="entries='tracked'"):
        make_method("infinipot-v", entries="official", **golden.settings).select(ragged, golden.keep)
