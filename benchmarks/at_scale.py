"""Every method at the shape of Qwen2.5-VL-7B (random weights, bf16) on one GPU: does it reach its budget, at what cost?

`python -m kvpress_video.benchmarks.at_scale --out benchmarks/results/at_scale.json`. Random weights say nothing about
accuracy. One prompt of a video and a question is read and eight tokens are generated, after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VISION_START, VISION_END, VIDEO_PAD, WORD = 151652, 151653, 151656, 1000
ROWS, COLUMNS = 10, 13
METHODS = (
    *("average-pooling", "detachable", "infinipot-v", "key-norm", "novelty", "random", "recent", "sink-window"),
    *("snapkv", "standby", "standby-novelty", "tar", "uniform", "van"),
)


def build(layers: int) -> Any:
    """Qwen2.5-VL with the 7B text and vision widths, random weights, on the current CUDA device."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24]}
    text = {**sizes, "num_hidden_layers": layers, "vocab_size": 152064, "rope_theta": 1e6, "rope_scaling": rope}
    config = Qwen2_5_VLConfig(text_config=text, vision_config={"out_hidden_size": 3584, "tokens_per_second": 2})
    config.video_token_id, config.vision_start_token_id = VIDEO_PAD, VISION_START
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def prompt(frames: int) -> dict[str, Tensor]:
    """A video of `frames` × 10 × 13 visual tokens between four words and twenty."""
    tokens = [WORD] * 4 + [VISION_START] + [VIDEO_PAD] * (frames * ROWS * COLUMNS) + [VISION_END] + [WORD] * 20
    ids = torch.tensor([tokens], device="cuda")
    patches = frames * 4 * ROWS * COLUMNS
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": 2 * (ids == VIDEO_PAD).int(),
        "pixel_values_videos": torch.randn(patches, 1176, device="cuda", dtype=torch.bfloat16),
        "video_grid_thw": torch.tensor([[frames, 2 * ROWS, 2 * COLUMNS]], device="cuda"),
        "second_per_grid_ts": torch.tensor([1.0], device="cuda"),
    }


def measure(model: Any, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Seconds and peak memory of reading the prompt and generating eight tokens."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    torch.cuda.synchronize()
    return {
        "seconds": round(time.perf_counter() - started, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def run(frames: int, budget: int, layers: int) -> list[dict[str, Any]]:
    """The stock model, then every method."""
    import kvpress_video as kv

    model, inputs = build(layers), prompt(frames)
    measure(model, inputs)
    rows: list[dict[str, Any]] = [{"method": "stock", **measure(model, inputs)}]
    for method in METHODS:
        with kv.compress(model, method, budget) as compression:
            measure(model, inputs)
            cost = measure(model, inputs)
        report = compression.report
        held = {"entries": sorted(set(report.entries)), "visual_tokens": report.visual_tokens}
        rows.append({"method": method, **cost, **held, "bytes": report.bytes, "full_bytes": report.full_bytes})
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=186)
    parser.add_argument("--budget", type=int, default=6144)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import transformers

    found = {
        "what": f"{options.frames} frames of {ROWS}×{COLUMNS} tokens, budget {options.budget}, {options.layers} layers",
        "device": torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "rows": run(options.frames, options.budget, options.layers),
    }
    found["versions"]["transformers"] = transformers.__version__  # type: ignore[index]
    options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
