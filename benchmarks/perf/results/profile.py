"""Profile a hot path before or after a change, for the performance page.

    out=benchmarks/results/perf/profiles/pass.json
    python -m kvpress_video.benchmarks.perf.results.profile pass before --out $out
    python -m kvpress_video.benchmarks.perf.results.profile pass after --why "…" --out $out

`pass` compresses one layer, `push` pushes a chunk of frames into a session whose budget is full, `decode` asks that
session. Seconds are a median without the profiler; operations are ranked by self time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

import kvpress_video as kv
from kvpress_video.compressor.registry import make_method
from kvpress_video.sweep.run.environment import device_name

from ...publishing.provenance import provenance
from ..cases.compress_pass import Layer
from ..setup.long_stream import QUESTION, chunk_of, noise
from ..setup.scales import Bed, bed
from ..setup.timing import seconds, wait
from .profile_files import SIDES, keep

Work = Callable[[], Any]
_SHOWN = 12


def compress(bed: Bed, method: str) -> tuple[str, Callable[[], Work]]:
    """Prepare one pass over the longest layer of the scale; return its name and work."""
    layer = Layer(max(bed.scale.entries), bed.device)
    made = make_method(method)
    return f"One pass of {method} over {layer.length:,} entries", lambda: layer.pass_of(made)


def push(bed: Bed, method: str) -> tuple[str, Callable[[], Work]]:
    """Prepare pushing a chunk of frames into a full session."""
    session, frames = _full_session(bed, method)
    rows, columns = bed.scale.patches
    return (
        f"{method}: {len(frames)} frames of {rows * columns} tokens pushed to a session",
        lambda: lambda: _show(session, frames),
    )


def decode(bed: Bed, method: str) -> tuple[str, Callable[[], Work]]:
    """Prepare a question to a full session, with the scale's number of answer tokens."""
    session, _ = _full_session(bed, method)
    count = bed.scale.new_tokens

    def ask() -> str:
        return session.ask(QUESTION, keep=False, max_new_tokens=count, min_new_tokens=count)

    return f"{method}: a question to a session and {count} tokens of its answer", lambda: ask


PATHS = {"pass": compress, "push": push, "decode": decode}


def _full_session(bed: Bed, method: str) -> tuple[kv.VideoSession, Any]:
    """Make a session whose budget is full, and a chunk of frames."""
    model, processor = bed.model()
    session = kv.VideoSession(model, processor, method, bed.scale.budget)
    frames = noise(bed, model.config.vision_config, chunk_of(bed))
    while min(session.stats.entries) < bed.scale.budget:
        _show(session, frames)
    return session, frames


def _show(session: kv.VideoSession, frames: Any) -> None:
    for frame in frames:
        session.push(frame)
    session.flush()


def measure(ready: Callable[[], Work], device: torch.device, rounds: int) -> tuple[float, list[list[Any]]]:
    """Time a work and profile its operations.

    Returns:
        Median seconds, and one row per operation, most expensive first: name, calls, self time (ms) and its share (%),
        for one round.
    """
    spent = [seconds(ready(), device) for _ in range(1 + rounds)][1:]
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    work = ready()
    with torch.profiler.profile(activities=activities) as profile:
        work()
        wait(device)
    taken = {
        event.key: (event.count, float(event.self_device_time_total if gpu else event.self_cpu_time_total))
        for event in profile.key_averages()
        if event.device_type == DeviceType.CPU  # operations; a kernel counts as time of the operation that launched it
    }
    whole = sum(time for _, time in taken.values())
    most = sorted(taken.items(), key=lambda item: -item[1][1])[:_SHOWN]
    return median(spent), [
        [name, count, round(time / 1e3, 4), round(100 * time / whole, 2)] for name, (count, time) in most if time
    ]


def main() -> None:
    """Profile the path named on the command line."""
    parser = argparse.ArgumentParser(description="Profile a hot path.")
    parser.add_argument("path", choices=PATHS)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--method", default="infinipot-v", help="compression method (default: %(default)s)")
    parser.add_argument("--scale", help="tiny, laptop or 7b (default: 7b on a GPU, else laptop)")
    parser.add_argument("--device", help="device to run on (default: cuda if available, else cpu)")
    parser.add_argument("--why", help="finding and change, in words")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    where = bed(options.scale, options.device)
    with torch.inference_mode(options.path == "pass"):
        path, ready = PATHS[options.path](where, options.method)
        spent, table = measure(ready, where.device, where.scale.rounds)
    made = provenance()
    machine = f"{device_name(where.device)}, {where.name}; {made['machine']}"
    side = {"revision": made["revision"], "seconds": spent, "table": table}
    keep(options.out, path, options.why, machine, options.side, side)
    print(f"{path}: {1e3 * spent:.4g} ms; written to {options.out}")


if __name__ == "__main__":
    main()
