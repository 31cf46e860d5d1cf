"""SmolVLM2: a SigLIP vision tower, patches folded into tokens, the time of each frame in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..compressor.entries import Grid, Kind
from .base import FramePixels
from .frame_labels import FrameLabel
from .image_frames import ImageFrames
from .joining import of_fields
from .streamed_frames import FrameText


class SmolVLM(ImageFrames):
    """SmolVLM2: `Frame from 00:01:` before the image of each frame; tiles of a split image follow `<row_1_col_2>`.

    In a batch, prompts with fewer images are padded with all-zero images, which the model drops.
    """

    model_types = ("smolvlm",)
    label = FrameLabel(least=8, most=16)  # <fake_token_around_image> \n Frame ␣from ␣ 0 0 : 0 1 : <fake…> <global-img>
    label_closes = 1  # <fake_token_around_image>

    def video_text(self, processor: Any) -> FrameText:
        return FrameText("You are provided the following series of frames from a video.\n", "\n\n")

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        fake, image = processor.fake_image_token, processor.global_image_token
        clocks = [f"{int(time // 60):02d}:{int(time % 60):02d}" for time in seconds]
        return [FrameText(f"\nFrame from {clock}:{fake}{image}", fake) for clock in clocks]

    def tokens_along(self, patches: int) -> int:
        scale: int = self.config.scale_factor
        return patches // scale

    def images(self, arguments: Mapping[str, Any]) -> Tensor | None:
        """Return the pixels of all real images; None if part of an image is masked."""
        pixels, mask = arguments["pixel_values"].flatten(0, 1), arguments.get("pixel_attention_mask")
        real = pixels.flatten(1).any(dim=1)
        if not bool(real.any()):
            real[0] = True
        if mask is not None and not bool(mask.flatten(0, 1)[real].all()):
            return None
        return pixels if bool(real.all()) else pixels[real]

    def pack(self, kind: Kind, arguments: Mapping[str, Any], frames: Sequence[FramePixels]) -> dict[str, Any]:
        packed = super().pack(kind, arguments, frames)
        pixels, mask = packed["pixel_values"][:, None], arguments.get("pixel_attention_mask")
        if mask is not None:
            packed["pixel_attention_mask"] = mask.new_ones((*pixels.shape[:2], *pixels.shape[-2:]))
        return packed | {"pixel_values": pixels}

    def join(self, outputs: Sequence[Any], grids: Sequence[Grid], order: Sequence[int]) -> Any:
        """Join the tokens image by image; one call would return them by row, but the model reads them flattened."""
        if isinstance(outputs[0], dict):
            return of_fields(outputs, lambda parts: self.join(parts, grids, order))
        if isinstance(outputs[0], list):
            images = [image for each in outputs for image in each]
            return [images[number] for number in order]
        return super().join(outputs, grids, order)
