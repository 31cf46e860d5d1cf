"""Read the files at URLs for a limited number of requests at a time, in dedicated threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from .failures import RequestError
from .media import MediaReader


class Downloads:
    """Downloads of one server; all files of a request together are limited to the size of one file."""

    def __init__(self, media: MediaReader, queue: int) -> None:
        """Create it without downloads.

        Args:
            media: reads URLs.
            queue: maximum number of waiting requests.
        """
        self._media, self._queue, self._waiting = media, queue, 0
        self._places = asyncio.Semaphore(media.limits.downloads)
        self._threads = ThreadPoolExecutor(media.limits.downloads, "download")

    def close(self) -> None:
        """Start no more downloads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def contents(self, urls: Sequence[str]) -> AsyncIterator[list[bytes]]:
        """Read the files at URLs, which count as downloads until the context ends; data URLs do not count.

        Raises:
            RequestError: a URL or its file is refused, the files are too large in total, or too many requests wait.
        """
        if all(url[:5].lower() == "data:" for url in urls):
            yield [await asyncio.to_thread(self._media.content, url) for url in urls]
            return
        if self._waiting >= self._queue and self._places.locked():
            raise RequestError(429, "Too many downloads: try again.", code="server_busy", retry_after=5)
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield await self._read(urls)
        finally:
            self._places.release()

    async def _read(self, urls: Sequence[str]) -> list[bytes]:
        files: list[bytes] = []
        for url in urls:
            files.append(await asyncio.get_running_loop().run_in_executor(self._threads, self._media.content, url))
            if sum(map(len, files)) > self._media.limits.size:
                raise RequestError(400, f"The files are larger than {self._media.limits.size:,} bytes in all.")
        return files
