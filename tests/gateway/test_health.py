"""The gateway's own paths, answered from the registry."""

import asyncio

import pytest

from gateway.server import Gateway
from mesh import Service
from mesh.settings import BusSettings, GatewaySettings
from mesh.testing import Mesh
from tests.processes import http_client


def pinger() -> Service:
    service = Service("pinger", version="1.0.0", description="pings", metadata={"team": "a"})

    @service.get("/ping/{n}")
    async def ping(n: int) -> int:
        return n

    return service


async def test_health_counts_services_and_shows_routes_on_loopback(mesh):
    await mesh.start(pinger())
    await mesh.start(pinger())
    health = (await mesh.http.get("/health")).json()
    assert health["status"] == "ok"
    assert health["services"]["pinger"] == {"status": "ok", "instances": 2, "ready": 2, "versions": ["1.0.0"]}
    assert "routes" not in health
    shown = (await mesh.http.get("/health?include_routes=true")).json()
    assert shown["routes"] == [{"method": "GET", "path": "/ping/{n}", "service": "pinger"}]
    one = (await mesh.http.get("/health/pinger")).json()
    assert set(one["services"]) == {"pinger"}
    assert (await mesh.http.get("/health/nobody")).status_code == 404


@pytest.mark.parametrize(("show", "names"), [("never", False), ("always", True)])
async def test_routes_are_shown_as_configured(nats_url, prefix, show, names):
    async with Mesh(pinger(), nats_url=nats_url, prefix=prefix, gateway={"show_routes": show}) as mesh:
        assert ("routes" in (await mesh.http.get("/health?include_routes=true")).json()) is names
        assert ("nearest" in (await mesh.http.get("/pinq/1")).json()) is names


async def test_liveness_readiness_and_metadata(mesh):
    assert (await mesh.http.get("/livez")).json() == {"status": "alive"}
    assert (await mesh.http.get("/readyz")).json() == {"status": "ready"}
    assert (await mesh.http.get("/readyz/pinger")).status_code == 404
    instance = await mesh.start(pinger())
    assert (await mesh.http.get("/readyz/pinger")).json()["ready"] == 1
    metadata = (await mesh.http.get("/v1/metadata")).json()
    assert metadata["name"] == "gateway"
    [described] = metadata["services"]["pinger"]
    assert (described["id"], described["description"], described["metadata"]) == (instance.id, "pings", {"team": "a"})
    assert set((await mesh.http.get("/v1/metadata/pinger")).json()["services"]) == {"pinger"}
    assert (await mesh.http.head("/health")).content == b""
    assert (await mesh.http.post("/health")).status_code == 405


async def test_the_gateways_paths_win_over_a_services_and_only_that_route_is_dropped(mesh):
    greedy = Service("greedy")

    @greedy.get("/health")
    async def health() -> str:
        return "mine"

    @greedy.get("/other")
    async def other() -> str:
        return "other"

    await mesh.start(greedy)
    assert (await mesh.http.get("/health")).json()["status"] == "ok"
    assert (await mesh.http.get("/other")).json() == "other"
    async with mesh.ops() as ops:
        [conflict] = (await ops.get("/api/conflicts")).json()
    assert (conflict["winner"], conflict["losers"], conflict["path"]) == ("gateway", ["greedy"], "/health")


async def test_a_gateway_without_nats_is_up_and_says_why(nats, prefix):
    await nats.stop()
    gateway = Gateway(
        BusSettings(servers=(nats.url,), prefix=prefix),
        GatewaySettings(port=0, ops_port=0, window_ms=0, access_log=False),
    )
    await gateway.__aenter__()
    try:
        async with http_client(base_url=f"http://127.0.0.1:{gateway.port}") as http:
            assert (await http.get("/livez")).status_code == 200
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (503, "starting")
            response = await http.get("/anything")
            assert (response.status_code, response.json()["reason"]) == (503, "bus_unavailable")
            assert response.headers["retry-after"] == "1"
            await nats.start()
            await asyncio.wait_for(gateway.watcher.synchronised.wait(), 10)
            assert (await http.get("/readyz")).status_code == 200
            assert (await http.get("/anything")).status_code == 404
            # Cut off again: the last known table stays, and the gateway says that it is stale.
            await nats.stop()
            down = asyncio.Event()
            gateway.bus.on_connection(lambda connected: connected or down.set())
            if gateway.bus.connected:
                await asyncio.wait_for(down.wait(), 10)
            stale = await http.get("/readyz")
            assert (stale.status_code, stale.json()["reason"]) == (503, "bus_unavailable")
            assert (await http.get("/health")).json()["status"] == "stale"
    finally:
        await gateway.drain()


async def test_before_it_knows_everybody_a_gateway_never_says_404(nats_url, prefix):
    settings = GatewaySettings(port=0, ops_port=0, window_ms=60_000, access_log=False)
    gateway = Gateway(BusSettings(servers=(nats_url,), prefix=prefix), settings)
    await gateway.__aenter__()
    try:
        await gateway.bus.wait_connected(5)
        async with http_client(base_url=f"http://127.0.0.1:{gateway.port}") as http:
            response = await http.get("/anything")
            assert (response.status_code, response.json()["reason"]) == (503, "starting")
            assert response.headers["retry-after"] == "1"
    finally:
        await gateway.drain()


async def test_the_operators_plane(mesh):
    instance = await mesh.start(pinger())
    async with mesh.ops() as ops:
        gateway = (await ops.get("/api/gateway")).json()
        assert (gateway["status"], gateway["lane"]) == ("ok", "hot")
        assert gateway["nats"]["version"]
        assert (await ops.get("/api/services")).json()["pinger"]["states"] == {"ready": 1}
        [shown] = (await ops.get("/api/instances?service=pinger")).json()
        assert shown["id"] == instance.id
        assert (await ops.get("/api/instances?service=nobody")).status_code == 404
        [route] = (await ops.get("/api/routes")).json()["routes"]
        assert (route["method"], route["path"], route["service"]) == ("GET", "/ping/{n}", "pinger")
        assert (await ops.get("/api/conflicts")).json() == []
        assert "/metrics" in (await ops.get("/")).json()["paths"]
    assert (await mesh.http.get("/metrics")).status_code == 404  # not on the public listener


async def test_ownership_of_a_prefix(nats_url, prefix):
    def claims(name: str) -> Service:
        service = Service(name)

        @service.get("/api/thing")
        async def thing() -> str:
            return name

        return service

    owners = {"/api": "zeta"}
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway={"owners": owners}) as mesh:
        await mesh.start(claims("alpha"))
        assert (await mesh.http.get("/api/thing")).status_code == 404  # rejected, though nobody else claims it
        await mesh.start(claims("zeta"))
        assert (await mesh.http.get("/api/thing")).json() == "zeta"
