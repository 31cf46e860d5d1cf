"""Families without a video input, which represent a video as labelled images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..compressor.entries import Grid, Kind
from .base import Adapter, FramePixels, ImportanceSink, StandbySettings
from .frame_labels import FrameLabel
from .items import MediaItem
from .joining import join
from .standby_attention import square_block, watch_square


class ImageFrames(Adapter):
    """Adapter base for families whose frames are images of equal size; each tile of a split image is an image.

    Attributes:
        label: format of the text between two frames of a video.
    """

    labelled = True
    label: ClassVar[FrameLabel]

    @abstractmethod
    def tokens_along(self, patches: int) -> int:
        """Compute the visual tokens along a side of `patches` patches."""

    def images(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Return the pixels of a call of `get_image_features`, (images, 3, height, width), or None if inseparable."""
        pixels: Tensor = arguments["pixel_values"]
        return pixels

    def items(self, kind: Kind, arguments: Mapping[str, Any], features: Sequence[Tensor] | Tensor) -> list[MediaItem]:
        grid = self._grid(arguments)
        images = sum(feature.shape[:-1].numel() for feature in features) // grid.tokens
        return [MediaItem(grid, label=self.label)] * images

    def unpack(self, kind: Kind, arguments: Mapping[str, Any]) -> list[FramePixels] | None:
        pixels, grid = self.images(arguments), self._grid(arguments)
        return None if pixels is None else [FramePixels(grid, image) for image in pixels.split(1)]

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        return {**arguments, "pixel_values": torch.cat([part.pixels for part in frames])}

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        return join(outputs, grids, order)

    def watch_vision(self, settings: StandbySettings, report: ImportanceSink) -> list[RemovableHandle]:
        return [watch_square(square_block(self.inner, self.config), self.tokens_along, settings, report)]

    def _grid(self, arguments: Mapping[str, Any]) -> Grid:
        size = self.config.vision_config.patch_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        pixels = arguments["pixel_values"].shape[-2:]
        return Grid(1, self.tokens_along(pixels[0] // height), self.tokens_along(pixels[1] // width))
