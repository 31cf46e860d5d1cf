"""Video-LLaMA 3: one vision transformer over all patches, 1-D positions, and videos with omitted tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..compressor.entries import Kind
from ..video.frames import process
from .patch_rows import PatchRows, VisionBlock
from .streamed_frames import FrameText


class VideoLlama3(PatchRows):
    """Video-LLaMA 3, whose processor omits tokens that hardly differ from the preceding frame.

    The remaining tokens (`use_token_compression`) keep their frame, row and column.
    """

    model_types = ("video_llama_3",)
    labelled = True
    frame_separator = ","
    omits_tokens = True
    vision_inputs: ClassVar[Mapping[Kind, tuple[str, ...]]] = {
        Kind.IMAGE: ("pixel_values", "image_grid_thw", "image_merge_sizes"),
        Kind.VIDEO: ("pixel_values_videos", "video_grid_thw", "video_merge_sizes"),
    }

    def shown(self, arguments: Mapping[str, Any]) -> Mapping[Kind, Tensor]:
        mask = arguments.get("video_compression_mask")
        return {} if mask is None else {Kind.VIDEO: mask}

    def frame_inputs(self, processor: Any, frames: Sequence[Any]) -> Any:
        """Prepare frames. The processor divides its pixel limit by the number of frames; here the limit applies to each
        frame.

        It compares each frame with the one before it in the same call: the first one keeps all of its tokens.
        """
        size = dict(processor.video_processor.size)
        return process(processor, frames, size=size | {"longest_edge": size["longest_edge"] * len(frames)})

    def frame_texts(self, processor: Any, seconds: Sequence[float], first: int) -> list[FrameText]:
        return [FrameText(f"Time {time:.1f}s:") for time in seconds]

    @property
    def visual(self) -> Any:
        return self.inner.vision_model

    @property
    def block(self) -> VisionBlock:
        block = self.visual.encoder.layers[-1]
        return VisionBlock(block.self_attn, block.layer_norm1)

    def queries_and_keys(self, attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys = (
            project(states).unflatten(-1, (attention.num_heads, -1)) for project in (attention.q_proj, attention.k_proj)
        )
        return queries, keys
