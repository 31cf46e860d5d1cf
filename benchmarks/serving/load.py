"""Servers under rising load: answers per second, time to first token, time per token, errors, memory and saturation.

    python -m kvpress_video.benchmarks.serving.load --out benchmarks/results/serving-load.json

All servers run side by side, and take turns at each rate, so that a slow moment of the machine affects all. They get
the same questions about the same clips, with answers of mixed lengths. A saturated server gets no more requests.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx

from kvpress_video.utils.formatting import format_bytes
from kvpress_video.utils.model_names import BUNDLED_FOLDERS

from ..publishing.provenance import provenance, write_result
from ..world import make_clip
from .open_loop import offered, summary
from .targets import BUDGET, METHOD, Asked, Target, example_server, our_server

QUESTIONS = ("What was the first shape to flash?", "Where was the heart?", "How many flashes were there?")
SECONDS = (4, 8, 12, 16)
"""Lengths of the clips."""
TOKENS = (4, 12, 24)
"""Maximum answer lengths in tokens."""
LATE = 0.25
"""A server keeps up if its last answer follows the last request within this share of the time of all requests."""
_SAMPLING = 0.1


def main() -> None:
    """Run the benchmark and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1, 2, 4, 8, 16, 32], help="requests per second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of arrivals at each rate (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a client waits (default: %(default)s)")
    parser.add_argument("--memory", default="4GiB", help="of kvpress-video serve (default: %(default)s)")
    parser.add_argument("--whole", action="store_true", help="load only the example server and serve with whole videos")
    parser.add_argument("--checkout", type=Path, help="load serve of this checkout with whole videos as well")
    parser.add_argument("--chunk", help="load serve --chunk with whole videos as well")
    parser.add_argument("--note", default="", help="about the machine, for the file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = Path(str(files("kvpress_video") / "data" / BUNDLED_FOLDERS["qwen2_5_vl"]))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        clips = [make_clip(Path(folder) / f"{place}.mp4", 2 * each).path for place, each in enumerate(SECONDS)]
        targets = [running.enter_context(example_server(model, clips))]
        if not options.whole:
            targets.append(running.enter_context(example_server(model, clips, "--patch", METHOD, BUDGET)))
        serve = partial(our_server, model, clips, options.memory)
        whole, sessions = running.enter_context(serve())
        targets += [whole] if options.whole else [whole, sessions]
        if options.chunk:
            targets.append(running.enter_context(serve("--chunk", options.chunk))[0])
        if options.checkout:
            targets.append(running.enter_context(serve(checkout=options.checkout))[0])
        idle = {target.name: target.resident for target in targets}
        rows = list(_rows(targets, options.rates, options.seconds, options.timeout))
    head = provenance() | {
        "what": "Open loop, Poisson arrivals; the example server does not stream: its first token is its last.",
        "note": options.note,
        "method": METHOD,
        "budget": BUDGET,
        "clips": f"{SECONDS} seconds, two frames each",
        "tokens": f"at most {TOKENS}",
        "idle_bytes": idle,
        "knees": {name: knee(rows, name) for name in idle},
    }
    write_result(options.out, head, rows=rows)


def _rows(
    targets: Sequence[Target], rates: Sequence[float], seconds: float, timeout: float
) -> Iterator[dict[str, Any]]:
    """Load the targets at each rate in turns, except those that did not keep up at two rates."""
    behind = {target.name: 0 for target in targets}
    for target in targets:
        asyncio.run(_load(target, 1.0, 3, timeout))  # the first requests trigger lazy loading
    for rate in rates:
        for target in targets:
            if behind[target.name] > 1:
                continue
            row = asyncio.run(_load(target, rate, max(4, round(rate * seconds)), timeout))
            row = {"server": target.name, "rate": rate, **row}
            behind[target.name] += not kept_up(row)
            print(_line(row), flush=True)
            yield row


async def _load(target: Target, rate: float, count: int, timeout: float) -> dict[str, Any]:
    draw = random.Random(round(1000 * rate))
    asked = [Asked(draw.randrange(len(SECONDS)), draw.choice(QUESTIONS), draw.choice(TOKENS)) for _ in range(count)]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
    async with httpx.AsyncClient(base_url=target.url, timeout=timeout, limits=limits) as client:
        with _peak(target) as peak:
            outcomes, arrivals, seconds = await offered(client, list(map(target.call, asked)), rate, len(asked))
    times = {"arrivals": round(arrivals, 2), "seconds": round(seconds, 2)}
    return summary(outcomes, seconds) | times | {"peak_bytes": max(peak), "machine_load": round(os.getloadavg()[0], 1)}


@contextmanager
def _peak(target: Target) -> Iterator[list[int]]:
    """Sample the memory of a server inside the context."""
    found, ending = [target.resident], threading.Event()

    def sample() -> None:
        while not ending.wait(_SAMPLING):
            found.append(target.resident)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ending.set()
        thread.join()


def kept_up(row: dict[str, Any]) -> bool:
    """Return whether a server answered all requests about as fast as they arrived."""
    return not row["errors"] and bool(row["seconds"] - row["arrivals"] <= LATE * row["arrivals"])


def knee(rows: Sequence[dict[str, Any]], server: str) -> dict[str, float]:
    """Return the highest rate at which a server kept up, and its maximum answers per second at any rate."""
    mine = [row for row in rows if row["server"] == server]
    kept = [row["rate"] for row in mine if kept_up(row)]
    return {
        "kept_up_at": max(kept, default=0.0),
        "most_answers_per_second": max(row["answers_per_second"] for row in mine),
    }


def _line(row: dict[str, Any]) -> str:
    times = " ".join(f"{name} {row.get(name, float('nan')):.2f}" for name in ("first_p50", "first_p95", "end_p95"))
    said = f"{row['answers_per_second']:.2f}/s of {row['rate']:g}, {times}, {format_bytes(row['peak_bytes'], 'MiB')}"
    return f"{row['server']}: {said} {row['errors'] or ''}"


if __name__ == "__main__":
    main()
