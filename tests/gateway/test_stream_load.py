"""Much at once, and much in all: what streams cost the processes that carry them."""

import asyncio
import os
import re
import resource
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.conditions import eventually
from tests.processes import answers, gateway_on, run

SERVICE = """
import asyncio
from collections.abc import AsyncIterator

from mesh import Event, Service, WebSocket

service = Service("load", version="1.0.0")


@service.get("/alive")
async def alive() -> str:
    return "yes"


@service.post("/swallow")
async def swallow(body: AsyncIterator[bytes]) -> int:
    size = 0
    async for piece in body:
        size += len(piece)
    return size


@service.get("/flood")
async def flood() -> AsyncIterator[bytes]:
    piece = bytes(65_536)
    while True:
        yield piece


@service.get("/ticks")
async def ticks(count: int) -> AsyncIterator[Event]:
    for number in range(count):
        yield Event(str(number))
        await asyncio.sleep(1)


@service.websocket("/ticker")
async def ticker(ws: WebSocket, count: int) -> None:
    for number in range(count):
        await ws.send(str(number))
        await asyncio.sleep(1)
"""
MIB = 1024 * 1024


@asynccontextmanager
async def a_mesh(tmp_path, nats_url, prefix):
    (tmp_path / "load.py").write_text(SERVICE)
    env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_ACCESS_LOG": "false"}
    env["MESH_CONCURRENCY"] = "5000"  # an open stream is a running call
    async with (
        run("run", "load:service", cwd=tmp_path, env=env) as service,
        gateway_on(tmp_path, env) as (gateway, http),
    ):
        await answers(http, "/alive", 200)
        yield service.child.pid, worker_of(gateway.child.pid), http, gateway


def worker_of(pid):
    """The process that serves: the gateway's parent only owns the socket."""
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(worker)


def rss(pid):
    """Resident bytes of a process."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.timeout(300)
async def test_a_large_upload_and_a_slow_reader_take_no_memory(tmp_path, nats_url, prefix, full):
    size = (2048 if full else 256) * MIB
    async with a_mesh(tmp_path, nats_url, prefix) as (service, gateway, http, _):
        warm = await http.post("/swallow", content=bytes(3 * MIB))
        assert warm.json() == 3 * MIB
        before = rss(service), rss(gateway)
        zeros = os.open("/dev/zero", os.O_RDONLY)
        read, write = os.pipe()
        limited = await asyncio.create_subprocess_exec("head", "-c", str(size), stdin=zeros, stdout=write)
        os.close(write)
        os.close(zeros)
        curl = await asyncio.create_subprocess_exec(
            "curl",
            "-sS",
            "-T",
            "-",
            "-X",
            "POST",
            f"{http.base_url}/swallow",
            stdin=read,
            stdout=asyncio.subprocess.PIPE,
        )
        os.close(read)
        assert int((await curl.communicate())[0]) == size
        await limited.wait()
        after = rss(service), rss(gateway)
        grown = [(b - a) / MIB for a, b in zip(before, after, strict=True)]
        print("grown MiB", grown)
        assert max(grown) < 20, grown

        seconds = 20 if full else 4
        reader = await asyncio.create_subprocess_exec(
            "curl", "-s", "--limit-rate", "1M", "-m", str(seconds), "-o", os.devnull, f"{http.base_url}/flood"
        )
        assert await reader.wait() == 28  # timed out, as it was told
        grown = [(b - a) / MIB for a, b in zip(before, (rss(service), rss(gateway)), strict=True)]
        print("grown MiB", grown)
        assert max(grown) < 20, grown


@pytest.mark.timeout(180)
async def test_many_event_streams_and_websockets_on_one_gateway(tmp_path, nats_url, prefix, full):
    many, count = (1000, 10) if full else (100, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    try:
        async with a_mesh(tmp_path, nats_url, prefix) as (_, _, http, gateway):
            base = str(http.base_url)
            wanted = [str(number) for number in range(count)]
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

                async def events():
                    async with session.get(f"{base}/ticks?count={count}") as response:
                        text = await response.text()
                        return re.findall(r"data: (\d+)", text)

                async def socket():
                    url = base.replace("http", "ws") + f"/ticker?count={count}"
                    async with connect(url, open_timeout=60, ping_interval=None) as ws:
                        return [message async for message in ws]

                tasks = [asyncio.ensure_future(one()) for one in [events, socket] for _ in range(many)]
                await eventually(lambda: sum(task.done() for task in tasks) == len(tasks), 120)
                got = await asyncio.gather(*tasks)
            assert [g for g in got if g != wanted] == []
            assert (await http.get("/alive")).json() == "yes"
            ready = (await http.get("/readyz/load")).json()
            assert (ready["ready"], ready["stale"]) == (1, False)
            assert not [line for line in gateway.lines if "ERROR" in line or "error" in line]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
