"""What people see at a terminal and in a log when NATS cannot be reached, and how soon."""

import asyncio
import socket
import time

import pytest

from mesh.embedded import NatsServer
from mesh.errors import ConfigError
from mesh.settings import BusSettings
from mesh.settings_reader import redact
from tests.processes import run

SERVICE = """
from mesh import Service
service = Service("greeter")

@service.get("/greet/{name}")
async def greet(name: str) -> str:
    return name
"""
LONG = {"MESH_CONNECT_TIMEOUT_S": "60", "MESH_LOG_FORMAT": "text"}


@pytest.fixture
def nobody():
    """The URL of a port where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"nats://127.0.0.1:{unused.getsockname()[1]}"


async def output(tmp_path, env, *command):
    began = time.monotonic()
    async with run(*command, cwd=tmp_path, env={**LONG, **env}) as process:
        async with asyncio.timeout(40):
            code = await process.child.wait()
        await process._reader
    assert time.monotonic() - began < 20, "it waited"
    return code, "".join(process.lines)


@pytest.mark.parametrize("command", [("ls",), ("tail", "--once"), ("doctor",), ("call", "users", "get")])
async def test_a_command_says_soon_that_nothing_listens(tmp_path, nobody, command):
    code, text = await output(tmp_path, {"NATS_URL": nobody}, *command)
    assert code == 75
    assert f"no NATS at {nobody}: the connection is refused" in text
    assert "set NATS_URL, or start a mesh with 'mesh up'" in text


async def test_up_where_nothing_listens_starts_nothing(tmp_path, nobody):
    code, text = await output(tmp_path, {"NATS_URL": nobody}, "up", "--port", "0", "--ops-port", "0")
    assert code == 75
    assert text == (
        f"error: no NATS at {nobody}: the connection is refused\nhint: unset NATS_URL to have one started\n"
    )


@pytest.mark.parametrize("command", [("ls",), ("tail", "--once"), ("doctor",), ("call", "users", "get")])
async def test_a_command_says_soon_which_login_is_refused(tmp_path, command):
    async with NatsServer(user="ada", password="right") as server:
        env = {"NATS_URL": server.url, "NATS_USER": "ada", "NATS_PASSWORD": "s3cr3t"}
        code, text = await output(tmp_path, env, *command)
    assert code == 75
    assert f"no NATS at {server.url}: the server refused the user 'ada' or its password" in text
    assert "look at NATS_USER and NATS_PASSWORD" in text
    assert "NATS_URL" not in text.replace(server.url, "")
    assert "s3cr3t" not in text


async def test_a_command_does_not_wait_for_tls_that_is_not_there(tmp_path):
    async with NatsServer() as server:
        code, text = await output(tmp_path, {"NATS_URL": server.url.replace("nats", "tls", 1)}, "ls")
    assert code == 75
    assert "the server offers no TLS, which tls:// in NATS_URL asks for" in text


async def test_a_service_says_that_it_runs_when_it_does(tmp_path):
    (tmp_path / "greeter.py").write_text(SERVICE)
    server = NatsServer()
    await server.start()
    await server.stop()
    async with run("run", "greeter.py", cwd=tmp_path, env={**LONG, "NATS_URL": server.url}) as process:
        line = await process.line("connection is refused")
        assert f"NATS at {server.url}: the connection is refused; trying again (set NATS_URL, or start a mesh" in line
        await process.line(f"greeter 0.0.1 is waiting for NATS at {server.url}")
        assert not any("runs as" in line for line in process.lines)
        await server.start()
        await process.line("greeter 0.0.1 runs as")
        await process.line(f"connected to NATS at {server.url.removeprefix('nats://')}")
        assert await process.end() == 0
    await server.aclose()


async def test_a_service_with_a_wrong_login_keeps_trying_and_says_so(tmp_path):
    (tmp_path / "greeter.py").write_text(SERVICE)
    async with NatsServer(user="ada", password="right") as server:
        env = {**LONG, "NATS_URL": server.url.replace("//", "//ada:s3cr3t@")}
        async with run("run", "greeter.py", cwd=tmp_path, env=env) as process:
            line = await process.line("refused")
            assert f"NATS at {server.url}: the server refused the user or the password in NATS_URL; trying" in line
            await process.line("is waiting for NATS at")
            server._login = ("ada", "s3cr3t")
            await server.restart()
            await process.line("runs as")
            assert await process.end() == 0
        assert "s3cr3t" not in "".join(process.lines)


@pytest.mark.parametrize(
    "url",
    [
        "nats://ada:s3cr3t@host:port",
        "nats://ada:s3cr3t/s3cr3t@host",
        "nats://ada:s3cr3t@s3cr3t@host:port",
        "ada:s3cr3t@host:port",
        "s3cr3t@host:port",
        "nats://ada:x,s3cr3t@host",
        "http://ada:s3cr3t@host",
    ],
)
def test_a_wrong_url_is_named_without_its_login(url):
    with pytest.raises(ConfigError) as caught:
        BusSettings.load(environ={"NATS_URL": url}, file=None)
    assert "bus.servers (environment NATS_URL)" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_settings_are_shown_without_a_login():
    shown = repr(BusSettings(servers=("nats://ada:s3cr3t@host", "s3cr3t@host:1"), password="s3cr3t", token="s3cr3t"))
    assert "nats://***@host" in shown
    assert "s3cr3t" not in shown
    assert redact("ada:s3cr3t@host, nats://s3cr3t@b nats://a:p@s3cr3t@c") == "***@host, nats://***@b nats://***@c"


def test_logins_of_two_kinds_do_not_go_together():
    for given in ("nats://token@a,nats://ada:secret@b", "nats://ada:secret@a,nats://token@b"):
        with pytest.raises(ConfigError, match="either tokens in all URLs or users with passwords"):
            BusSettings.load(environ={"NATS_URL": given}, file=None)
