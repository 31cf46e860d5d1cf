"""Measure quantised entries: bytes, errors with everything kept, drift over repeated compression, and time.

python -m kvpress_video.benchmarks.quantization.measure --out benchmarks/results/quantization/measure.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kvpress_video as kv
from kvpress_video.cache.forward_pass import RowState
from kvpress_video.cache.packing import pack_keys, unpack_keys
from kvpress_video.cache.quantization import NBITS, canonical
from kvpress_video.cache.storage import storage_of
from kvpress_video.compressor.entries import Context
from kvpress_video.models.devices import device_of
from kvpress_video.video.prompt import prepare

from ..publishing.provenance import provenance, write_result
from ..world import HELD_OUT_SEED, make_clips

SEED = HELD_OUT_SEED + 60_000
SHAPES = {"bundled": (3, 32), "Qwen2.5-VL-7B": (4, 128)}
"""KV heads and head dimension."""
SQUEEZES, ARRIVE, STAY, GROUP = (1, 10, 50, 200), 64, 192, 32
WHAT = (
    "`layers`: bytes that a layer of 6144 bf16 entries holds per entry, metadata included, and milliseconds of the CPU "
    "in a decoding step of one layer. `errors`: relative error of the logits of the first answered token, and share of "
    "equal answers, against the same run without quantisation. `drift`: relative error (norm of the difference over "
    "norm of the centred keys) of what is left after so many squeezes, 192 of 256 entries staying: with steps that "
    "are powers of two, and with scales of the range over the highest code as in KIVI."
)


def layers(shape: str) -> list[dict[str, Any]]:
    """Measure the bytes per entry of a filled layer, and the time of a step."""
    heads, width = SHAPES[shape]
    rows = []
    for quantize in (None, *sorted(NBITS, reverse=True)):
        made = storage_of(quantize).layers(2, rows=[RowState()])
        for layer in made:
            layer.update(*torch.randn(2, 1, heads, 6144, width, dtype=torch.bfloat16).unbind())
            layer.replace(layer.entries(Context()).gather(torch.arange(6144).expand(1, heads, -1)), layer.rows)
        each = made[0].bytes / made[0].physical
        steps = []
        for number in range(6):
            one = torch.randn(2, 1, heads, 1, width, dtype=torch.bfloat16)
            started = time.process_time()
            made[number % 2].update(*one.unbind())
            steps.append(time.process_time() - started)
        row = {"shape": shape, "quantize": canonical(quantize), "bytes_per_entry": round(each, 1)}
        rows.append(row | {"step_ms": round(1000 * min(steps), 2)})
    return rows


def errors(model: Any, processor: Any, clips: int) -> list[dict[str, Any]]:
    """Compare logits and answers with everything kept."""
    found: dict[int, list[tuple[float, int, int]]] = {nbits: [] for nbits in NBITS}
    with tempfile.TemporaryDirectory() as folder:
        for clip in make_clips(clips, seed=SEED, folder=Path(folder)):
            video = kv.read_video(clip.path)
            inputs = prepare(processor, video, [question.text for question in clip.questions]).to(device_of(model))
            wanted, words = _answered(model, inputs, None)
            for nbits in NBITS:
                logits, said = _answered(model, inputs, nbits)
                error = float((logits - wanted).norm() / wanted.norm())
                found[nbits].append((error, sum(a == b for a, b in zip(said, words, strict=True)), len(words)))
    return [
        {
            "quantize": str(nbits),
            "clips": len(rows),
            "logit_error": round(sum(error for error, _, _ in rows) / len(rows), 4),
            "equal_answers": sum(equal for _, equal, _ in rows),
            "answers": sum(count for _, _, count in rows),
        }
        for nbits, rows in found.items()
    ]


def _answered(model: Any, inputs: Any, quantize: int | None) -> tuple[Tensor, list[list[int]]]:
    with kv.compress(model, "full", "100%", shared=kv.SharedPrefill(), quantize=quantize):
        output = model.generate(
            **inputs, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    return output.logits[0].float(), output.sequences[:, inputs["input_ids"].shape[1] :].tolist()


def drift(nbits: int) -> list[dict[str, Any]]:
    """Measure errors of keys that are quantised again after every compression."""
    draw = torch.Generator().manual_seed(0)
    far = 8 * torch.randn(1, 1, 1, 64, generator=draw) * (torch.rand(64, generator=draw) < 0.1)
    true = torch.randn(1, 1, ARRIVE + STAY, 64, generator=draw) + far
    ours, kivi, worth = true.clone(), true.clone(), torch.rand(ARRIVE + STAY, generator=draw)
    rows = []
    for squeeze in range(1, max(SQUEEZES) + 1):
        ours = unpack_keys(pack_keys(ours, nbits, GROUP), nbits, GROUP, torch.float32)
        kivi = _with_free_scales(kivi, nbits)
        if squeeze in SQUEEZES:
            errors = (float((each - true).norm() / (true - true.mean(2, keepdim=True)).norm()) for each in (ours, kivi))
            mine, theirs = (round(error, 4) for error in errors)
            rows.append({"nbits": nbits, "squeezes": squeeze, "powers_of_two": mine, "free_scales": theirs})
        noisy = worth + 0.3 * torch.rand(ARRIVE + STAY, generator=draw)
        stays = noisy.topk(STAY).indices.sort().values
        worth = torch.cat([worth[stays], torch.rand(ARRIVE, generator=draw)])
        new = torch.randn(1, 1, ARRIVE, 64, generator=draw) + far
        true, ours, kivi = (torch.cat([part[:, :, stays], new], dim=2) for part in (true, ours, kivi))
    return rows


def _with_free_scales(keys: Tensor, nbits: int) -> Tensor:
    grouped = keys.unflatten(2, (-1, GROUP))
    low, high = grouped.aminmax(dim=3, keepdim=True)
    step = ((high - low) / (2**nbits - 1)).half().float()
    return ((grouped - low) / step).round().mul(step).add(low.half().float()).flatten(2, 3)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--clips", type=int, default=4, help="clips of both cameras (default: %(default)s)")
    options = parser.parse_args()
    model, processor = kv.load_bundled(dtype="bfloat16")
    write_result(
        options.out,
        provenance() | {"what": WHAT},
        layers=[row for shape in SHAPES for row in layers(shape)],
        errors=errors(model, processor, options.clips),
        drift=[row for nbits in NBITS for row in drift(nbits)],
    )


if __name__ == "__main__":
    main()
