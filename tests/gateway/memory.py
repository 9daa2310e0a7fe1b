"""Connections to a gateway in memory: the test says what comes in one piece, and in one turn of the event loop."""

import asyncio
import json
import re

from tests.conditions import eventually


class Wire(asyncio.Transport):
    """A transport in memory, for feeding a connection piece by piece."""

    def __init__(self):
        super().__init__()
        self.sent, self.closed = b"", False

    def write(self, data):
        self.sent += data

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = True

    def get_write_buffer_size(self):
        return 0

    def can_write_eof(self):
        return False

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def get_extra_info(self, name, default=None):
        return {"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 80)}.get(name, default)


class Peer(asyncio.Transport):
    """The other end of a connection in memory, which sends a segment in each turn of the event loop, as long as the
    gateway reads. ``received`` is what came back, ``reads`` whether the gateway reads; ``ended`` is set at the end."""

    def __init__(self, mesh, segments, *, eof=False):
        super().__init__()
        self.received = b""
        self._segments = list(reversed(segments))
        self._eof = eof
        self.reads, self._closing = True, False
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        listener = mesh.gateway._listeners[0]
        config, state = listener.config, listener.server_state
        self.connection = config.http_protocol_class(config=config, server_state=state, app_state={})
        self.connection.connection_made(self)
        self._loop.call_soon(self._send)

    def _send(self):
        if not self.reads or self._closing:
            return
        if self._segments:
            self.connection.data_received(self._segments.pop())
        elif self._eof:
            self.reads = False
            if not self.connection.eof_received():
                self.close()
        if self._segments or self._eof:
            self._loop.call_soon(self._send)

    def write(self, data):
        assert not self._closing
        self.received += data

    def close(self):
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._end)

    abort = close

    def _end(self):
        self.connection.connection_lost(None)
        self.ended.set()

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.close()  # it has seen all that it needs

    def is_closing(self):
        return self._closing

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        if not self.reads:
            self.reads = True
            self._loop.call_soon(self._send)

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name, default=None):
        return {"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 80)}.get(name, default)


class Client:
    """A connection in memory."""

    def __init__(self, mesh):
        listener = mesh.gateway._listeners[0]
        config, state = listener.config, listener.server_state
        self.connection = config.http_protocol_class(config=config, server_state=state, app_state={})
        self.connection.connection_made(wire := Wire())
        self.wire = wire

    async def ask(self, *pieces, answers=1):
        """What is sent back: status lines without reason, and the bodies. Less than asked for where it is closed."""
        self.send(*pieces)
        return await self.answer(answers)

    def send(self, *pieces):
        """Give the connection those pieces, now."""
        self.wire.sent = b""
        for piece in pieces:
            self.connection.data_received(piece)

    def send_more(self, piece):
        """Give it one piece, and keep what has been sent back before."""
        self.connection.data_received(piece)

    async def settled(self):
        """See `ask`: all that is sent back until nothing more comes without more being sent."""
        one = self.connection
        await eventually(
            lambda: (
                self.wire.closed
                or (not one.pipeline and not one._unread and (one._current is None or one._current.more_body))
            )
        )
        return self._seen()

    async def answer(self, answers=1):
        """See `ask`."""
        await eventually(lambda: self.wire.closed or len(self._seen()) >= answers)
        return self._seen()

    def _seen(self):
        found = re.findall(
            rb"HTTP/1\.1 (\d+) .*?\r\n\r\n(?:(\{[^\r]*\}|\[[^\r]*\]))?(?=HTTP/1\.1|\Z)", self.wire.sent, re.S
        )
        seen = []
        for status, body in found:
            document = json.loads(body) if body else None
            if isinstance(document, dict):
                document.pop("request_id", None)
            seen.append((int(status), document))
        return seen

    def close(self):
        self.connection.connection_lost(None)
