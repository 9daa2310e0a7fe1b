"""The sending side of the fast transport: a queue of commands, written once in each turn of the event loop.

Everything that is sent goes through one queue, so that it leaves in the order in which it was sent: commands of the
mesh (`WriteQueue.send`), messages that may share a bundle (`WriteQueue.add_to_bundle`, see `mesh.bus.bundling`), and
what nats-py itself writes. One turn of a gateway, for example::

    add_to_bundle(mesh.to.users.I1., get ...)      opens a bundle
    add_to_bundle(mesh.to.users.I1., get ...)      joins it
    send(PUB mesh.event.x ...)                     seals it: it is now in the queue, before the event
    end of the turn: flush()                       one write to the socket: a PUB with two requests, the event's PUB
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from mesh.bus.bundles import FRAMING, MAX_BUNDLE, MAX_MESSAGE, BundledMessage, encode
from mesh.bus.pending import Pending
from mesh.errors import Overloaded

MAX_BUFFER: Final = 64 * 1024 * 1024
"""Bytes that may wait for a slow NATS server before publishing is refused."""
REQUESTS_PER_WRITE: Final = 32
"""Requests of a bundle that are written without waiting for the end of the turn: the receiver works on them while the
others are still collected."""


class _OpenBundle(Struct, eq=False):
    """A bundle that still takes messages. ``size``: bytes that its payload has at most."""

    size: int = 0
    messages: list[BundledMessage] = []


class WriteQueue:
    """Collects what is sent on one connection after another; `attach` names the socket."""

    __slots__ = (
        "_bundles",
        "_commands",
        "_loop",
        "_max_bundle",
        "_max_message",
        "_on_bundle_sent",
        "_size",
        "_transport",
        "_writable",
        "bytes_out",
        "expects_replies",
        "is_scheduled",
        "messages_out",
    )

    def __init__(self) -> None:
        self.bytes_out = 0
        self.messages_out = 0
        """NATS messages; a bundle is one."""
        self.is_scheduled = False
        """True if `flush` is called at the end of this turn."""
        self.expects_replies = False
        """True if what is being received makes tasks that may reply at once: flush after them, in the same turn.

        If the first reply had to ask for it, the flush would be a turn later, with a poll of the sockets in between."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._commands: list[bytes] = []  # in parts
        self._size = 0  # bytes of those that were queued while the socket was full
        self._writable = asyncio.Event()
        # By the prefix of the messages' subjects; they come after everything that is in `_commands`.
        self._bundles: dict[bytes, _OpenBundle] = {}
        self._max_bundle = 0
        self._max_message = -1  # of none
        self._on_bundle_sent: Callable[[list[Pending]], None] = lambda pending: None

    def attach(self, transport: asyncio.Transport) -> None:
        """Write to that socket from now on."""
        self._transport = transport

    def clear(self) -> None:
        """Forget what was not written: the connection is lost."""
        self._commands.clear()
        self._bundles.clear()
        self._size = 0
        self._writable.set()

    # -- sending

    def send(self, *parts: bytes) -> None:
        """Queue a command. Raises `Overloaded` if the server reads so slowly that `MAX_BUFFER` bytes wait."""
        if self._bundles:
            self._seal()
        if not self.is_scheduled:
            self.is_scheduled = True
            self._loop.call_soon(self.flush)
        self._commands += parts
        self.messages_out += 1
        if not self._writable.is_set():
            self._size += sum(map(len, parts))
            if self._size > MAX_BUFFER:
                del self._commands[-len(parts) :]
                self._size -= sum(map(len, parts))
                raise Overloaded("NATS reads slower than this process writes")

    def allow_bundles(self, max_payload: int, on_bundle_sent: Callable[[list[Pending]], None]) -> None:
        """Bundle messages from now on.

        max_payload: bytes that the server takes in one message.
        on_bundle_sent: called with the requests of each bundle of more than one.
        """
        self._max_bundle = min(MAX_BUNDLE, max_payload)
        self._max_message = min(MAX_MESSAGE, self._max_bundle // 4)
        self._on_bundle_sent = on_bundle_sent

    def forbid_bundles(self) -> None:
        """Send each message by itself from now on."""
        self._max_message = -1

    def add_to_bundle(
        self, prefix: bytes, names: bytes, reply: bytes, block: bytes, payload: bytes, pending: Pending | None
    ) -> bool:
        """Queue a message that may share a bundle with others of this turn; see `BundledMessage` for the parameters.

        prefix: the message's subject without its last token, ending in a dot.

        Returns False if the message has to be sent by itself: it is large, or the server reads slowly, which `send`
        counts.
        """
        size = len(block) + len(payload)
        if size > self._max_message:
            return False
        bundle = self._bundles.get(prefix)
        if bundle is None:
            if not self._writable.is_set():
                return False
            if not self.is_scheduled:
                self.is_scheduled = True
                self._loop.call_soon(self.flush)
            bundle = self._bundles[prefix] = _OpenBundle()
        size += len(names) + FRAMING
        if bundle.size + size > self._max_bundle:
            self._seal()
            bundle = self._bundles[prefix] = _OpenBundle()
        bundle.size += size
        bundle.messages.append(BundledMessage(names, reply, block, payload, pending))
        if pending is not None and len(bundle.messages) == REQUESTS_PER_WRITE:
            self.flush()
        return True

    def _seal(self) -> None:
        """Move all open bundles to the commands, in the order in which they were begun."""
        for prefix, bundle in self._bundles.items():
            messages = bundle.messages
            self._commands += encode(prefix, messages)
            self.messages_out += 1
            if len(messages) > 1 and messages[0].pending is not None:
                self._on_bundle_sent([message.pending for message in messages if message.pending is not None])
        self._bundles.clear()

    def send_bytes(self, data: bytes) -> None:
        """Queue what nats-py writes: its commands are not counted as messages, since most are none."""
        self.send(data)
        self.messages_out -= 1

    # -- to the socket

    def flush(self) -> None:
        """Write everything, unless the socket is full."""
        self.is_scheduled = False
        if self._bundles:
            self._seal()
        # Paused: the socket's buffer is above its high-water mark. The commands wait here, where they are counted.
        if self._commands and self._writable.is_set():
            data = b"".join(self._commands)
            self._commands.clear()
            self._size = 0
            self.bytes_out += len(data)
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)

    def pause(self) -> None:
        """The socket is full: write no more until `resume`."""
        self._writable.clear()

    def resume(self) -> None:
        """The socket has room again."""
        self._writable.set()
        self.flush()

    async def wait_writable(self) -> None:
        """Return when the socket has room after what was sent in this turn, or the connection is lost."""
        if self._commands or self._bundles:
            await asyncio.sleep(0)  # what was sent in this turn is written at its end
        await self._writable.wait()

    async def drain(self) -> None:
        """Write everything; return when the socket has room, or the connection is lost."""
        self.flush()
        await self._writable.wait()

    @property
    def buffered(self) -> int:
        """Bytes that wait to be written, here and in the event loop's transport."""
        below = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._size + below
