"""What the tests of the bus share."""

import asyncio

from mesh.bus import Bus
from mesh.settings import BusSettings

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
