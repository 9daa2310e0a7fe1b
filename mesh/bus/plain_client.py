"""The fallback: messages in and out through plain nats-py, by its public interface.

Slower, and repeated headers arrive as one: nats-py keeps headers in a dictionary. Everything else behaves alike,
and one test table runs on both.
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

# nats-py's own bound is 524,288 messages of any size; past ours it drops and reports a slow consumer.
PENDING_MESSAGES = 65_536
PENDING_BYTES = 64 * 1024 * 1024

_log = logging.getLogger("mesh.bus")


def receiver(deliver: Deliver) -> Callable[[Msg], Awaitable[None]]:
    """A nats-py callback that calls ``deliver`` as the hot lane would."""

    async def receive(msg: Msg) -> None:
        deliver(msg.subject.encode(), msg.reply.encode(), header_block(msg), msg.data)

    return receive


def header_block(msg: Msg) -> bytes:
    """The header block of a nats-py message, as the hot lane would give it; empty without headers."""
    if not msg.headers:
        return b""
    if not msg.data and msg.headers.get("Status") == "503" and "Mesh-Status" not in msg.headers:
        return headers.NO_RESPONDERS + b"\r\n\r\n"
    lines = [headers.START]
    for name, value in msg.headers.items():
        # nats-py's own "Description" of an inline status spans lines; it is no header of the message.
        if "\n" not in value:
            lines.append(f"{name}: {value}\r\n".encode())
    return b"".join([*lines, headers.END])


class Repeats(dict[str, str]):
    """Headers for nats-py's publish, which sends what ``items()`` gives, repeats included."""

    def __init__(self, block: bytes) -> None:
        pairs = [line.partition(b":") for line in block.split(b"\r\n")[1:] if b":" in line]
        self._pairs = [(name.decode(), value.strip().decode()) for name, _, value in pairs]
        super().__init__(self._pairs)

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        return self._pairs


async def ping_self(requests: Requests, publish: Callable[[bytes, bytes], None], heard: Callable[[], None]) -> None:
    """Without the lane nobody sees bytes arrive, so a message to ourselves each second shows that the server lives.

    Until `publish` raises `BusUnavailable`.
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
    client: Client, under_way: set[asyncio.Task[None]], address: bytes, payload: bytes, block: bytes, reply: bytes
) -> None:
    """Publish through nats-py, in a task that is ``under_way`` until it ends."""
    headers = Repeats(block) if block else None
    # nats-py's publish only appends to a list here and wakes its flusher: it ends without waiting.
    task = asyncio.create_task(_quietly(client.publish(address.decode(), payload, reply.decode(), headers)))
    under_way.add(task)
    task.add_done_callback(under_way.discard)


async def _quietly(publish: Awaitable[None]) -> None:
    """A publish of nats-py's: what goes wrong shows in the connection, not here."""
    try:
        await publish
    except Exception as error:
        _log.debug("publish failed: %s", error)
