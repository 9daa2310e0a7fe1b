"""TLS: certificates that are right and wrong on either side, WebSockets, and servers that shake hands first."""

import pytest

from mesh.bus import Bus
from mesh.embedded import NatsServer, free_port
from mesh.errors import NoConnection
from tests.bus.parts import echo
from tests.login.material import Authority
from tests.login.parts import refused, settings, works

# nats-py's way to call aiohttp
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type:DeprecationWarning")


def websocket(port, tls):
    return f'websocket {{ host: 127.0.0.1, port: {port}, tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}" }} }}'


async def test_tls_with_an_authority_of_ones_own(lane, authority):
    async with NatsServer(tls=authority.server()) as server:
        await works(settings(server.url, lane, tls_ca=authority.file))
        # The server's INFO asks for it where the URL does not, and NATS_CA alone demands it too.
        await works(settings(server.url.replace("tls://", "nats://"), lane, tls_ca=authority.file))


async def test_a_certificate_that_nobody_trusts(lane, authority, tmp_path):
    async with NatsServer(tls=authority.server()) as server:
        for fields in ({}, {"tls_ca": Authority(tmp_path, "foreign").file}):
            text = await refused(settings(server.url, lane, **fields))
            assert text.startswith(f"no NATS at {server.url}: the server's certificate is not trusted (")
            assert text.endswith("|set NATS_CA to the authority's certificates")


async def test_a_certificate_of_another_host(lane, authority):
    async with NatsServer(tls=authority.server("nats.example")) as server:
        text = await refused(settings(server.url, lane, tls_ca=authority.file))
        assert "the server's certificate is another host's (" in text
        assert text.endswith("|give a name in NATS_URL that it has")


async def test_a_certificate_that_has_expired(lane, authority):
    async with NatsServer(tls=authority.server(days=-1)) as server:
        text = await refused(settings(server.url, lane, tls_ca=authority.file))
        assert text.endswith("the server's certificate has expired|renew it at the server")


async def test_a_client_certificate(lane, authority, tmp_path):
    cert, key = authority.issue()
    async with NatsServer(tls=authority.server(verify=True)) as server:
        fields = {"tls_ca": authority.file}
        await works(settings(server.url, lane, **fields, tls_cert=cert, tls_key=key))
        text = await refused(settings(server.url, lane, **fields))
        assert text.endswith("the server asks for a client certificate|set NATS_CERT and NATS_KEY")
        cert, key = Authority(tmp_path, "foreign").issue()
        text = await refused(settings(server.url, lane, **fields, tls_cert=cert, tls_key=key))
        assert "the server refused our certificate|look at NATS_CERT" in text
        cert, key = authority.issue(days=-1)
        text = await refused(settings(server.url, lane, **fields, tls_cert=cert, tls_key=key))
        assert "the server refused our certificate" in text
        assert "NATS_CERT" in text


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_files_of_no_use_are_named(lane, authority, tmp_path, content):
    bad = tmp_path / "bad.pem"
    bad.write_text(content)
    cert, _ = authority.issue()
    _, other = authority.issue()
    async with NatsServer(tls=authority.server()) as server:
        text = await refused(settings(server.url, lane, tls_ca=bad))
        assert f"{bad} cannot be used for TLS (" in text
        assert text.endswith("|look at NATS_CA")
        text = await refused(settings(server.url, lane, tls_ca=authority.file, tls_cert=cert, tls_key=other))
        assert f"{cert} with {other} cannot be used for TLS (" in text
        assert text.endswith("|look at NATS_CERT and NATS_KEY")


async def test_a_certificate_that_was_renewed_is_used_at_the_next_connection(lane, authority, tmp_path):
    cert, key = authority.issue()
    foreign = Authority(tmp_path, "next")
    async with NatsServer(tls=authority.server(verify=True)) as server:
        fields = {"tls_ca": authority.file, "tls_cert": cert, "tls_key": key}
        async with Bus(settings(server.url, lane, **fields)) as bus:
            await echo(bus, "mesh.echo")
            await server.stop()
            server._tls = foreign.server(verify=True)
            authority.file.write_bytes(foreign.file.read_bytes())
            for old, new in zip((cert, key), foreign.issue(), strict=True):
                old.write_bytes(new.read_bytes())
            await server.start()
            await bus.wait_connected(10)
            assert (await bus.request(bus.address("mesh.echo"), b"x", timeout=5)).payload == b"x"


async def test_a_server_that_shakes_hands_first(lane, authority):
    tls = authority.server()
    config = f'tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}", handshake_first: true }}'
    async with NatsServer(extra_config=config) as server:
        url = server.url.replace("nats://", "tls://")
        await works(settings(url, lane, tls_ca=authority.file))
        text = await refused(settings(url, lane))
        assert "the server's certificate is not trusted" in text


async def test_a_server_that_shakes_hands_first_is_guessed_from_its_silence(lane, authority):
    tls = authority.server()
    config = f'tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}", handshake_first: true }}'
    async with NatsServer(extra_config=config) as server:
        with pytest.raises(NoConnection) as caught:
            async with Bus(settings(server.url, lane)):
                pass
        assert "Does it begin with TLS? Then give tls:// in NATS_URL" in caught.value.hint


async def test_tls_that_a_server_offers_and_does_not_ask_for_is_taken(lane, authority):
    tls = authority.server()
    config = f'tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}" }}\nallow_non_tls: true'
    async with NatsServer(extra_config=config) as server:
        url = server.url.replace("nats://", "tls://")
        await works(settings(url, lane, tls_ca=authority.file))
        assert "not trusted" in await refused(settings(url, lane))


async def test_an_encrypted_websocket(authority, tmp_path):
    port = free_port(0)
    async with NatsServer(extra_config=websocket(port, authority.server())) as server:
        url = f"wss://127.0.0.1:{port}"
        await works(settings(url, tls_ca=authority.file))
        assert server.running
        text = await refused(settings(url, tls_ca=Authority(tmp_path, "foreign").file))
        assert text.startswith(f"no NATS at {url}: the server's certificate is not trusted (")
    text = await refused(settings(url, tls_ca=authority.file), final=False)
    assert text.startswith(f"no NATS at {url}: the connection is refused|")


async def test_a_websocket_of_another_host_and_one_expired(authority):
    for tls, what in (
        (authority.server("nats.example"), "another host's"),
        (authority.server(days=-1), "has expired"),
    ):
        port = free_port(0)
        async with NatsServer(extra_config=websocket(port, tls)):
            assert what in await refused(settings(f"wss://127.0.0.1:{port}", tls_ca=authority.file))


async def test_a_login_over_a_websocket():
    port = free_port(0)
    config = f"websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}"
    login = 'authorization { user: ada, password: "p@ss" }'
    async with NatsServer(extra_config=f"{config}\n{login}"):
        await works(settings(f"ws://ada:p%40ss@127.0.0.1:{port}"))
        text = await refused(settings(f"ws://ada:wrong@127.0.0.1:{port}"))
        assert "the server refused the user or the password in NATS_URL|" in text


async def test_a_websocket_comes_back_after_its_server_did():
    port = free_port(0)
    async with (
        NatsServer(extra_config=f"websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}") as server,
        Bus(settings(f"ws://127.0.0.1:{port}")) as bus,
    ):
        await echo(bus, "mesh.echo")
        await server.restart()
        await bus.wait_connected(10)
        assert (await bus.request(bus.address("mesh.echo"), b"x", timeout=5)).payload == b"x"


async def test_a_websocket_where_none_is(nats_url):
    text = await refused(settings(nats_url.replace("nats://", "ws://")), final=False)
    assert text.startswith(f"no NATS at {nats_url.replace('nats://', 'ws://')}: ")


async def test_what_websockets_need_is_said(monkeypatch):
    monkeypatch.setattr("nats.aio.transport.aiohttp", None)
    monkeypatch.setattr("mesh.bus.supervised_connection.provide_aiohttp", lambda: None)
    text = await refused(settings("ws://127.0.0.1:1"))
    assert text.endswith("ws:// and wss:// need aiohttp|pip install 'nats-http-mesh[websocket]'")
