"""What a bus does about servers that refuse it and lanes that do not work."""

import asyncio

import pytest

from mesh.bus import Reply
from mesh.embedded import NatsServer
from mesh.errors import Forbidden
from tests.bus.parts import OK, bus_on, echo
from tests.conditions import eventually


async def test_a_permission_violation_fails_its_request_at_once(lane):
    config = (
        'authorization { users = [ {user: a, password: b, permissions: { publish: ["mesh.>"], subscribe: [">"] } } ] }'
    )
    async with NatsServer(extra_config=config) as server:
        url = server.url.replace("nats://", "nats://a:b@")
        async with bus_on(url, lane) as bus:
            began = asyncio.get_running_loop().time()
            with pytest.raises(Forbidden, match="permissions"):
                await bus.request(bus.address("Other.Subject"), b"", timeout=30)
            assert asyncio.get_running_loop().time() - began < 5


async def test_another_violation_of_permissions_is_no_end_of_the_connection(nats_url, prefix, caplog):
    """A client may not name a reply subject of the server's own mapping between accounts."""
    async with bus_on(nats_url, prefix=prefix) as bus:
        await echo(bus, f"{prefix}.echo")
        bus.publish(bus.address(f"{prefix}.echo"), b"", reply=b"_R_.x")
        await eventually(lambda: "permissions violation for publish with reply" in caplog.text.lower())
        assert "trying again" not in caplog.text
        assert bus.last_error == ""
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"x", timeout=5)).payload == b"x"


async def test_a_bundle_that_is_not_permitted_is_the_last_one(caplog):
    config = (
        "authorization { users = [ {user: a, password: b, permissions: "
        '{ publish: ["mesh.inbox.>", "mesh.to.users.I1.get"], subscribe: [">"] } } ] }'
    )
    async with (
        NatsServer(extra_config=config) as server,
        bus_on(server.url.replace("nats://", "nats://a:b@")) as bus,
    ):
        await echo(bus, "mesh.to.users.I1.*")

        async def two():
            endings = []
            for _ in range(2):
                place = b"mesh.to.users.I1."
                bus.send(place + b"get", b"", OK, 5, endings.append, bundle_prefix=place)
            await eventually(lambda: len(endings) == 2)
            return [type(ending) for ending in endings]

        assert await two() == [Forbidden, Forbidden]
        assert "MESH_BUNDLES" in caplog.text
        assert await two() == [Reply, Reply]


async def test_a_lane_that_does_not_deliver_falls_back_to_plain(nats_url, prefix, monkeypatch, caplog):
    """The check after connecting: here the lane mangles what it reads."""
    from mesh.bus import fast_transport as module

    original = module.FastTransport.received
    monkeypatch.setattr(
        module.FastTransport, "received", lambda self, data: original(self, data.replace(b"a: 2", b"a: 9"))
    )
    async with bus_on(nats_url) as bus:
        assert not bus.lane
        await echo(bus, f"{prefix}.echo")
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"x", timeout=5)).payload == b"x"
    assert "using plain nats-py" in caplog.text
