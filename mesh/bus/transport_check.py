"""The fast transport is tried on the real connection before anything relies on it."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client

from mesh.bus.fast_transport import FastTransport
from mesh.bus.requests import Requests

CHECK_TIMEOUT_S = 2.0
"""Seconds in which a message to ourselves has to come back."""
_BLOCK = b"NATS/1.0\r\na: 1\r\na: 2\r\n\r\n"


async def check_transport(requests: Requests, client: Client, fast_transport: FastTransport) -> str:
    """Send ourselves two messages: one through nats-py, one through the fast transport.

    The first comes after the subscriptions that nats-py has still to write. The second has a repeated header, which
    only the fast transport keeps.

    Returns why it failed; empty if it works. Raises TimeoutError if the connection itself was lost meanwhile.
    """
    answers: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    reply = requests.new_reply()
    requests.listen(reply, lambda block, payload: answers.put_nowait((block, payload)))
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await client.publish(reply.decode(), b"", headers={"a": "1"})
            await answers.get()
            size = len(_BLOCK)
            fast_transport.queue.send(b"HPUB %b %d %d\r\n" % (reply, size, size + 2), _BLOCK, b"ok", b"\r\n")
            if await answers.get() != (_BLOCK, b"ok"):
                return "a message changed on its way"
    except TimeoutError:
        if not client.is_connected:
            raise
        return "a message sent to ourselves did not come back"
    finally:
        requests.stop_listening(reply)
    return ""
