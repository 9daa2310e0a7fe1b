"""Looking at processes from outside, and waiting for what has no event."""

import asyncio
import subprocess
from collections.abc import Callable

_POLL_S = 0.01


def state_of(pid: int) -> str:
    """The first letter of ps's process state, "" for none. A zombie ("Z") has ended: nobody has asked for its code."""
    done = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1]


def has_ended(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return when ``condition()`` holds; TimeoutError after ``timeout`` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
