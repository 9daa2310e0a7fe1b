"""What the tests of the bus share."""

import asyncio
import contextlib
from urllib.parse import urlparse

from mesh.bus import Bus
from mesh.config import BusSettings

OK = b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n"


def bus_on(url, lane="auto", prefix="mesh", **options):
    return Bus(BusSettings(servers=(url,), lane=lane, prefix=prefix), **options)


async def echo(bus, subject, queue=""):
    """A responder that answers with what it got."""

    def respond(subject, reply, block, payload):
        if bus.subjects.may_reply(reply):
            bus.reply(reply, payload, OK if b"Mesh-Status" not in block else block)

    subscription = await bus.subscribe(subject, respond, queue=queue)
    await bus.flush()
    return subscription


async def cut(bus, server):
    """Kill the server; return when the bus knows."""
    down = asyncio.Event()
    bus.on_connection(lambda connected: connected or down.set())
    await server.kill()
    await asyncio.wait_for(down.wait(), 10)


class Raw:
    """A NATS client of bare bytes, for what no library would send."""

    def __init__(self, url):
        self._url = urlparse(url)

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection(self._url.hostname, self._url.port)
        await self._reader.readline()
        self._writer.write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
        await self.flush()
        return self

    async def __aexit__(self, *_):
        self._writer.close()
        with contextlib.suppress(OSError):  # the server may have closed it first
            await self._writer.wait_closed()

    async def send(self, data):
        self._writer.write(data)
        await self.flush()

    async def flush(self):
        """Wait until the server has taken, or refused, what was sent."""
        self._writer.write(b"PING\r\n")
        while await self._reader.readline() not in (b"PONG\r\n", b""):
            pass
