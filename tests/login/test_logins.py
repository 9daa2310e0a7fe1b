"""Every way to log in, against a real server, beside its wrong counterpart; no secret in any error or log."""

import time

import pytest

from mesh.bus import Bus
from mesh.embedded import NatsServer
from mesh.errors import BusUnavailable, Forbidden
from tests.bus.parts import echo
from tests.conditions import eventually
from tests.login.material import NKey, Operator, seed_file
from tests.login.parts import refused, settings, works

SECRET = "s3cr3t-p%40ss"
CONFIG = 'authorization { user: ada, password: "s3cr3t-p%40ss" }'


@pytest.fixture(autouse=True)
def no_secret_in_a_log(caplog):
    caplog.set_level("DEBUG")
    yield
    for text in (SECRET, "s3cr3t", "SUA"):
        assert text not in caplog.text


async def test_none(lane):
    async with NatsServer() as server:
        await works(settings(server.url, lane))
    async with NatsServer(extra_config=CONFIG) as server:
        assert await refused(settings(server.url, lane)) == (
            f"no NATS at {server.url}: the server asks for a login and none is set"
            "|set NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"
        )


async def test_token(lane):
    async with NatsServer(extra_config='authorization { token: "s3cr3t" }') as server:
        await works(settings(server.url, lane, token="s3cr3t"))
        text = await refused(settings(server.url, lane, token="s3cr3t-wrong"))
        assert text == f"no NATS at {server.url}: the server refused the token|look at NATS_TOKEN"


async def test_user_and_password(lane):
    async with NatsServer(extra_config=CONFIG) as server:
        await works(settings(server.url, lane, user="ada", password=SECRET))
        text = await refused(settings(server.url, lane, user="ada", password="s3cr3t-wrong"))
        assert text == (
            f"no NATS at {server.url}: the server refused the user 'ada' or its password"
            "|look at NATS_USER and NATS_PASSWORD"
        )


@pytest.mark.parametrize(
    ("password", "escaped"), [("p@ss:w/rd %41", "p%40ss%3Aw%2Frd%20%2541"), ("plain", "plain"), ("a+b", "a+b")]
)
async def test_user_and_password_in_the_url(lane, password, escaped):
    async with NatsServer(extra_config=f'authorization {{ user: "a@da", password: "{password}" }}') as server:
        await works(settings(server.url.replace("//", f"//a%40da:{escaped}@"), lane))
        text = await refused(settings(server.url.replace("//", "//a%40da:s3cr3t@"), lane))
        where = server.url.replace("//", "//***@")
        assert text.startswith(f"no NATS at {where}: the server refused the user or the password in NATS_URL|")


async def test_a_token_in_the_url(lane):
    async with NatsServer(extra_config='authorization { token: "s3cr3t/x" }') as server:
        await works(settings(server.url.replace("//", "//s3cr3t%2Fx@"), lane))
        text = await refused(settings(server.url.replace("//", "//s3cr3t@"), lane))
        assert "the server refused the token in NATS_URL|" in text


async def test_nkey(lane, tmp_path):
    known, unknown = NKey("user"), NKey("user")
    async with NatsServer(extra_config=f"authorization {{ users: [ {{ nkey: {known.public} }} ] }}") as server:
        await works(settings(server.url, lane, nkey=seed_file(tmp_path / "known", known)))
        path = seed_file(tmp_path / "unknown", unknown)
        text = await refused(settings(server.url, lane, nkey=path), secrets=[unknown.seed])
        assert f"the server refused the nkey {unknown.public} of {path}|look at NATS_NKEY" in text


async def test_credentials(lane, tmp_path):
    operator, stranger = Operator(), Operator()
    async with NatsServer(jetstream=False, extra_config=operator.config()) as server:
        await works(settings(server.url, lane, credentials=operator.credentials(tmp_path / "a.creds")))
        path = stranger.credentials(tmp_path / "b.creds")
        text = await refused(settings(server.url, lane, credentials=path))
        assert f"the server refused the credentials in {path}|look at NATS_CREDS" in text


async def test_expired_credentials(lane, tmp_path):
    operator = Operator()
    async with NatsServer(jetstream=False, extra_config=operator.config()) as server:
        path = operator.credentials(tmp_path / "old.creds", expires=1_600_000_000)
        text = await refused(settings(server.url, lane, credentials=path))
        assert f"the credentials in {path}, which expired on 2020-09-13 12:26:40 UTC|look at NATS_CREDS" in text


async def test_revoked_credentials(lane, tmp_path):
    operator, user = Operator(), NKey("user")
    operator.revoked = {user.public: int(time.time())}
    async with NatsServer(jetstream=False, extra_config=operator.config()) as server:
        path = operator.credentials(tmp_path / "revoked.creds", user=user)
        text = await refused(settings(server.url, lane, credentials=path))
        assert f"the server refused the credentials in {path}|" in text
        assert "revoked?" in text


async def test_credentials_that_expire_while_connected_are_said_and_renewed_ones_taken(lane, tmp_path, caplog):
    operator = Operator()
    path = operator.credentials(tmp_path / "a.creds", expires=int(time.time()) + 3)
    async with (
        NatsServer(jetstream=False, extra_config=operator.config()) as server,
        Bus(settings(server.url, lane, credentials=path)) as bus,
    ):
        await echo(bus, "mesh.echo")
        lost = []
        bus.on_connection(lambda up: up or lost.append(up))
        await eventually(lambda: lost)
        await eventually(lambda: "which expired on" in caplog.text)
        operator.credentials(path)
        await bus.wait_connected(10)
        assert (await bus.request(bus.address("mesh.echo"), b"x", timeout=5)).payload == b"x"
        assert "its login expired" in caplog.text


@pytest.mark.parametrize("kind", ["credentials", "nkey"])
async def test_a_file_that_was_changed_is_used_at_the_next_connection(lane, tmp_path, kind):
    operator, first, second = Operator(), NKey("user"), NKey("user")
    path = tmp_path / "login"

    def write(user):
        if kind == "nkey":
            seed_file(path, user)
        else:
            operator.credentials(path, user=user)

    def config(user):
        if kind == "nkey":
            return f"authorization {{ users: [ {{ nkey: {user.public} }} ] }}"
        operator.revoked = {other.public: int(time.time()) for other in (first, second) if other is not user}
        return operator.config()

    write(first)
    async with (
        NatsServer(jetstream=False, extra_config=config(first)) as server,
        Bus(settings(server.url, lane, **{kind: path})) as bus,
    ):
        await echo(bus, "mesh.echo")
        await server.stop()
        server._extra_config = config(second)
        write(second)
        await server.start()
        await bus.wait_connected(10)
        assert (await bus.request(bus.address("mesh.echo"), b"x", timeout=5)).payload == b"x"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is no credentials file: it has no JWT of a user"),
        ("-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n", "it has no key of a user"),
        (
            "-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n"
            "-----BEGIN USER NKEY SEED-----\nSUAXX\n------END USER NKEY SEED------\n",
            "cannot be used: it is no seed of an nkey",
        ),
        ("\x00\xff", "it is no text"),
    ],
)
async def test_a_bad_credentials_file_is_named(nats_url, lane, tmp_path, text, what):
    path = tmp_path / "bad.creds"
    path.write_bytes(text.encode("latin-1"))
    async with NatsServer(jetstream=False, extra_config=Operator().config()) as server:
        said = await refused(settings(server.url, lane, credentials=path))
        assert str(path) in said
        assert what in said
        assert "|look at NATS_CREDS" in said


async def test_a_missing_file_is_named(lane, tmp_path):
    async with NatsServer(jetstream=False, extra_config=Operator().config()) as server:
        said = await refused(settings(server.url, lane, credentials=tmp_path / "none"))
        assert f"{tmp_path / 'none'} cannot be read (No such file or directory)|look at NATS_CREDS" in said


async def test_the_key_of_an_account_is_none_of_a_user(lane, tmp_path):
    path = seed_file(tmp_path / "seed", NKey("account"))
    async with NatsServer(extra_config=f"authorization {{ users: [ {{ nkey: {NKey('user').public} }} ] }}") as server:
        said = await refused(settings(server.url, lane, nkey=path))
        assert f"the key in {path} cannot be used: it is the seed of an account, not of a user" in said


async def test_an_account_with_permissions(lane, tmp_path):
    operator = Operator()
    path = operator.credentials(tmp_path / "a.creds", pub={"allow": ["mesh.inbox.>", "mesh.echo"]})
    async with NatsServer(jetstream=False, extra_config=operator.config()) as server:
        await works(settings(server.url, lane, credentials=path))
        async with Bus(settings(server.url, lane, credentials=path)) as bus:
            with pytest.raises(Forbidden):
                await bus.request(bus.address("mesh.other"), b"", timeout=10)


async def test_a_full_server_says_so_and_is_tried_again(lane, caplog):
    async with NatsServer(extra_config="max_connections: 1") as server:
        first = Bus(settings(server.url, lane))
        first.open()
        await first.wait_connected(10)
        text = await refused(settings(server.url, lane), final=False)
        assert text == (
            f"no NATS at {server.url}: the server has as many connections as it takes"
            "|raise max_connections at the server, or end some connections"
        )
        waiting = Bus(settings(server.url, lane))
        waiting.open()
        await eventually(lambda: caplog.text.count("as many connections as it takes; trying again") == 2)
        await first.aclose()
        await waiting.wait_connected(10)
        await waiting.aclose()


async def test_a_full_account_says_so(lane, tmp_path):
    operator = Operator(connections=1)
    first, second = (operator.credentials(tmp_path / name) for name in ("a", "b"))
    async with (
        NatsServer(jetstream=False, extra_config=operator.config()) as server,
        Bus(settings(server.url, lane, credentials=first)),
    ):
        text = await refused(settings(server.url, lane, credentials=second), final=False)
        assert "the account has as many connections as it may have|" in text


async def test_a_server_learnt_from_info_gets_the_login_of_the_url(lane):
    """nats-py sends none to those, as their URL has none."""
    login = 'authorization { user: ada, password: "p@ss" }'
    from mesh.embedded import free_port
    from mesh.embedded.server import Cluster

    ports = [free_port(0), free_port(0)]
    routes = tuple(f"nats://127.0.0.1:{port}" for port in ports)
    members = [Cluster("c", port, routes) for port in ports]
    async with (
        NatsServer(name="a", jetstream=False, cluster=members[0], extra_config=login) as first,
        NatsServer(name="b", jetstream=False, cluster=members[1], extra_config=login) as second,
        Bus(settings(first.url.replace("//", "//ada:p%40ss@"), lane)) as bus,
    ):
        await eventually(lambda: bus._connection.has_others)
        await first.kill()
        await eventually(lambda: bus.connected and bus.server["server_name"] == "b")
        assert bus.jetstream_client().connected_url.port == second.port


async def test_a_program_that_waits_says_where_and_that_it_tries_again(lane, caplog):
    async with NatsServer(extra_config=CONFIG) as server:
        bus = Bus(settings(server.url.replace("//", "//ada:s3cr3t@"), lane))
        bus.open()
        await eventually(lambda: caplog.records and "trying again" in caplog.text)
        assert (
            f"NATS at {server.url}: the server refused the user or the password in NATS_URL; trying again (look at"
            in caplog.text
        )
        with pytest.raises(BusUnavailable) as caught:
            bus.publish(b"x", b"")
        assert caught.value.detail == "not connected to NATS"  # this reaches clients of the gateway
        await bus.aclose()
