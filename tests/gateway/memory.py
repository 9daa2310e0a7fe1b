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
