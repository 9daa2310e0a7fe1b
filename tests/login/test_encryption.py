"""Nothing is written in the clear where the settings demand encryption, whatever the server or somebody says."""

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import urlparse

import pytest

from mesh.bus import Bus
from mesh.bus.encryption_guard import Guard
from mesh.embedded import NatsServer
from mesh.errors import ConfigError
from mesh.settings import BusSettings
from tests.bus.parts import echo
from tests.conditions import eventually
from tests.login.parts import refused, settings
from tests.servers import tcp_server

LOGIN = {"user": "ada", "password": "topsecret"}
INFO = {
    "server_id": "X",
    "version": "2.15.1",
    "proto": 1,
    "headers": True,
    "max_payload": 1048576,
    "auth_required": True,
}


@asynccontextmanager
async def fake(info, heard):
    """A server that says ``info`` and PONG, and keeps what it hears; gives its port."""

    async def serve(reader, writer):
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while data := await reader.read(65536):
            heard.append(data)
            writer.write(b"PONG\r\n")

    async with tcp_server(serve) as server:
        yield server.sockets[0].getsockname()[1]


def said(settings):
    (url,) = settings.servers
    by = "tls:// in NATS_URL" if url.startswith("tls") else "NATS_CA"
    return f"no NATS at {url}: the server offers no TLS, which {by} asks for; no login was sent|"


@pytest.mark.parametrize("info", [INFO, {**INFO, "tls_required": False}, {**INFO, "tls_available": False}])
async def test_a_server_that_hides_its_tls_hears_nothing(lane, authority, info):
    heard = []
    async with fake(info, heard) as port:
        await refused(settings(f"tls://127.0.0.1:{port}", lane, **LOGIN), secrets=["topsecret"])
        await refused(settings(f"nats://127.0.0.1:{port}", lane, tls_ca=authority.file, **LOGIN))
        cert, key = authority.issue()
        await refused(settings(f"nats://127.0.0.1:{port}", lane, tls_cert=cert, tls_key=key, **LOGIN))
        text = await refused(settings(f"tls://ada:topsecret@127.0.0.1:{port}", lane), secrets=["topsecret"])
        assert "the server offers no TLS, which tls:// in NATS_URL asks for; no login was sent|turn TLS on" in text
    assert heard == []


async def test_the_fake_hears_the_password_of_a_connection_without_tls(lane):
    """Otherwise the test above would prove nothing."""
    heard = []
    async with fake(INFO, heard) as port:
        bus = Bus(settings(f"nats://127.0.0.1:{port}", lane, **LOGIN))
        bus.open()
        await eventually(lambda: any(b"topsecret" in data for data in heard))
        await bus.aclose()


async def test_info_that_is_none_gets_no_login_either(lane):
    heard = []

    async def serve(reader, writer):
        writer.write(b"INFO nonsense\r\n")
        heard.append(await reader.read(100))

    async with tcp_server(serve) as server:
        port = server.sockets[0].getsockname()[1]
        await refused(settings(f"tls://127.0.0.1:{port}", lane, **LOGIN), final=False)
    assert b"".join(heard) == b""


async def test_a_real_server_without_tls(lane, nats_url, authority):
    for fields in ({}, {"tls_ca": authority.file}):
        wanted = settings(nats_url.replace("nats://", "tls://"), lane, **fields)
        assert (await refused(wanted)).startswith(said(wanted))
    wanted = settings(nats_url, lane, tls_ca=authority.file)
    assert (await refused(wanted)).startswith(said(wanted))


@asynccontextmanager
async def stripping(port, heard):
    """Somebody between client and server who takes the server's word for TLS out of INFO; gives the port."""

    async def between(reader, writer):
        theirs, ours = await asyncio.open_connection("127.0.0.1", port)
        try:
            info = json.loads((await theirs.readline())[5:])
            assert info["tls_required"]
            writer.write(b"INFO " + json.dumps({**info, "tls_required": False}).encode() + b"\r\n")
            heard.append(await reader.read(65536))
        finally:
            ours.close()

    async with tcp_server(between) as server:
        yield server.sockets[0].getsockname()[1]


async def test_somebody_in_between_who_strips_tls_gets_nothing(lane, authority):
    heard = []
    async with (
        NatsServer(tls=authority.server(), user="ada", password="topsecret") as server,
        stripping(server.port, heard) as port,
    ):
        text = await refused(settings(f"tls://127.0.0.1:{port}", lane, tls_ca=authority.file, **LOGIN))
        assert "the server offers no TLS" in text
        assert "somebody in between" in text
    assert b"".join(heard) == b""


async def test_a_reconnect_is_encrypted_or_is_none(lane, authority):
    """The server comes back without TLS, on the same port."""
    async with (
        NatsServer(tls=authority.server(), user="ada", password="topsecret") as server,
        Bus(settings(server.url, lane, tls_ca=authority.file, **LOGIN)) as bus,
    ):
        await server.stop()
        heard = []
        tls, server._tls = server._tls, None

        async def serve(reader, writer):
            writer.write(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
            heard.append(await reader.read(65536))

        async with tcp_server(serve, server.port):
            await eventually(lambda: len(heard) > 2)
        assert b"".join(heard) == b""
        assert not bus.connected
        server._tls = tls
        await server.start()
        await bus.wait_connected(10)


async def test_a_server_that_info_names_must_be_encrypted_too(lane, authority):
    """The cluster's other member is a liar: what INFO says of it is used when the first one is gone."""
    heard = []
    async with (
        fake(INFO, heard) as port,
        NatsServer(tls=authority.server(), user="ada", password="topsecret") as server,
        Bus(settings(server.url, lane, tls_ca=authority.file, **LOGIN)) as bus,
    ):
        client = bus.jetstream_client()
        await client._process_info({"connect_urls": [f"127.0.0.1:{port}"]})
        assert bus._link.has_others
        guard, tried = client._transport.guard, set()
        begin = guard.begin
        guard.begin = lambda uri: (tried.add(uri.port), begin(uri))
        await server.kill()
        await eventually(lambda: port in tried and server.port in tried)
        await server.start()
        await bus.wait_connected(10)
        await echo(bus, "mesh.echo")
    assert heard == []


async def test_one_encrypted_url_demands_it_of_all(lane, nats_url):
    wanted = BusSettings(servers=("tls://127.0.0.1:1", nats_url), lane=lane)
    text = await refused(wanted, final=False)
    assert "the server offers no TLS" in text


def test_a_websocket_in_the_clear_does_not_go_with_settings_for_tls(authority):
    for servers in ("ws://127.0.0.1:1", "ws://127.0.0.1:1,wss://127.0.0.1:2"):
        environ = {"NATS_URL": servers, "NATS_CA": str(authority.file)}
        with pytest.raises(ConfigError, match="ws:// is never encrypted"):
            BusSettings.load(environ=environ, file=None)


async def test_a_websocket_in_the_clear_gets_no_login_where_encryption_is_demanded(authority):
    heard = []
    async with fake(INFO, heard) as port:
        await refused(settings(f"ws://127.0.0.1:{port}", tls_ca=authority.file, **LOGIN), final=False)
    assert all(b"CONNECT" not in data for data in heard)


@pytest.mark.parametrize(
    ("url", "learnt", "scheme"),
    [
        ("wss://a", "nats://b:443", "wss"),
        ("ws://a", "nats://b:80", "ws"),
        ("tls://a", "nats://b:4222", "tls"),
        ("nats://a", "nats://b:4222", "nats"),
    ],
)
def test_a_server_that_info_names_is_reached_as_the_configured_one(url, learnt, scheme):
    """nats-py calls it nats:// whatever it is, which a WebSocket could not reach."""
    guard = Guard(BusSettings(servers=(url,)))
    guard.begin(urlparse(learnt))
    assert guard.where == f"{scheme}://{learnt.removeprefix('nats://')}"
    assert bool(guard.demanded_by) == (scheme in ("wss", "tls"))
