"""Questions to many capped sessions on one model: in one batch, compared with one at a time.

    python -m kvpress_video.benchmarks.streams.many_sessions --sessions 1 8 32 --out many-sessions.json

Both ways alternate in one run, on the same sessions with the same questions; the answers must be equal. Times are
medians of `--rounds` rounds after a warm-up. On a GPU, give `--model` a checkpoint.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import kvpress_video as kv
from kvpress_video.sweep.run.environment import device_name

from ..publishing.provenance import provenance, write_result
from ..world import make_clips

WHAT = "Seconds until all sessions have answered; each has watched a clip of the bundled world under the same cap."


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--method", default="infinipot-v")
    parser.add_argument("--budget", default="256")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="tokens of every answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", help="a checkpoint (default: the bundled model)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    model, processor = kv.load(options.model) if options.model else kv.load_bundled()
    with tempfile.TemporaryDirectory() as folder:
        clips = make_clips(8, 32, folder=Path(folder))
        videos = [kv.read_video(clip.path) for clip in clips]
    rows = []
    for count in options.sessions:
        sessions, questions = [], []
        for number in range(count):
            session = kv.VideoSession(model, processor, options.method, options.budget)
            session.push(videos[number % 8].frames, videos[number % 8].times)
            session.flush()
            sessions.append(session)
            questions.append(clips[number % 8].questions[number // 8 % 8].text)
        rows.append(_compare(sessions, questions, options.new_tokens, options.rounds))
        print(rows[-1])
    head = provenance() | {"what": WHAT, "device": device_name(model.device), "method": options.method}
    write_result(options.out, head | {"budget": options.budget}, rows=rows)


def _compare(sessions: Sequence[kv.VideoSession], questions: Sequence[str], length: int, rounds: int) -> dict[str, Any]:
    """Measure one row. Every answer has `length` tokens, so that both ways decode the same number."""
    options: Any = {"max_new_tokens": length, "min_new_tokens": length, "keep": False}

    def singly() -> list[str]:
        return [session.ask(question, **options) for session, question in zip(sessions, questions, strict=True)]

    def together() -> list[str]:
        return kv.ask_all(sessions, questions, **options)

    times: dict[Callable[[], list[str]], list[float]] = {singly: [], together: []}
    answers = {way: way() for way in times}
    for _ in range(rounds):
        for way, taken in times.items():
            started = _now()
            way()
            taken.append(_now() - started)
    alone, batch = (median(taken) for taken in times.values())
    tokens = length * len(sessions)
    return {
        "sessions": len(sessions),
        "same_answers": answers[singly] == answers[together],
        "one_by_one_s": round(alone, 4),
        "together_s": round(batch, 4),
        "tokens_per_s_one_by_one": round(tokens / alone, 1),
        "tokens_per_s_together": round(tokens / batch, 1),
        "ratio": round(alone / batch, 2),
    }


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
