"""Computed share of compression in the time of a frame, at the shape of Qwen2.5-VL-7B on an H200.

Nothing is timed. Operations of both towers are counted from the shape, bytes of the compression from the operations
that torch dispatches while one layer of that shape is compressed in a stream; both are divided by the peak rates of the
data sheet. The time between kernels is left out on both sides; the number of dispatched operations bounds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch

import kvpress_video as kv
from kvpress_video.attention.layer_compressor import LayerCompressor

from ..results.measurement import Figure, Goal
from ..setup.long_stream import chunk_of, noise
from ..setup.scales import SCALES, Bed
from ..setup.traffic import Traffic, counted

METHODS = ("infinipot-v", "tar", "van", "key-norm")
_ONE_LAYER = {
    "hidden_size": 512,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": 1,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
}


class Accelerator(NamedTuple):
    """Peak rates of a data sheet: dense bf16 operations and bytes of memory, per second."""

    name: str
    operations: float
    bytes: float


H200 = Accelerator("an H200", 989e12, 4.8e12)


def run(bed: Bed) -> Iterator[Figure]:
    """Compute operations and bytes of a frame, and the resulting share; the same at every scale."""
    shape = Bed(torch.device("meta"), SCALES["7b"], "7b")
    model: Any = shape.model()[0]
    text, chunk, (rows, columns) = model.get_decoder(), chunk_of(shape), shape.scale.patches
    layers, budget = len(text.layers), shape.scale.budget
    operations = frame_operations(model, rows, columns, budget, chunk)
    case = f"Qwen2.5-VL-7B, {rows} × {columns} tokens"
    yield Figure("frame", case, "operations of both towers for a frame", operations / 1e12, "TFLOP")
    entry = 2 * text.config.num_key_value_heads * text.layers[0].self_attn.head_dim * shape.scale.dtype.itemsize
    least = (budget + chunk * rows * columns) * entry * layers / chunk
    for method in METHODS:
        traffic = compression(method, shape)
        moved, dispatched = (count * layers / chunk for count in (traffic.bytes, traffic.operations))
        raw = {
            "operations_per_frame": operations, "bytes_per_frame": moved, "dispatched_per_frame": dispatched,
            "frames_per_chunk": chunk, "layers": layers, "peak_operations_per_second": H200.operations,
            "peak_bytes_per_second": H200.bytes,
        }  # fmt: skip
        name = f"{method}, Qwen2.5-VL-7B on {H200.name}"
        yield Figure("frame", name, "operations that compression dispatches for a frame", dispatched, "", raw=raw)
        yield Figure("frame", name, "bytes that compression moves for a frame", moved / 2**20, "MiB", raw=raw)
        yield Figure(
            "frame", name, "compression's share of frame time, computed", _share(moved, operations), "%",
            Goal(0.25) if method == "infinipot-v" else None, _share(least, operations),
            "keys and values of the budget and a chunk read once", raw,
        )  # fmt: skip


def _share(moved: float, operations: float) -> float:
    compressing, computing = moved / H200.bytes, operations / H200.operations
    return 100 * compressing / (compressing + computing)


def compression(method: str, shape: Bed) -> Traffic:
    """Count the traffic of compressing one layer of a stream whose budget is full, on the CPU.

    Args:
        method: a method's name.
        shape: budget, frames and dtype of the stream; its layer has the KV heads of the 7B model.
    """
    vision = {"out_hidden_size": _ONE_LAYER["hidden_size"], "depth": 1, "fullatt_block_indexes": []}
    scale = replace(shape.scale, text=_ONE_LAYER, vision=vision)
    bed = Bed(torch.device("cpu"), scale, "one layer")
    model, processor = bed.model()
    session = kv.VideoSession(model, processor, method, scale.budget)
    frames, chunk = noise(bed, model.config.vision_config, 1), chunk_of(bed)
    rows, columns = scale.patches
    with counted(LayerCompressor, "apply") as calls:
        for _ in range(scale.budget // (rows * columns) // chunk + 2):
            for _ in range(chunk):
                session.push(frames[0])
            session.flush()
    return calls[-1]


def frame_operations(model: Any, rows: int, columns: int, held: int, chunk: int) -> float:
    """Multiplications and additions, each counted, of both towers for a frame of a stream.

    Args:
        model: a Qwen2.5-VL, on any device.
        rows, columns: merged patches of a frame.
        held: entries in the cache before a chunk.
        chunk: frames in a chunk; a token sees half of it on average.
    """
    text, vision = model.get_decoder(), model.model.visual
    config = vision.config
    tokens, patches = rows * columns, rows * columns * config.spatial_merge_size**2
    window = (config.window_size // config.patch_size) ** 2
    whole = len(config.fullatt_block_indexes)
    width = text.config.num_attention_heads * text.layers[0].self_attn.head_dim
    seen = held + chunk * tokens / 2
    return (
        2 * tokens * (_weights(text.layers) + _weights(vision.merger))
        + 2 * patches * (_weights(vision.blocks) + _weights(vision.patch_embed))
        + 4 * tokens * text.config.num_hidden_layers * width * seen
        + 4 * patches * config.hidden_size * (whole * patches + (config.depth - whole) * min(window, patches))
    )


def _weights(module: Any) -> int:
    return sum(part.numel() for part in module.parameters() if part.ndim > 1)
