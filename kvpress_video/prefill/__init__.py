"""The prompt on its way into the cache: hooks, chunks and shared prefills."""
