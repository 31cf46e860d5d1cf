"""The methods that sessions of a server can use."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from ...compressor.listing import list_methods
from ...errors import KVPressVideoError
from ...streaming.session import VideoSession
from .settings import check_capped
from .worker import Worker


class UsableMethods:
    """Installed methods that support the model and cap its cache; each is tried once, when the list is first read."""

    def __init__(self, model: Any, processor: Any, budget: int | str, worker: Worker) -> None:
        self._model, self._processor, self._budget, self._worker = model, processor, budget, worker
        self._listing: asyncio.Task[list[dict[str, str]]] | None = None

    async def read(self) -> list[dict[str, str]]:
        """Return their names and summaries."""
        if self._listing is None:
            self._listing = asyncio.create_task(self._list())
        return await asyncio.shield(self._listing)  # continues if the client disconnects

    async def _list(self) -> list[dict[str, str]]:
        found = []
        for method in list_methods():
            usable = self._worker.submit("methods", partial(self._works, method.name))
            if await asyncio.wrap_future(usable):
                found.append({"name": method.name, "summary": method.summary})
        return found

    def _works(self, name: str) -> bool:
        try:
            check_capped(name)
            VideoSession(self._model, self._processor, name, self._budget)
        except KVPressVideoError:
            return False
        return True
