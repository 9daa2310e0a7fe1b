"""A thousand instances: a gateway that starts among them knows all of them soon."""

import asyncio
import json
import random
import re
from time import monotonic

import pytest

from gateway.server import Gateway
from mesh.bus import Bus
from mesh.messages import Announcement, Endpoint, Heartbeat, Route, decode_discover, encode, revision_of
from mesh.routes import Match
from mesh.settings import BusSettings, GatewaySettings
from mesh.subjects import new_id
from tests.conditions import eventually
from tests.processes import http_client, run

SERVICES, INSTANCES, ROUTES = 20, 50, 10
HEARTBEAT_S = 2.0
KNOWN_WITHIN_S = 3.0
MARGIN = 2.0
"""For a machine that is busy with something else as well: this test's own thousand, to begin with."""


class Simulated:
    """One instance: it announces when asked, and beats."""

    def __init__(self, service, crowd):
        self.service, self.id, self.seq = service, new_id(), 0
        self._crowd = crowd
        self._endpoints = tuple(Endpoint(name=f"e{i}", subject=f"x.{service}.e{i}") for i in range(ROUTES))
        self._routes = tuple(
            Route(method="GET", path=f"/{service}/r{i}/{{id}}", endpoint=f"e{i}", summary="A simulated route")
            for i in range(ROUTES)
        )
        self._revision = revision_of(service, "1.0.0", self._endpoints, self._routes)

    def announce(self):
        self.seq += 1
        message = Announcement(
            name=self.service,
            id=self.id,
            version="1.0.0",
            endpoints=self._endpoints,
            routes=self._routes,
            seq=self.seq,
            revision=self._revision,
            state="ready",
            started="2025-01-01T00:00:00Z",
            heartbeat_ms=int(HEARTBEAT_S * 1000),
        )
        self._crowd.publish("announce", self, encode(message))

    def beat(self):
        self.seq += 1
        message = Heartbeat(name=self.service, id=self.id, seq=self.seq, revision=self._revision, state="ready")
        self._crowd.publish("heartbeat", self, encode(message))
        pause = HEARTBEAT_S * random.uniform(0.8, 1)
        self._timer = asyncio.get_running_loop().call_later(pause, self.beat)

    def start(self):
        self._timer = asyncio.get_running_loop().call_later(random.uniform(0, HEARTBEAT_S), self.beat)

    def stop(self):
        self._timer.cancel()


class Crowd:
    """All simulated instances, behind one connection."""

    def __init__(self, bus):
        self._bus = bus
        self.everyone = {}
        for n in range(SERVICES):
            for _ in range(INSTANCES):
                instance = Simulated(f"crowd{n:02}", self)
                self.everyone[instance.service, instance.id] = instance

    async def __aenter__(self):
        prefix = self._bus.subjects.prefix
        await self._bus.subscribe(f"{prefix}.discover", self._asked)
        await self._bus.subscribe(f"{prefix}.discover.*.*", self._one_asked)
        await self._bus.flush()
        for instance in self.everyone.values():
            instance.start()
        return self

    async def __aexit__(self, *_):
        for instance in self.everyone.values():
            instance.stop()

    def publish(self, kind, instance, data):
        subject = getattr(self._bus.subjects, kind)(instance.service, instance.id)
        self._bus.publish(subject.encode(), data)

    def _asked(self, subject, reply, block, payload):
        window = decode_discover(payload).window_ms / 1000
        for instance in self.everyone.values():
            asyncio.get_running_loop().call_later(random.uniform(0, window), instance.announce)

    def _one_asked(self, subject, reply, block, payload):
        instance = self.everyone.get(tuple(subject.decode().split(".")[2:4]))
        if instance is not None:
            instance.announce()


@pytest.fixture
async def crowd(nats_url, prefix):
    settings = BusSettings(servers=(nats_url,), prefix=prefix)
    async with Bus(settings, service="crowd", instance=new_id()) as bus, Crowd(bus) as crowd:
        yield crowd


async def test_a_gateway_that_starts_knows_all_of_a_thousand_soon(crowd, nats_url, prefix, figures):
    bus = BusSettings(servers=(nats_url,), prefix=prefix)
    await learns_them_all(crowd, bus, figures, "first start")
    await learns_them_all(crowd, bus, figures, "restart")


async def learns_them_all(crowd, bus, figures, case):
    began = monotonic()
    wanted = len(crowd.everyone) + 1  # and the gateway itself
    async with Gateway(bus, GatewaySettings(port=0, ops_port=0, access_log=False, linger_ms=0, drain_s=1)) as gateway:
        registry = gateway.watcher.registry
        await eventually(lambda: len(registry) == wanted, 30)
        took = monotonic() - began
        figures(f"{case} with {wanted:,} instances", all_known_s=round(took, 2))
        assert took < KNOWN_WITHIN_S * MARGIN
        await asyncio.wait_for(gateway.watcher.synchronised.wait(), 10)
        figures(f"{case} with {wanted:,} instances", answers_s=round(monotonic() - began, 2))
        assert monotonic() - began < KNOWN_WITHIN_S * MARGIN
        assert {key: i.state for key, i in registered(registry)} == dict.fromkeys(crowd.everyone, "ready")
        assert len(list(gateway.live_routes.table.routes())) == SERVICES * ROUTES
        assert isinstance(gateway.live_routes.table.match("GET", ("crowd07", "r3", "x")), Match)
        async with http_client(base_url=f"http://127.0.0.1:{gateway.port}") as http:
            health = (await http.get("/health")).json()
            assert sum(service["ready"] for service in health["services"].values()) == wanted
            # Nobody listens on their subjects, and that is known at once.
            assert (await http.get("/crowd07/r3/x")).json()["reason"] == "no_responders"


def registered(registry):
    return (((i.service, i.id), i) for i in registry if i.service != "gateway")


async def test_a_gateway_process_knows_all_of_a_thousand_when_it_says_ready(crowd, nats_url, prefix, tmp_path, figures):
    """From the command line on, with the settings that are the default."""
    began = monotonic()
    env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix}
    async with run("gateway", "--port", "0", "--ops-port", "0", cwd=tmp_path, env=env) as process:
        port = re.search(r"listens on [^:]+:(\d+)", await process.line("listens on"))[1]
        listens = monotonic()
        async with http_client(base_url=f"http://127.0.0.1:{port}") as http:
            while (await http.get("/readyz")).status_code != 200:
                assert monotonic() - listens < KNOWN_WITHIN_S * MARGIN
                await asyncio.sleep(0.02)
            took = monotonic() - listens
            services = json.loads((await http.get("/health")).content)["services"]
        figures("process with a thousand instances", listens_s=round(listens - began, 2))
        figures("process with a thousand instances", ready_s=round(took, 2))
        assert sum(service["instances"] for name, service in services.items() if name != "gateway") == 1000
        assert took < KNOWN_WITHIN_S * MARGIN
