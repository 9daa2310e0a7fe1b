"""Waiting for what has no event of its own."""

import asyncio


async def eventually(condition, timeout=10.0):
    """Return when ``condition()`` holds; TimeoutError after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
