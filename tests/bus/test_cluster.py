"""A bus on a cluster: nodes that say goodbye, nodes that die."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from mesh.bus import Bus
from mesh.embedded import Cluster, NatsServer, free_port
from mesh.errors import DeadlineExceeded, MeshError, NoResponders
from mesh.settings import BusSettings
from tests.conditions import eventually

OK = b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n"


@asynccontextmanager
async def three_nodes():
    nodes, routes = [], []
    async with AsyncExitStack() as stack:
        for i in range(3):  # each connects to those before it, see tests/chaos/world.py
            cluster = Cluster("trio", free_port(0), tuple(routes))
            nodes.append(await stack.enter_async_context(NatsServer(name=f"n{i}", jetstream=False, cluster=cluster)))
            routes.append(f"nats://127.0.0.1:{cluster.port}")
        yield nodes
        for node in nodes:
            await node.kill()  # one that has said goodbye would take ten seconds more


class Asking:
    """Asks an echo without pause; what failed, and how."""

    def __init__(self, bus, subject):
        self.answered, self.failures = 0, []
        self._bus, self._address = bus, bus.address(subject)
        self._task = asyncio.create_task(self._ask())

    async def _ask(self):
        while True:
            try:
                await self._bus.request(self._address, b"x" * 100, timeout=1)
                self.answered += 1
            except MeshError as error:
                self.failures.append(repr(error))
                await asyncio.sleep(0)

    async def end(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.mark.parametrize("lane", ["auto", "plain"])
async def test_a_node_that_says_goodbye_is_left_for_another_one(lane):
    """The new connection is there before the old one is left. What cannot be helped: a message that another node has
    sent towards the old one in the very moment of leaving it is dropped by NATS."""
    async with three_nodes() as nodes:
        urls = tuple(node.url for node in nodes)
        settings = BusSettings(servers=urls, lane=lane)
        async with Bus(settings, service="echo") as responder, Bus(settings) as caller:
            await responder.subscribe(
                "t.echo", lambda s, reply, b, payload: responder.reply(reply, payload, OK), queue="q"
            )
            await responder.flush()
            async with asyncio.timeout(10):
                while True:  # interest has to get round the cluster once
                    try:
                        await caller.request(caller.address("t.echo"), b"", timeout=1)
                        break
                    except MeshError:
                        await asyncio.sleep(0)
            asking = Asking(caller, "t.echo")
            for bus in (responder, caller):
                here = bus.server["server_name"]
                before = asking.answered
                nodes[int(here[1:])].lame_duck()
                await eventually(lambda bus=bus, here=here: bus.server.get("server_name") != here, 20)
                await eventually(lambda before=before: asking.answered > before + 50, 20)
            await asking.end()
            assert len(asking.failures) <= 2, asking.failures
            assert not [failure for failure in asking.failures if "DeadlineExceeded" not in failure]
            assert asking.answered > 100


async def test_the_old_node_is_left_when_the_others_have_heard_of_the_new_place(monkeypatch):
    """A node that heard of the end before it heard of the beginning would say that nobody listens."""
    monkeypatch.setattr("mesh.bus.supervised_connection.INTEREST_SPREAD_S", 60)
    async with NatsServer() as one, NatsServer() as two:  # no cluster: what one knows, the other never hears
        servers = {server.port: server for server in (one, two)}
        async with AsyncExitStack() as stack:
            settings = BusSettings(servers=(one.url, two.url))
            bus = await stack.enter_async_context(Bus(settings, service="echo"))
            heard = asyncio.Event()
            await bus.subscribe("t.heard", lambda *_: heard.set(), queue="q")
            await bus.flush()
            home = servers[bus.server["port"]]
            asker = await stack.enter_async_context(Bus(BusSettings(servers=(home.url,))))
            moving = asyncio.create_task(bus._connection.move())
            await eventually(lambda: bus.server.get("port") not in (None, home.port), 20)
            asker.publish(asker.address("t.heard"), b"")
            await asyncio.wait_for(heard.wait(), 10)
            moving.cancel()  # as when the bus is closed meanwhile
            await asyncio.wait([moving])
            async with asyncio.timeout(10):
                with suppress(NoResponders):
                    while True:  # the server need not have seen yet that the old connection is closed
                        with suppress(DeadlineExceeded):
                            await asker.request(asker.address("t.heard"), b"", timeout=0.2)


async def test_a_single_server_that_says_goodbye_is_kept_until_it_goes():
    async with NatsServer() as server, Bus(BusSettings(servers=(server.url,))) as bus:
        server.lame_duck()
        await bus._connection.move()
        assert bus.connected
        await bus.flush()
        await server.kill()  # it would take its time


async def test_a_node_that_dies_costs_little_more_than_what_it_had():
    async with three_nodes() as nodes, Bus(BusSettings(servers=tuple(node.url for node in nodes))) as bus:
        here = bus.server["server_name"]
        back = asyncio.Event()
        bus.on_connection(lambda connected: connected and back.set())
        loop = asyncio.get_running_loop()
        began = loop.time()
        await nodes[int(here[1:])].kill()
        await asyncio.wait_for(back.wait(), 10)
        assert bus.server["server_name"] != here
        assert loop.time() - began < 3  # some 20 ms on an idle machine


async def test_a_blink_is_waited_for_and_an_outage_is_not():
    async with NatsServer() as server, Bus(BusSettings(servers=(server.url,))) as bus:
        lost = asyncio.Event()
        bus.on_connection(lambda connected: connected or lost.set())
        await server.kill()
        await asyncio.wait_for(lost.wait(), 10)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await bus.wait_reconnected()
        first = loop.time() - began
        await bus.wait_reconnected()
        assert not bus.connected
        assert loop.time() - began - first < 0.02  # the time for it is over


async def test_a_node_that_stands_still_is_asked_last(monkeypatch):
    """It accepts connections and says nothing: whoever tries it first is away for a whole connect timeout more."""
    monkeypatch.setattr("random.choice", lambda of: of[0])
    async with NatsServer() as one, NatsServer() as two:
        servers = {server.url: server for server in (one, two)}
        async with Bus(BusSettings(servers=tuple(servers), connect_timeout_s=60)) as bus:
            for _ in range(2):  # after the first connection, and after one that was made anew
                home = servers[f"nats://127.0.0.1:{bus.server['port']}"]
                home.pause()
                try:
                    await eventually(lambda home=home: bus.server.get("port") not in (None, home.port), 20)
                finally:
                    home.resume()
