"""The client of the load benchmark: it does not wait for answers, and tells where a server gives in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")

from kvpress_video.benchmarks.serving.load import kept_up, knee  # noqa: E402
from kvpress_video.benchmarks.serving.open_loop import Call, Outcome, offered, summary  # noqa: E402

PAUSE = 0.2


async def answering(request: Any) -> Any:
    await asyncio.sleep(PAUSE)
    kind = json.loads(request.content)["kind"]
    if kind == "busy":
        return httpx.Response(429)
    if kind == "whole":
        return httpx.Response(200, json={"usage": {"completion_tokens": 4}})
    last = {"answer": "a b", "usage": {"completion_tokens": 3}}
    events = "".join(f"data: {json.dumps(told)}\n\n" for told in ({"piece": "a"}, {"piece": " b"}, last))
    return httpx.Response(200, text=f"{events}data: [DONE]\n\n", headers={"content-type": "text/event-stream"})


def test_requests_are_sent_when_they_are_due() -> None:
    kinds = ["stream", "whole", "busy"] * 10

    async def load() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answering), base_url="http://server") as client:
            return await offered(client, [Call("/", {"kind": kind}) for kind in kinds], 1000.0, seed=0)

    outcomes, arrivals, seconds = asyncio.run(load())
    assert arrivals < PAUSE <= seconds < len(kinds) * PAUSE / 2  # one after the other would take 30 pauses
    assert [outcome.tokens for outcome in outcomes[:2]] == [3, 4]
    assert all(outcome.end >= PAUSE for outcome in outcomes if outcome.error is None)
    row = summary(outcomes, seconds)
    assert (row["answers"], row["errors"]) == (20, {"status 429": 10})
    assert row["first_p50"] <= row["end_p50"]


def test_a_server_gives_in_where_answers_come_late_or_fail() -> None:
    def row(rate: float, seconds: float, **errors: int) -> dict[str, Any]:
        return {
            "server": "a",
            "rate": rate,
            "arrivals": 10.0,
            "seconds": seconds,
            "errors": errors,
            "answers_per_second": rate,
        }

    rows = [row(1, 10.5), row(2, 12.0), row(4, 14.0), row(8, 11.0, ReadTimeout=1)]
    assert [kept_up(each) for each in rows] == [True, True, False, False]
    assert knee(rows, "a") == {"kept_up_at": 2, "most_answers_per_second": 8}


def test_one_token_takes_the_whole_time() -> None:
    assert Outcome(first=2.0, end=2.0, tokens=1).per_token == 2.0
    assert Outcome(first=1.0, end=2.0, tokens=3).per_token == 0.5
    assert Outcome(first=1.0, end=1.1, tokens=1).per_token == pytest.approx(0.1)
