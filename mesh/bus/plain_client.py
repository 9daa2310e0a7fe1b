"""The fallback: messages in and out through plain nats-py, by its public interface.

It is slower, and repeated headers arrive as one, since nats-py keeps headers in a dictionary. Everything else behaves
as with the fast transport, and one set of tests runs on both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh import headers
from mesh.bus.frames import Deliver
from mesh.bus.requests import Requests
from mesh.errors import BusUnavailable

PENDING_MESSAGES = 65_536
"""Messages that may wait in nats-py for one subscription; more are dropped and reported as a slow consumer."""
PENDING_BYTES = 64 * 1024 * 1024
"""Bytes of them that may wait."""

_log = logging.getLogger("mesh.bus")


def receiver(deliver: Deliver) -> Callable[[Msg], Awaitable[None]]:
    """A callback for nats-py that calls ``deliver`` as the fast transport would."""

    async def receive(msg: Msg) -> None:
        deliver(msg.subject.encode(), msg.reply.encode(), header_block(msg), msg.data)

    return receive


def header_block(msg: Msg) -> bytes:
    """The header block of a nats-py message as the fast transport would give it; empty without headers."""
    if not msg.headers:
        return b""
    if not msg.data and msg.headers.get("Status") == "503" and "Mesh-Status" not in msg.headers:
        return headers.NO_RESPONDERS + b"\r\n\r\n"
    lines = [headers.START]
    for name, value in msg.headers.items():
        # nats-py's own "Description" of an inline status has several lines; it is not a header of the message.
        if "\n" not in value:
            lines.append(f"{name}: {value}\r\n".encode())
    return b"".join([*lines, headers.END])


class RepeatedHeaders(dict[str, str]):
    """Headers for nats-py's publish: it sends what ``items()`` gives, so repeated names survive."""

    def __init__(self, block: bytes) -> None:
        pairs = [line.partition(b":") for line in block.split(b"\r\n")[1:] if b":" in line]
        self._pairs = [(name.decode(), value.strip().decode()) for name, _, value in pairs]
        super().__init__(self._pairs)

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        return self._pairs


async def ping_self(requests: Requests, publish: Callable[[bytes, bytes], None], heard: Callable[[], None]) -> None:
    """Send ourselves a message each second, and call ``heard`` when it comes back: the server lives.

    Plain nats-py does not show when bytes arrive. Ends when ``publish`` raises `BusUnavailable`.
    """
    reply = requests.new_reply()
    requests.listen(reply, lambda block, payload: heard())
    try:
        while True:
            publish(reply, b"")
            await asyncio.sleep(1)
    except BusUnavailable:
        pass
    finally:
        requests.stop_listening(reply)


def publish(
    client: Client, tasks: set[asyncio.Task[None]], address: bytes, payload: bytes, block: bytes, reply: bytes
) -> None:
    """Publish through nats-py, in a task that is in ``tasks`` until it ends."""
    headers = RepeatedHeaders(block) if block else None
    # nats-py's publish only appends to a list and wakes its flusher, so the task ends at once.
    task = asyncio.create_task(_quietly(client.publish(address.decode(), payload, reply.decode(), headers)))
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _quietly(publish: Awaitable[None]) -> None:
    """Await nats-py's publish; a failure shows in the connection, so here it is only logged."""
    try:
        await publish
    except Exception as error:
        _log.debug("publish failed: %s", error)
