"""Messages of exactly the server's max_payload, one byte less and one more: delivered or refused, nobody disconnected.

nats-py checks only the payload, and the server closes the connection of whoever sends more with headers counted in.
"""

import asyncio

import pytest

from mesh import Request, Response, Service
from mesh.bus import Bus
from mesh.embedded import NatsServer
from mesh.errors import NoResponders
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.failures.wires import HttpWire

PLAIN = b"NATS/1.0\r\nMesh-Status: 200\r\ncontent-type: application/octet-stream\r\n\r\n"
SMALL = 16 * 1024


def sized() -> Service:
    service = Service("sized")

    @service.get("/give/{size}")
    async def give(size: int) -> bytes:
        return b"x" * size

    @service.get("/header/{size}")
    async def header(size: int) -> Response:
        return Response(b"", 200, {"x-large": "h" * size})

    @service.post("/take/{name:path}")
    async def take(request: Request) -> dict[str, int]:
        return {"size": len(request.body), "name": len(request.path_params["name"])}

    return service


@pytest.fixture(params=["the default", "a small one"])
async def mesh(request, nats_url, prefix):
    if request.param == "the default":
        async with Mesh(sized(), nats_url=nats_url, prefix=prefix) as mesh:
            yield mesh
    else:
        async with NatsServer(max_payload=SMALL) as nats, Mesh(sized(), nats_url=nats.url, prefix=prefix) as mesh:
            assert mesh.gateway.bus.max_payload == SMALL
            yield mesh


@pytest.fixture
async def http(mesh):
    """A connection to the gateway; afterwards it still serves, and nobody has lost NATS meanwhile."""
    buses = [mesh.gateway.bus, mesh.instances[0].bus]
    lost = []
    for bus in buses:
        bus.on_connection(lambda connected: connected or lost.append(connected))
    async with HttpWire(mesh.gateway.port) as http:
        yield http
        assert (await http.ask("GET", "/give/1")).status == 200
    assert lost == []
    assert [bus.statistics()["reconnects"] for bus in buses] == [0, 0]
    # A probe of an instance that had requests (`mesh.client.connection_probes`) is open for up to a second: nobody
    # answers it. The last message of a stream may still be on its way when its client has everything.
    await eventually(lambda: all(len(bus.requests) == 0 for bus in buses))
    await eventually(lambda: len(mesh.gateway.streams) == len(mesh.instances[0].streams) == 0)


async def test_replies_around_one_message(mesh, http):
    limit = mesh.gateway.bus.max_payload - len(PLAIN)
    for size in (limit - 1, limit, limit + 1):
        answer = await http.ask("GET", f"/give/{size}")
        assert (answer.status, len(answer.body)) == (200, size)


async def test_replies_around_one_message_for_a_caller_without_streams(mesh, http):
    limit = mesh.gateway.bus.max_payload - len(PLAIN)
    async with mesh.client() as bus:
        address = bus.address(bus.subjects.request("sized", mesh.instances[0].announced[0].name))
        for size, expected in ((limit - 1, b"200"), (limit, b"200"), (limit + 1, b"502")):
            reply = await bus.request(address, b'{"size":%d}' % size, timeout=5)
            block, body = reply.block, reply.payload
            assert block.startswith(b"NATS/1.0\r\nMesh-Status: " + expected), size
            assert (b"bad_reply" in body) == (expected == b"502")
            assert expected == b"502" or len(body) == size


async def test_headers_of_a_reply_beyond_one_message_are_502(mesh, http):
    limit = mesh.gateway.bus.max_payload
    assert (await http.ask("GET", f"/header/{limit // 2}")).status == 200
    for size in (limit, limit + 1):
        answer = await http.ask("GET", f"/header/{size}")
        assert (answer.status, answer.reason) == (502, "bad_reply")


@pytest.mark.parametrize("piece", ["a", "!", "%E2%82%AC"], ids=["plain", "escaped", "decoded"])
async def test_requests_around_one_message(mesh, http, piece):
    """Where exactly the gateway goes over to streams is its own affair; path parameters count up to thrice."""
    limit = mesh.gateway.bus.max_payload
    name = piece * (min(limit // 8, 7000) // len(piece))
    for left in (40_000, 20_000, 12_500, 8_000, 5_000, 4_700, 4_096, 600, 1, 0, -1):
        answer = await http.ask("POST", f"/take/{name}", b"x" * max(0, limit - left))
        assert answer.status == 200, (left, answer.body)
        assert answer.body.startswith(b'{"size":%d,' % max(0, limit - left))


async def test_a_limit_of_the_gateway_holds_to_the_byte(nats_url, prefix):
    async with Mesh(sized(), nats_url=nats_url, prefix=prefix, gateway={"max_request_body": 5000}) as mesh:
        async with HttpWire(mesh.gateway.port) as http:
            for size, status in ((4999, 200), (5000, 200), (5001, 413)):
                http.send("POST", "/take/a", b"x" * size)
                assert (await http.receive()).status == status
            assert (await http.ask("GET", "/give/1")).status == 200
        assert mesh.gateway.bus.statistics()["reconnects"] == 0


async def test_a_bus_refuses_what_its_server_would_close_the_connection_for(nats_url, prefix):
    """To the byte, header block included."""
    async with Bus(Mesh(nats_url=nats_url, prefix=prefix).bus_settings) as bus:
        seen = asyncio.Queue()
        await bus.subscribe(f"{prefix}.sink", lambda subject, reply, block, payload: seen.put_nowait(len(payload)))
        await bus.flush()
        block = b"NATS/1.0\r\nx: 1\r\n\r\n"
        room = bus.max_payload - len(block)
        for size in (room - 1, room):
            bus.publish(bus.address(f"{prefix}.sink"), b"x" * size, block)
            assert await asyncio.wait_for(seen.get(), 5) == size
        with pytest.raises(Exception, match="NATS takes"):
            bus.publish(bus.address(f"{prefix}.sink"), b"x" * (room + 1), block)
        with pytest.raises(NoResponders):
            await bus.request(bus.address(f"{prefix}.nobody"), b"x" * room, block, timeout=5)
        assert bus.statistics()["reconnects"] == 0
