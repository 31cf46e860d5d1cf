"""The metrics of all servers on one page, each with the name of its server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ..server.failures import RequestError
from ..server.membership import Member

_PATIENCE = aiohttp.ClientTimeout(total=5.0)


async def gather_metrics(
    client: aiohttp.ClientSession, servers: Sequence[Member], headers: list[tuple[str, str]]
) -> bytes:
    """Ask every server for its metrics, with the headers of a client; one that does not answer is left out.

    Raises:
        RequestError: a server refuses the client.
    """
    pages = await asyncio.gather(*(_page(client, server, headers) for server in servers))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered({name: page for name, page in pages if page is not None}))
    return generate_latest(registry)


async def _page(
    client: aiohttp.ClientSession, server: Member, headers: list[tuple[str, str]]
) -> tuple[str, str | None]:
    try:
        async with client.get(f"{server.url}/metrics", headers=headers, timeout=_PATIENCE) as answer:
            if answer.status != 200:
                raise RequestError(answer.status, "The servers refuse this request: check the API key and the host.")
            return server.name, await answer.text()
    except (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError):
        return server.name, None


class _Gathered:
    def __init__(self, pages: dict[str, str]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        """Join the metrics of one name."""
        joined: dict[str, Metric] = {}
        for server, page in self._pages.items():
            for family in text_string_to_metric_families(page):
                metric = joined.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    labels = {**sample.labels, "server": server}
                    metric.add_sample(sample.name, labels, sample.value)
        return iter(joined.values())
