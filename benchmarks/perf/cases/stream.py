"""A long stream: memory and speed of a session after 1, 10 and 60 minutes, or the minutes of the scale.

A frame of the stream is one temporal step of the model, made of two pictures; there is one each second.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..results.measurement import Figure, Goal
from ..setup.hardware_limits import arithmetic_rate, copy_rate
from ..setup.long_stream import METHOD, PARTS, LongStream, Point, long_stream
from ..setup.scales import Bed

_WORK = "operations of both towers, counted on a chunk, at the rate of one large matrix product"
_READ = "keys and values of the budget and a chunk read once, at the rate of a large copy"


def run(bed: Bed) -> Iterator[Figure]:
    """Measure speed, memory and shares of frame time."""
    watch = long_stream(bed)
    rate = arithmetic_rate(bed.device, bed.scale.dtype)
    lengths = sorted(bed.scale.minutes)
    since, points = 0, []
    for minutes in lengths:
        points.append(watch.until(minutes))
        yield _speed(watch, points[-1], since, rate)
        since = minutes
        if len(points) > 1:
            yield from _memory(bed, points[0], points[-1])
    yield _held(watch, points[-1])
    yield from _shares(watch, points[-1])


def _speed(watch: LongStream, point: Point, since: int, rate: float) -> Figure:
    gpu = watch.bed.device.type == "cuda"
    raw = {"frames": point.frames, "pictures": 2 * point.frames, "seconds": point.seconds,
           "operations_per_frame": watch.operations, "operations_per_second": rate}  # fmt: skip
    return Figure(
        "stream", f"{METHOD}, minutes {since} to {point.minutes}",
        "frames (of two pictures each) per second, including processor and vision tower", point.frames / point.seconds,
        "fps", Goal(30, least=True) if gpu else None, rate / watch.operations, _WORK, raw,
    )  # fmt: skip


def _memory(bed: Bed, first: Point, now: Point) -> Iterator[Figure]:
    case = f"{METHOD}, {now.minutes} minutes"
    sizes = {
        "peak memory of torch beyond the weights": [point.allocated for point in (first, now)],
        "buffers of the session": [point.stats.reserved_bytes for point in (first, now)],
        "peak of the cache": [point.stats.peak_bytes for point in (first, now)],
        "resident memory of the process": [point.resident for point in (first, now)],
    }
    asked = "peak memory of torch beyond the weights" if bed.device.type == "cuda" else "resident memory of the process"
    for what, (before, after) in sizes.items():
        if after:
            yield Figure(
                "stream", case, f"{what}, growth since {first.minutes} min", 100 * (after / before - 1), "%",
                Goal(1) if what == asked else None, 0.0, "one budget and one chunk, at any length of the stream",
                raw={"bytes_before": before, "bytes": after},
            )  # fmt: skip


def _held(watch: LongStream, point: Point) -> Figure:
    entry = watch.entry_bytes * watch.layers
    full = point.stats.visual_tokens * entry
    held = point.stats.reserved_bytes
    return Figure(
        "stream", f"{METHOD}, {point.minutes} minutes", "savings against keys and values of the full cache",
        100 * (1 - held / full), "%", Goal(94, least=True), 100 * (1 - watch.bed.scale.budget * entry / full),
        "keys and values of the budget only; measured: all buffers, with metadata and space for a chunk",
        raw={"bytes": held, "full_bytes": full, "entries": point.stats.entries[0],
             "visual_tokens": point.stats.visual_tokens},
    )  # fmt: skip


def _shares(watch: LongStream, point: Point) -> Iterator[Figure]:
    """Compute shares of frame time; concurrent work of device and CPU counts twice, and the rest is the remainder."""
    bed, spent = watch.bed, point.parts
    frames = 60 * point.minutes
    rows, columns = bed.scale.patches
    raw = {"frames": frames, **{f"{name.replace(' ', '_')}_seconds": seconds for name, seconds in spent.items()}}
    entries = bed.scale.budget + watch.chunk * rows * columns
    least = entries * watch.entry_bytes * watch.layers / copy_rate(bed.device) / watch.chunk * frames
    for name in PARTS:
        asked = name == "compression"
        yield Figure(
            "stream", f"{name}, {point.minutes} minutes", "share of frame time", 100 * spent[name] / spent["all"], "%",
            Goal(0.25) if asked else None, 100 * least / spent["all"] if asked else None, _READ if asked else "", raw,
        )  # fmt: skip
    rest = spent["all"] - sum(spent[name] for name in PARTS)
    yield Figure(
        "stream", f"everything else, {point.minutes} minutes", "share of frame time", 100 * rest / spent["all"], "%",
        raw=raw,
    )  # fmt: skip
