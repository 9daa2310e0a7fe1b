"""The connection to a real server: lost, frozen, hostile, closed; on the hot lane and on plain nats-py alike."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from urllib.parse import urlparse

import pytest
from nats.aio.client import Client, Server

from mesh.bus import Bus
from mesh.bus.backoff import Backoff
from mesh.bus.connection_errors import ServerSaid
from mesh.bus.encryption_guard import Guard
from mesh.bus.fast_transport import FastTransport
from mesh.bus.guarded_transports import GuardedTcp
from mesh.bus.supervised_connection import SupervisedConnection
from mesh.embedded import NatsServer, free_port
from mesh.errors import BusUnavailable, DeadlineExceeded
from mesh.settings import BusSettings
from tests.bus.parts import bus_on, cut, echo
from tests.conditions import eventually


async def test_the_lane_is_what_was_asked_for(nats_url, lane):
    async with bus_on(nats_url, lane) as bus:
        assert bus.lane is (lane == "auto")


async def test_calls_in_flight_fail_when_the_server_dies_and_the_bus_comes_back(nats, prefix, lane):
    async with bus_on(nats.url, lane) as bus:
        kept = await echo(bus, f"{prefix}.echo")
        await bus.subscribe(f"{prefix}.silent", lambda *_: None)
        await bus.flush()
        states = []
        bus.on_connection(states.append)
        loop = asyncio.get_running_loop()
        waiting = [
            asyncio.ensure_future(bus.request(bus.address(f"{prefix}.silent"), b"", timeout=30)) for _ in range(5)
        ]
        await bus.flush()
        began = loop.time()
        await nats.kill()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(r) for r in results] == [BusUnavailable] * 5
        assert {r.executed for r in results} == {"unknown"}
        assert loop.time() - began < 5
        with pytest.raises(BusUnavailable):  # at once, nothing is kept for later
            bus.publish(bus.address(f"{prefix}.echo"), b"never")
        missed = []
        await bus.subscribe(f"{prefix}.new", lambda *m: missed.append(m))  # while disconnected
        await nats.start()
        await bus.wait_connected(10)
        assert states == [False, True]
        assert kept.handle is not None
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"back", timeout=5)).payload == b"back"
        bus.publish(bus.address(f"{prefix}.new"), b"heard")
        await bus.flush()
        assert [m[3] for m in missed] == [b"heard"]


async def test_unsubscribing_while_disconnected_holds_after_the_reconnect(nats, prefix):
    async with bus_on(nats.url) as bus:
        got = []
        subscription = await bus.subscribe(f"{prefix}.s", lambda *m: got.append(m))
        await cut(bus, nats)
        await bus.unsubscribe(subscription)
        await nats.start()
        await bus.wait_connected(10)
        bus.publish(bus.address(f"{prefix}.s"), b"x")
        await bus.flush()
        assert got == []


async def test_no_server_is_an_error_that_says_so(lane):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    bus = Bus(BusSettings(servers=(f"nats://user:hush@127.0.0.1:{port}",), lane=lane, connect_timeout_s=0.3))
    with pytest.raises(BusUnavailable, match=rf"no NATS at nats://\*\*\*@127.0.0.1:{port}: .*refused") as caught:
        async with bus:
            pass
    assert "hush" not in str(caught.value)


async def test_closing_ends_an_attempt_to_connect_that_lost_its_cancellation(monkeypatch):
    """As Python 3.11's ``wait_for`` loses one that arrives together with a refused connection."""
    trying = asyncio.Event()

    async def connect(self, **options):
        for _ in range(2):
            trying.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr(Client, "connect", connect)
    bus = Bus(BusSettings(servers=("nats://127.0.0.1:1",)))
    bus.open()
    await trying.wait()
    async with asyncio.timeout(10):
        await bus.aclose()


async def test_a_bus_opened_before_its_server_connects_when_it_comes(lane):
    server = NatsServer()
    await server.start()
    url = server.url
    await server.kill()
    bus = bus_on(url, lane)
    bus.open()
    with pytest.raises(BusUnavailable):
        await bus.wait_connected(0.05)
    began = asyncio.get_running_loop().time()
    await server.start()
    await bus.wait_connected(10)
    assert asyncio.get_running_loop().time() - began < 2
    await bus.aclose()
    await server.stop()


async def test_a_server_error_that_closes_nats_py_is_survived(nats_url, prefix, lane):
    """Any -ERR but a few closes nats-py for good, without a reconnect."""
    async with bus_on(nats_url, lane) as bus:
        await echo(bus, f"{prefix}.echo")
        states = []
        back = asyncio.Event()
        bus.on_connection(lambda up: (states.append(up), up and back.set()))
        await bus.jetstream_client()._send_command(b"NONSENSE\r\n")
        await bus.jetstream_client()._flush_pending()
        await asyncio.wait_for(back.wait(), 10)
        assert states == [False, True]
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"anew", timeout=5)).payload == b"anew"


async def test_it_is_said_why_a_server_ended_the_connection(nats_url, caplog):
    """nats-py reconnects without a word to anybody when the server calls a connection stale."""
    caplog.set_level(logging.INFO, logger="mesh.bus")
    async with bus_on(nats_url) as bus:
        down, back = asyncio.Event(), asyncio.Event()
        bus.on_connection(lambda up: (back if up else down).set())
        bus._fast_transport.received(b"-ERR 'Stale Connection'\r\n")
        await asyncio.wait_for(down.wait(), 10)
        await asyncio.wait_for(back.wait(), 10)
        said = [record.getMessage() for record in caplog.records]
        where = nats_url.removeprefix("nats://")
        assert said == [
            f"NATS at {nats_url}: the server heard nothing from this process for too long; trying again"
            " (was it stopped, or its event loop kept busy?)",
            f"connected to NATS at {where}",
        ]
        assert bus.last_error == ""
    assert len(caplog.records) == 2  # an end that was asked for is none


async def test_a_frozen_server_is_noticed_and_survived(nats, prefix):
    async with bus_on(nats.url) as bus:
        await echo(bus, f"{prefix}.echo")
        down, up = asyncio.Event(), asyncio.Event()
        bus.on_connection(lambda connected: (up if connected else down).set())
        nats.pause()
        await asyncio.wait_for(down.wait(), 15)
        nats.resume()
        await asyncio.wait_for(up.wait(), 15)
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"thawed", timeout=5)).payload == b"thawed"


async def test_a_flush_that_times_out_leaves_the_connection_alive(nats, prefix, lane):
    async with bus_on(nats.url, lane) as bus:
        await echo(bus, f"{prefix}.echo")
        nats.pause()
        with pytest.raises(DeadlineExceeded):
            await bus.flush(0.1)
        nats.resume()
        await bus.flush(10)
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"ok", timeout=5)).payload == b"ok"


async def test_a_request_to_a_frozen_server_keeps_its_timeout(nats, prefix, lane):
    """nats-py's own request waits for its flusher there, whatever its timeout says."""
    async with bus_on(nats.url, lane) as bus:
        await echo(bus, f"{prefix}.echo")
        nats.pause()
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await bus.request(bus.address(f"{prefix}.echo"), b"x" * 100_000, timeout=0.2)
        assert asyncio.get_running_loop().time() - began < 2
        assert len(bus.requests) == 0
        nats.resume()
        assert (await bus.request(bus.address(f"{prefix}.echo"), b"x", timeout=10)).payload == b"x"


async def test_reconnecting_never_gives_up_and_is_spread(nats_url):
    async with bus_on(nats_url) as bus:
        options = bus._connection._options(bus.jetstream_client(), [], Backoff(), Guard(bus.settings))
        assert options["max_reconnect_attempts"] == -1
        assert (options["ping_interval"], options["max_outstanding_pings"]) == (1, 2)
        assert options["pending_size"] == 0
    servers = [Server(uri=urlparse(f"nats://127.0.0.1:{port}"), reconnects=0) for port in (1, 2, 3)]
    first = [Backoff()(servers, {}) for _ in range(50)]
    assert {choice.uri.port for choice, _ in first} == {1, 2, 3}
    assert max(delay for _, delay in first) <= 0.05
    backoff = Backoff()
    for _ in range(3):  # outages: what failed in the last one makes this one no slower
        backoff.connected(servers[1].uri)
        choices = [backoff(servers, {}) for _ in range(100)]
        assert {choice.uri.port for choice, _ in choices[:2]} == {1, 3}  # the one that was lost comes last
        assert choices[2][0].uri.port in (1, 2, 3)
        assert max(delay for _, delay in choices[:2]) <= 0.02
        delays = [delay for _, delay in choices]
        assert max(delays) <= 0.5  # back within two seconds of the server's return
        assert len({round(delay, 6) for delay in delays}) > 90  # not in lockstep


async def test_a_connection_that_was_given_up_is_not_made_any_more():
    """nats-py may be reconnecting by itself while its client is given up: nobody would close what it connects."""
    async with NatsServer() as server:
        lane = FastTransport(lambda: None, Guard(BusSettings()))
        connecting = asyncio.ensure_future(lane.connect(urlparse(server.url), 0, 5))
        await asyncio.sleep(0)
        lane.retire()
        await connecting
        assert lane._transport.is_closing()
        with pytest.raises(ConnectionAbortedError):
            await lane.connect(urlparse(server.url), 0, 5)


async def test_an_attempt_that_got_no_further_than_its_connection_is_closed():
    async with NatsServer() as server:
        lane = FastTransport(lambda: None, Guard(BusSettings()))
        await lane.connect(urlparse(server.url), 0, 5)
        given_up = lane._transport
        await lane.connect(urlparse(server.url), 0, 5)
        assert given_up.is_closing()
        assert not lane._transport.is_closing()
        lane.retire()


async def test_a_closed_bus_leaves_no_task_and_ends_its_requests(nats_url, prefix, lane):
    before = len(asyncio.all_tasks())
    bus = bus_on(nats_url, lane)
    async with bus:
        await bus.subscribe(f"{prefix}.silent", lambda *_: None)
        await bus.flush()
        waiting = asyncio.ensure_future(bus.request(bus.address(f"{prefix}.silent"), b"", timeout=30))
        await bus.flush()
    with pytest.raises(BusUnavailable):
        await waiting
    await bus.aclose()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= before


def test_aiohttp_is_imported_for_websockets_only():
    code = "import sys, mesh.bus, nats.aio.transport as t; print('aiohttp' in sys.modules, t.aiohttp); import aiohttp"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "None"]


@pytest.mark.filterwarnings("ignore:parameter 'timeout' of type:DeprecationWarning")  # nats-py's way to call aiohttp
async def test_nats_over_websocket():
    port = free_port(0)
    async with (
        NatsServer(extra_config=f"websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}"),
        bus_on(f"ws://127.0.0.1:{port}") as bus,
    ):
        await echo(bus, "t.echo")
        assert (await bus.request(bus.address("t.echo"), b"x" * 100_000, timeout=10)).payload == b"x" * 100_000
        assert bus._connection.plain_because == "NATS is reached over WebSocket"


async def test_a_kept_reply_that_the_next_server_does_not_take_holds_up_nothing(prefix, lane, caplog):
    port = free_port()
    async with NatsServer(port=port, jetstream=False) as server, bus_on(server.url, lane, prefix) as bus:
        states, got = [], []
        await bus.subscribe(f"{prefix}.inbox.a.b.c.*", lambda *message: got.append(message[3]))
        bus.on_connection(states.append)
        await cut(bus, server)
        for payload in (b"before", b"x" * 500_000, b"after"):
            bus.reply(b"%b.inbox.a.b.c.t" % prefix.encode(), payload, b"NATS/1.0\r\nMesh-Status: 200\r\n\r\n")
        async with NatsServer(port=port, jetstream=False, max_payload=100_000):
            await eventually(lambda: states == [False, True] and len(got) == 2)
            assert got == [b"before", b"after"]
            assert "a reply that was kept while disconnected is lost" in caplog.text
            assert bus.connections == 2


async def test_a_link_that_begins_anew_says_that_the_connection_is_gone(nats_url, lane, monkeypatch):
    states, announce, fails = [], SupervisedConnection._announce_up, [RuntimeError("after the owner was told")]

    def failing(link, client):
        announce(link, client)
        if fails:
            raise fails.pop()

    monkeypatch.setattr(SupervisedConnection, "_announce_up", failing)
    bus = bus_on(nats_url, lane)
    bus.on_connection(states.append)
    async with bus:
        await eventually(lambda: len(states) > 1)
        await eventually(lambda: states == [True, False, True])
        assert bus.connections == 2


async def test_the_last_words_of_a_server_are_a_line_of_its_own():
    transport = GuardedTcp(Guard(BusSettings()))
    transport._io_reader = asyncio.StreamReader()
    transport._io_reader.feed_data(b'INFO {"server_name": "-ERR of the world"}\r\n')
    transport._last_words()
    transport._io_reader.feed_data(b"-ERR 'Authorization Violation'\r\n")
    with pytest.raises(ServerSaid, match="Authorization Violation"):
        transport._last_words()
