"""The bundled model: a stock Qwen2.5-VL of under 3 M parameters, and a batched run of its vision tower for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..world.shapes import COLOURS, SHAPES

GRID = 8
"""Patches along a side of the 112-pixel view."""
MERGED = 4
"""Merged visual tokens along a side."""
PATCH = 14


def model_config(tokens: dict[str, int], vocabulary: int = 1024) -> Any:
    """The `Qwen2_5_VLConfig`; `tokens` maps the names of special tokens to their ids."""
    from transformers import Qwen2_5_VLConfig

    text = {
        "vocab_size": vocabulary,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "max_position_embeddings": 32768,
        "initializer_range": 0.07,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0,
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [10, 3, 3], "rope_theta": 1000.0},
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": tokens["<|endoftext|>"],
        "eos_token_id": tokens["<|im_end|>"],
        "pad_token_id": tokens["<|endoftext|>"],
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 3,
        "out_hidden_size": 192,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [0, 1, 2],
        "tokens_per_second": 1,
        "initializer_range": 0.07,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
        tie_word_embeddings=False,
    )


class SpriteProbe(nn.Module):
    """A linear probe of every visual token: shape and colour in its cell (or none), and the cell's row and column.

    Trained with the model as an auxiliary loss of its vision tower, then dropped.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.sizes = (len(SHAPES) + 1, len(COLOURS) + 1, 2, MERGED, MERGED)
        self.norm = nn.LayerNorm(hidden)
        self.read = nn.Linear(hidden, sum(self.sizes))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Summed cross-entropy of the five readings; `tokens` (N, hidden), `targets` (N, 5)."""
        readings = self.read(self.norm(tokens)).float().split(self.sizes, dim=-1)
        losses = [functional.cross_entropy(r, t) for r, t in zip(readings, targets.unbind(-1), strict=True)]
        return torch.stack(losses).sum()


def vision_rotation(head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines `(64, head_dim)` of one frame's patches, in the order of merged tokens."""
    rates = 1e4 ** -(torch.arange(0, head_dim // 2, 2, device=device) / (head_dim // 2))
    row, column = torch.meshgrid(*(torch.arange(GRID, device=device),) * 2, indexing="ij")
    angles = torch.cat([_merged_order(place)[:, None] * rates for place in (row, column)], dim=-1)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _merged_order(grid: Tensor) -> Tensor:
    """Flatten an (8, 8) grid of patches so that the four patches of a merged token are neighbours."""
    return grid.view(MERGED, 2, MERGED, 2).transpose(1, 2).reshape(-1)


def patchify(video: Tensor) -> Tensor:
    """Cut normalised frames `(B, T, 2, 3, 112, 112)` into patches `(B · T, 64, 1176)`, in the processor's order."""
    batch, frames = video.shape[:2]
    patches = video.view(batch, frames, 2, 3, MERGED, 2, PATCH, MERGED, 2, PATCH)
    return patches.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(batch * frames, GRID * GRID, -1)


def see(visual: Any, patches: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Run `visual` on a batch of frames: patches `(N, 64, 1176)` to tokens `(N, 16, hidden)`.

    The stock module loops over frames. The results are equal for 112 × 112 frames, whose attention is all full.
    """
    projection = visual.patch_embed.proj.weight
    x = functional.linear(patches, projection.view(projection.shape[0], -1))
    cos, sin = (part.to(x.dtype) for part in rotation)
    for block in visual.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).view(*x.shape[:2], 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = (part * cos + _rotate_half(part) * sin for part in (query, key))
        mixed = functional.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value)
        x = x + attention.proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    tokens: Tensor = visual.merger(x.reshape(-1, x.shape[-1]))
    return tokens.view(len(patches), MERGED * MERGED, -1)


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
