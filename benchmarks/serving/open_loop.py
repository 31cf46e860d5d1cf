"""An open-loop client: requests are sent at random times at a given rate, without waiting for earlier ones."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        path: path of the URL.
        body: JSON to post.
    """

    path: str
    body: dict[str, Any]


@dataclass
class Outcome:
    """Outcome of a request; times are in seconds from its scheduled time.

    Attributes:
        error: kind of failure; None for an answer.
        first: time to the first text; to the end of an answer that is not streamed.
        end: time to the end.
        tokens: tokens of the answer.
    """

    error: str | None = None
    first: float = 0.0
    end: float = 0.0
    tokens: int = 0

    @property
    def per_token(self) -> float:
        """Seconds per token after the first; seconds per token of an answer that is not streamed."""
        return (self.end - self.first) / max(1, self.tokens - 1) if self.end > self.first else self.end / self.tokens


async def offered(
    client: httpx.AsyncClient, calls: Sequence[Call], rate: float, seed: int
) -> tuple[list[Outcome], float, float]:
    """Send calls at Poisson arrivals; return the outcomes, the time of the last arrival, and the time of the last end.

    Args:
        client: client with the base URL and a timeout, after which a request counts as failed.
        calls: calls in order.
        rate: requests per second on average.
        seed: seed of the arrivals.
    """
    draw, due = random.Random(seed), 0.0
    began = time.perf_counter()
    tasks = []
    for call in calls:
        due += draw.expovariate(rate)
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        tasks.append(asyncio.create_task(_sent(client, call, began + due)))
    outcomes = list(await asyncio.gather(*tasks))
    return outcomes, due, time.perf_counter() - began


async def _sent(client: httpx.AsyncClient, call: Call, due: float) -> Outcome:
    outcome = Outcome()
    try:
        async with client.stream("POST", call.path, json=call.body) as answer:
            if answer.status_code != 200:
                return Outcome(error=f"status {answer.status_code}")
            streamed = answer.headers["content-type"].startswith("text/event-stream")
            await (_events if streamed else _whole)(answer, outcome, due)
    except httpx.HTTPError as error:
        return Outcome(error=type(error).__name__)
    outcome.end = time.perf_counter() - due
    outcome.first = outcome.first or outcome.end
    return outcome if outcome.tokens else Outcome(error="empty answer")


async def _whole(answer: httpx.Response, outcome: Outcome, due: float) -> None:
    outcome.tokens = json.loads(await answer.aread())["usage"]["completion_tokens"]


async def _events(answer: httpx.Response, outcome: Outcome, due: float) -> None:
    """Read server-sent events of chat completions, or of questions to sessions."""
    pieces = 0
    async for line in answer.aiter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        told = json.loads(line.removeprefix("data: "))
        choices = told.get("choices") or [{}]
        if told.get("piece") or choices[0].get("delta", {}).get("content"):
            outcome.first = outcome.first or time.perf_counter() - due
            pieces += 1
        if told.get("usage"):
            outcome.tokens = told["usage"]["completion_tokens"]
    outcome.tokens = outcome.tokens or pieces


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Summarise the outcomes of one rate: answers per second, errors by kind, and percentiles in seconds."""
    answers = [outcome for outcome in outcomes if outcome.error is None]
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    row: dict[str, Any] = {
        "requests": len(outcomes),
        "answers": len(answers),
        "answers_per_second": round(len(answers) / seconds, 3),
        "tokens_per_second": round(sum(outcome.tokens for outcome in answers) / seconds, 2),
        "errors": {str(kind): failures.count(kind) for kind in sorted(set(failures))},
    }
    for name in ("first", "per_token", "end") if answers else ():
        values = np.percentile([getattr(outcome, name) for outcome in answers], PERCENTILES)
        row |= {f"{name}_p{point}": round(float(value), 4) for point, value in zip(PERCENTILES, values, strict=True)}
    return row
