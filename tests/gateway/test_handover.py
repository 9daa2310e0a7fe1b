"""One gateway process takes over from another: no connection is refused or cut, and stopping goes in order."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.conditions import eventually
from tests.processes import answers, gateway_on, http_client, run

SERVICE = """
import asyncio
from pathlib import Path

from mesh import Service

service = Service("work", version="1.0.0")


@service.get("/work")
async def work(seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return "done"


@service.get("/held", timeout=30)
async def held(until: str) -> str:
    while not Path(until).exists():
        await asyncio.sleep(0.01)
    return "done"
"""


@pytest.fixture
def env(nats_url, prefix):
    return {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_ACCESS_LOG": "false"}


@asynccontextmanager
async def a_mesh(tmp_path, env, *flags):
    (tmp_path / "work.py").write_text(SERVICE)
    async with run("run", "work:service", cwd=tmp_path, env=env), gateway_on(tmp_path, env, *flags) as (process, http):
        await answers(http, "/work", 200)
        yield process, http


def workers(process):
    """The process ids of the gateway's workers."""
    pid = process.child.pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


async def reload(process):
    """Ask for a new worker; return when it serves."""
    already = len(process.lines)
    process.child.send_signal(signal.SIGHUP)
    await process.line("reloaded|not reloaded", after=already)
    assert not [line for line in process.lines[already:] if "not reloaded" in line]


async def anew(http, path):
    """The answer to a request on a new connection."""
    async with http_client(base_url=http.base_url, timeout=20) as other:
        return await other.get(path)


class Clients:
    """Keep-alive clients that ask without pause, and whatever they got that was no 200."""

    def __init__(self, url, count):
        self.url = url
        self.failures = []
        self.answered = 0
        self._stop = False
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(count)]

    async def _ask(self):
        async with http_client(base_url=self.url, timeout=20) as http:
            while not self._stop:
                try:
                    status = (await http.get("/work?seconds=0.002")).status_code
                except httpx.HTTPError as error:
                    status = repr(error)
                self.answered += 1
                if status != 200:
                    self.failures.append(status)

    async def end(self):
        self._stop = True
        await asyncio.gather(*self._tasks)


async def test_reloads_under_keep_alive_clients_lose_nothing(tmp_path, env, full):
    async with a_mesh(tmp_path, env | {"MESH_GATEWAY_DRAIN_S": "3"}) as (process, http):
        first = workers(process)
        clients = Clients(str(http.base_url), 4)
        curls = []
        for _ in range(10 if full else 2):
            before = clients.answered
            await reload(process)
            url = f"{http.base_url}/work"
            curls.append(await asyncio.create_subprocess_exec("curl", "-sf", "-o", os.devnull, *[url] * 20))
            await eventually(lambda before=before: clients.answered > before + 20)
        assert {await curl.wait() for curl in curls} == {0}
        await clients.end()
        assert clients.failures == []
        await eventually(lambda: len(workers(process)) == 1, 30)  # the old ones have ended by themselves
        assert workers(process) != first


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
async def test_reloads_under_wrk_lose_nothing(tmp_path, env, full):
    async with a_mesh(tmp_path, env) as (process, http):
        wrk = await asyncio.create_subprocess_exec(
            "wrk", "-t1", "-c16", "-d20" if full else "-d4", f"{http.base_url}/work", stdout=asyncio.subprocess.PIPE
        )
        for _ in range(10 if full else 2):
            await reload(process)
        out = (await wrk.communicate())[0].decode()
        assert "Socket errors" not in out, out
        assert "Non-2xx" not in out, out
        assert int(re.search(r"(\d+) requests in", out)[1]) > 100


async def test_a_request_under_way_ends_where_it_began(tmp_path, env):
    async with a_mesh(tmp_path, env) as (process, http):
        (old,) = workers(process)
        slow = asyncio.ensure_future(http.get("/held", params={"until": str(tmp_path / "enough")}))
        async with http_client(base_url=http.base_url) as other:
            await other.get("/work")  # on a connection that then stays idle
            await reload(process)
            assert old in workers(process)
            (tmp_path / "enough").touch()
            response = await slow
            assert (response.status_code, response.headers.get("connection")) == (200, "close")
            told = await other.get("/work")
            assert (told.status_code, told.headers.get("connection")) == (200, "close")
            assert (await other.get("/work")).headers.get("connection") != "close"  # at the new one
        await eventually(lambda: old not in workers(process), 30)


async def test_a_changed_configuration_is_taken_over_and_a_wrong_one_is_not(tmp_path, env):
    file = tmp_path / "mesh.toml"
    file.write_text("[gateway]\ntimeout_ms = 5000\n")
    async with a_mesh(tmp_path, env) as (process, http):
        assert (await http.get("/work?seconds=0.5")).status_code == 200
        file.write_text("[gateway]\ntimeout_ms = 100\n")
        await process.line("reloaded: process")
        assert (await anew(http, "/work?seconds=0.5")).status_code == 504
        already = len(process.lines)
        file.write_text("[gateway]\ntimeout_ms = 'soon'\n")
        assert "timeout_ms" in await process.line("not reloaded", after=already)
        assert (await anew(http, "/work?seconds=0.5")).status_code == 504


async def test_a_configuration_that_appears_goes_and_comes_back(tmp_path, env):
    file = tmp_path / "mesh.toml"
    async with a_mesh(tmp_path, env) as (process, http):
        file.write_text("[gateway]\ntimeout_ms = 100\n")
        await process.line("mesh.toml appeared")
        await process.line("reloaded: process")
        assert (await anew(http, "/work?seconds=0.5")).status_code == 504
        already = len(process.lines)
        file.unlink()
        assert "goes on with the settings that it had" in await process.line("mesh.toml is gone", after=already)
        assert (await anew(http, "/work?seconds=0.5")).status_code == 504
        file.write_text("[gateway]\ntimeout_ms = 5000\n")
        await process.line("reloaded: process", after=already)
        assert (await anew(http, "/work?seconds=0.5")).status_code == 200


async def test_another_address_is_opened_before_the_old_one_is_closed(tmp_path, env):
    file = tmp_path / "mesh.toml"
    file.write_text("")
    async with a_mesh(tmp_path, env) as (process, http):
        file.write_text('[gateway]\nhost = "127.0.0.2"\n')
        line = await process.line(r"listens on 127\.0\.0\.2:")
        await process.line("reloaded: process")
        port = re.search(r"127\.0\.0\.2:(\d+)", line)[1]
        assert (await http.get(f"http://127.0.0.2:{port}/work")).status_code == 200
        assert (await http.get("/work")).headers["connection"] == "close"  # its connection is still served
        with pytest.raises(httpx.ConnectError):
            await anew(http, "/work")


async def test_an_address_that_is_taken_leaves_everything_as_it_was(tmp_path, env):
    file = tmp_path / "mesh.toml"
    file.write_text("")
    async with a_mesh(tmp_path, env) as (process, http):
        file.write_text('[gateway]\nhost = "192.0.2.1"\n')  # not of this machine
        assert "cannot listen on 192.0.2.1" in await process.line("not reloaded")
        assert (await anew(http, "/work")).status_code == 200


async def test_a_worker_that_dies_is_replaced_behind_the_same_socket(tmp_path, env):
    async with a_mesh(tmp_path, env) as (process, http):
        (old,) = workers(process)
        os.kill(int(old), signal.SIGKILL)
        await process.line("was ended by SIGKILL; starting another")
        async with http_client(base_url=http.base_url, timeout=20) as fresh:
            await answers(fresh, "/work", 200)
        assert old not in workers(process)


async def test_stopping_fails_readiness_first_then_connections_then_the_listener(tmp_path, env):
    env["MESH_GATEWAY_LINGER_MS"] = "2000"
    async with a_mesh(tmp_path, env) as (process, http):
        slow = asyncio.ensure_future(http.get("/work?seconds=3"))
        async with http_client(base_url=http.base_url, timeout=20) as other:
            assert "connection" not in (await other.get("/work")).headers
            process.child.send_signal(signal.SIGTERM)
            await answers(other, "/readyz", 503)
            assert (await other.get("/readyz")).json()["reason"] == "draining"
            still = await other.get("/work")  # new connections are taken, and served, for a while
            assert (still.status_code, still.headers["connection"]) == (200, "close")
            with contextlib.suppress(httpx.HTTPError):
                while (await other.get("/work")).status_code == 200:
                    pass
            with pytest.raises(httpx.ConnectError):
                await other.get("/work")
        assert (await slow).status_code == 200
        assert await asyncio.wait_for(process.child.wait(), 20) == 0


async def test_drained_over_the_bus_it_ends_and_is_not_started_again(tmp_path, env):
    async with a_mesh(tmp_path, env | {"MESH_GATEWAY_LINGER_MS": "0"}) as (process, _):
        async with run("drain", "gateway", "--yes", cwd=tmp_path, env=env) as drain:
            assert await asyncio.wait_for(drain.child.wait(), 30) == 0, drain.lines
        assert await asyncio.wait_for(process.child.wait(), 30) == 0
