"""A client's WebSocket: uvicorn's protocol, with the bounds that it lacks on what a client may have here.

uvicorn reads whatever comes and answers each ping at once. So a client that sends pings and reads nothing fills the
memory with pongs, and one that sends frames which carry nothing keeps the event loop busy. Here frames are read in
slices, and only while the application and the client take what follows from them (`_may_read`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from gateway.body_memory import BodyMemory
from gateway.listening_sockets import has_closed
from gateway.slow_clients import OutgoingBuffer
from mesh.errors import MeshError, Overloaded
from mesh.streams.close_codes import TOO_BIG, TRY_AGAIN_LATER

SLICE = 2 * 1024
"""Bytes that are read at once: 340 of the smallest frames, some milliseconds of work."""
IDLE_FRAMES = 64
"""Frames without content (pings, pongs, empty fragments) that are read before others have their turn."""
REST_S = 0.02
"""Seconds until such a client is read again: it gets 3,200 of them through in a second."""
FRAGMENT_COST = 256
"""Bytes that a fragment of a message counts at least: an empty one takes memory too."""
INVALID = 1007
"""Close code for text that is not UTF-8 (RFC 6455 section 7.4.1)."""


def websocket_protocol(body_memory: BodyMemory) -> Callable[..., WebSocketConnection]:
    """For uvicorn's ``ws=``: what makes the connections of WebSockets, whose messages take of ``body_memory``."""
    return partial(WebSocketConnection, body_memory)


class WebSocketConnection(WebSocketsSansIOProtocol):
    """One WebSocket. ``check`` must be called now and then: it ends a connection whose client does not read."""

    def __init__(
        self, body_memory: BodyMemory, /, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._share = body_memory.share(self._no_room)
        self._waiting: deque[int] = deque()  # sizes of the messages that the application has not dealt with
        self._unread = b""  # came, and waits to be read as frames
        self._idle_frames = 0  # since the client was last let rest
        self._resting: asyncio.TimerHandle | None = None
        self._size = 0  # of the message that is coming; a fragment counts `FRAGMENT_COST` at least
        self._going_on = False
        self._outgoing = OutgoingBuffer()
        self._read_since = 0.0  # when reading went on after a pause

    # -- from the socket

    def data_received(self, data: bytes) -> None:
        self._unread += data
        self._go_on()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        if self._resting is not None:
            self._resting.cancel()
        self._waiting.clear()
        self._share.release()
        self._share.keep()
        super().connection_lost(exc)

    def check(self, now: float) -> None:
        """End the connection if its client takes nothing. ``now`` is a moment of the event loop's clock."""
        if self._outgoing.stalls(self.transport, now):
            self.transport.abort()

    # -- reading, as far as it may go on

    def _may_read(self) -> bool:
        """True if nothing waits: no message for the application, nothing for the client, and it need not rest."""
        return not self.read_paused and self.writable.is_set() and self._resting is None

    def _go_on(self) -> None:
        if self._going_on:
            return
        self._going_on = True
        try:
            while self._unread and self._may_read() and not self.transport.is_closing():
                piece, self._unread = self._unread[:SLICE], self._unread[SLICE:]
                super().data_received(piece)
                self._count()
                if self._idle_frames >= IDLE_FRAMES:
                    self._resting = self.loop.call_later(REST_S, self._rested)
        finally:
            self._going_on = False
        transport = self.transport
        if transport.is_closing():
            self._unread = b""
        elif self.conn.handshake_exc is not None and not self.handshake_initiated:
            # Refused by the library before there was a request to answer: a line that is too long for it, say.
            transport.write(b"".join(self.conn.data_to_send()))
            transport.close()
        elif not self._may_read():
            transport.pause_reading()
        elif not transport.is_reading():
            self._read_since = self.loop.time()
            transport.resume_reading()

    def _rested(self) -> None:
        self._resting, self._idle_frames = None, 0
        self._go_on()

    def keepalive_timeout(self) -> None:
        """No pong came. Nothing is read while the application is slow, a pong neither: only a client that left ends
        the connection then."""
        assert self.ping_timeout is not None
        reads = self._may_read()
        if reads and self.loop.time() - self._read_since >= self.ping_timeout:
            super().keepalive_timeout()
            return
        socket = self.transport.get_extra_info("socket")
        if not reads and socket is not None and has_closed(socket.fileno()):
            self.pong_timer = None
            self.transport.abort()
        else:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)

    # -- frames

    def handle_text(self, event: Frame) -> None:
        self._size = 0
        if self._counts(event):
            super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        self._size = 0
        if self._counts(event):
            super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        if self._counts(event):
            super().handle_cont(event)

    def handle_ping(self) -> None:
        self._idle_frames += 1
        if not self.close_sent:
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        self._idle_frames += 1
        super().handle_pong(event)

    def _counts(self, event: Frame) -> bool:
        """Count a fragment; whether the message may go on."""
        if self.close_sent:
            return False
        size = len(event.data)
        if size < FRAGMENT_COST and not event.fin:
            self._idle_frames += 1
        self._size += max(size, FRAGMENT_COST)
        if self._size > max(size, self.config.ws_max_size):  # a message of one frame has been measured before
            self._fail(TOO_BIG, "the message has too many fragments, or too many bytes")
            return False
        return True

    def send_receive_event_to_app(self) -> None:
        """Give the application a whole message. Reading stops until it has taken all that wait."""
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "text":
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self._fail(INVALID, "the text is not UTF-8")
                return
        else:
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        self._waiting.append(len(data))
        self._size = 0
        self.read_paused = True

    def _count(self) -> None:
        """Count what is here of the client's: a frame and a message that are coming, messages that wait."""
        more = len(self.conn.reader.buffer) + self._size + sum(self._waiting) - self._share.size
        if more <= 0:
            self._share.give(-more)
        elif not self.close_sent:
            try:
                self._share.take(more)
            except Overloaded as error:
                self._no_room(error)

    def _no_room(self, error: MeshError) -> None:
        if not self.close_sent:
            self._fail(TRY_AGAIN_LATER, error.detail)

    def _fail(self, code: int, reason: str) -> None:
        self.frames, self._size = [], 0
        self.conn.send_close(code, reason)
        self.handle_parser_exception()

    # -- the application's side

    async def receive(self) -> Any:
        if self._waiting and len(self._waiting) > self.queue.qsize():
            self._waiting.popleft()  # it is asked for the next one
            self._count()
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._go_on()
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # it is refused, and that completes it: uvicorn logs an error otherwise
        elif message["type"] == "websocket.close":
            self._go_on()
