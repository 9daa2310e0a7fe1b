"""``--watch``: a command that shows its figures again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def refresh(show: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Run ``show`` once, or every ``interval_s`` seconds until Ctrl-C if that is not 0."""
    while True:
        await show()
        if not interval_s:
            return
        try:
            await asyncio.sleep(interval_s)
        except asyncio.CancelledError:  # Ctrl-C is how watching ends
            return
