"""Input formats of vision towers, and synthetic pixels in each format."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

_SIDES = (224, 384, 256)  # side of a picture in pixels, if the configuration names none
_GROUP = 4  # patches per token, for towers that name each patch
_TILES = ((1,), (1, 1), (1, 2), (1, 3), (1, 5))  # dimensions before those of a picture

Arguments = dict[str, Tensor]


@dataclass(frozen=True)
class Tower:
    """Signature and configuration of a vision tower.

    Attributes:
        names: parameters of the method that encodes.
        vision, config: configuration of the tower, and of the model.
        device, dtype: of its input.
        frames: frames of the item; 1 for an image.
        video: whether it is a video.
    """

    names: Mapping[str, Any]
    vision: Any
    config: Any
    device: torch.device
    dtype: torch.dtype
    frames: int
    video: bool

    @property
    def pixels(self) -> str:
        """Parameter name of the pixels; empty if there is none."""
        return next((name for name in self.names if name.startswith("pixel_values")), "")

    @property
    def patch(self) -> int:
        """Pixels along a patch."""
        return self.number("patch_size", or_else=14)

    @property
    def channels(self) -> int:
        """Channels of a pixel."""
        return self.number("in_channels", "num_channels", "in_chans", or_else=3)

    def ending(self, end: str) -> str:
        """Return the first parameter name with this ending; empty if there is none."""
        return next((name for name in self.names if name.endswith(end)), "")

    def number(self, *names: str, or_else: int) -> int:
        """Return the first of the named numbers that the configurations have."""
        return next(iter([*named(self.vision, names), *named(self.config, names)]), or_else)

    def made(self, *shape: int) -> Tensor:
        """Make pixels of ones, since some towers drop all-zero images."""
        return torch.ones(shape, device=self.device, dtype=self.dtype)

    def required(self, name: str) -> bool:
        """Whether the tower demands an argument."""
        return name in self.names and self.names[name].default is inspect.Parameter.empty

    def instruction(self) -> Arguments:
        """Make the text that a querying transformer reads, if the tower requires one."""
        name = self.ending("_input_ids")
        return {name: self.table([1, 2, 3])} if name and self.required(name) else {}

    def unpadded(self, lead: Sequence[int], side: int) -> Iterator[Arguments]:
        """Make masks that declare all pixels, or all tiles, valid; empty if the tower takes none."""
        mask = self.names.get("pixel_attention_mask")
        if mask is None or mask.default is None:
            yield {}
            return
        yield {"pixel_attention_mask": torch.ones(*lead, side, side, dtype=torch.long, device=self.device)}
        if len(lead) > 1:
            yield {"pixel_attention_mask": torch.ones(*lead, dtype=torch.bool, device=self.device)}

    def places(self, size: Sequence[int]) -> Iterator[Arguments]:
        """Make no coordinates, then (frame, row, column) of each patch if the tower takes them."""
        yield {}
        if name := self.ending("patch_positions"):
            axes = torch.meshgrid(*map(torch.arange, size), indexing="ij")
            yield {name: torch.stack(axes, dim=-1).reshape(-1, len(size)).to(self.device)}

    def table(self, *rows: Sequence[int]) -> Tensor:
        """Make an integer tensor."""
        return torch.tensor(rows, device=self.device)


def _patch_rows(tower: Tower) -> Iterator[Arguments]:
    """One sequence of patches, with `*_grid_thw`, or `*_grid_hw` and `*_grid_hws` for images."""
    grid = tower.ending("grid_thw") or tower.ending("grid_hw") or tower.ending("grid_hws")
    if not grid:
        return
    step = tower.number("temporal_patch_size", "patch_temporal", or_else=1)
    own = tower.number("spatial_merge_size", "merge_size", "merge_kernel_size", or_else=2)
    for merge in dict.fromkeys([own, 2, 1, 4]):
        size = (tower.frames, 4 * merge, 3 * merge)
        count = size[0] * size[1] * size[2]
        area, square = tower.patch**2, (tower.patch, tower.patch)
        for shape in ((tower.channels * step * area,), (tower.channels, *square), (tower.channels * area,),
                      (tower.channels, step, *square)):  # fmt: skip
            patches = {tower.pixels: tower.made(count, *shape), grid: tower.table(size["_hw" in grid :])}
            yield from (patches | places for places in tower.places(size))


def _placed_patches(tower: Tower) -> Iterator[Arguments]:
    """Patches with coordinates, as in Gemma 4."""
    if not (places := tower.ending("_position_ids")):
        return
    merge = tower.number("pooling_kernel_size", or_else=1)
    rows, columns = torch.meshgrid(torch.arange(4 * merge), torch.arange(3 * merge), indexing="ij")
    where = torch.stack([columns.flatten(), rows.flatten()], dim=-1).to(tower.device).expand(tower.frames, -1, -1)
    frames = {"num_frames_per_video": tower.table([tower.frames])[0]} if "num_frames_per_video" in tower.names else {}
    for side in dict.fromkeys([tower.patch, tower.patch * merge]):
        yield {
            tower.pixels: tower.made(tower.frames, where.shape[1], tower.channels * side**2),
            places: where,
            **frames,
        }


def _padded_patches(tower: Tower) -> Iterator[Arguments]:
    """Patches padded to one length, with shapes, as in LFM2-VL."""
    if "spatial_shapes" in tower.names:
        pixels = tower.made(1, 48, tower.channels * tower.patch**2)
        mask = torch.ones(1, 48, dtype=torch.long, device=tower.device)
        yield {tower.pixels: pixels, "spatial_shapes": tower.table([8, 6]), "pixel_attention_mask": mask}


def _strip_of_patches(tower: Tower) -> Iterator[Arguments]:
    """Patches side by side in one strip, with the rows and columns of each image, as in MiniCPM-V 4.6."""
    if not (sizes := tower.ending("target_sizes_videos") or tower.ending("target_sizes")):
        return
    rows, columns = 16, 12
    pixels = tower.made(tower.frames, tower.channels, tower.patch, rows * columns * tower.patch)
    yield {tower.pixels: pixels, sizes: tower.table([rows, columns])}


def _pooled_patches(tower: Tower) -> Iterator[Arguments]:
    """Patches with the patch indices of each token, as in Molmo 2."""
    pooling, grids = tower.ending("_token_pooling"), tower.ending("_grids")
    if not pooling or not grids:
        return
    side = tower.number("image_size", or_else=_SIDES[0]) // tower.patch
    groups = torch.arange(tower.frames * side**2, device=tower.device).reshape(-1, _GROUP)
    pixels = tower.made(tower.frames, side**2, tower.channels * tower.patch**2)
    rows = side**2 // _GROUP
    size = [tower.frames, rows, 1] if tower.video else [rows, 1, 0, 0]
    yield {tower.pixels: pixels, pooling: groups, grids: tower.table(size)}


def _pictures(tower: Tower) -> Iterator[Arguments]:
    """Square images, with `image_sizes` if the tower takes them, and a second copy if it reads two resolutions."""
    leading = ((1, tower.frames), (tower.frames,)) if tower.video else _TILES
    known = [*_sides(tower.vision), *_sides(tower.config), *_SIDES]
    sized = tower.names.get("image_sizes")
    if sized is None or sized.default is None:
        for side, lead in product(dict.fromkeys(known), leading):
            shape = (*lead, tower.channels, side, side)
            copies = [name for name in tower.names if "pixel_values" in name and tower.required(name)]
            pictures = {name: tower.made(*shape) for name in (tower.pixels, *copies)}
            yield from (pictures | tower.instruction() | mask for mask in tower.unpadded(lead, side))
    if sized is not None:
        free = 4 * tower.patch * tower.number("spatial_merge_size", or_else=1)  # for towers that take any size
        for side, lead in product(dict.fromkeys([free, *known]), leading):
            pixels = tower.made(*lead, tower.channels, side, side)
            yield {tower.pixels: pixels, "image_sizes": tower.table([side, side])}


def _bare_patches(tower: Tower) -> Iterator[Arguments]:
    """Patches alone, as in Fuyu."""
    yield {tower.pixels: tower.made(1, 12, tower.channels * tower.patch**2)}


FORMS: Sequence[Callable[[Tower], Iterator[Arguments]]] = (
    *(_patch_rows, _placed_patches, _padded_patches, _strip_of_patches, _pooled_patches, _pictures, _bare_patches),
)


def candidates(tower: Tower) -> Iterator[Arguments]:
    """Iterate over arguments for one item in every format that fits the signature, most likely first."""
    if tower.pixels:
        for form in FORMS:
            yield from form(tower)


def named(config: Any, names: Sequence[str]) -> list[int]:
    """Return the first of the named numbers that a configuration has, if any."""
    for name in names:
        value = getattr(config, name, None)
        value = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(value, int):
            return [value]
    return []


def _sides(config: Any) -> Iterator[int]:
    arguments = getattr(config, "model_args", None) or {}  # of a tower from timm
    size = getattr(config, "image_size", None) or arguments.get("img_size")
    if isinstance(size, Mapping):
        size = list(size.values())
    yield from (side for side in (size if isinstance(size, (list, tuple)) else [size]) if isinstance(side, int))
