"""Several processes behind one address: who gets which connections, who replaces whom."""

import asyncio
import os
import re
import signal
from contextlib import asynccontextmanager

import httpx
import pytest

import mesh.cli.workers
from tests.conditions import eventually
from tests.gateway.test_handover import Clients, a_mesh, anew, env, workers  # noqa: F401
from tests.processes import http_client, run

CONNECTIONS = 1000


@pytest.fixture
def two(env):  # noqa: F811
    """Settings for two workers."""
    return env | {"MESH_WORKERS": "2", "MESH_GATEWAY_DRAIN_S": "1"}


async def planes(process, number):
    """Addresses of the operator's planes of as many workers."""
    pattern = re.compile(r"operator's plane is at (http://[\d.:]+)")
    found = []

    def all_there():
        found[:] = [m[1] for line in process.lines if (m := pattern.search(line))]
        return len(found) >= number

    await eventually(all_there, 20)
    return found


async def figure(url, name):
    async with http_client() as http:
        return int(float(re.search(rf"^{name} (\S+)$", (await http.get(f"{url}/metrics")).text, re.M)[1]))


@asynccontextmanager
async def connections(http, number):
    writers = []
    try:
        for _ in range(number):
            _, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.close()


async def test_each_of_two_takes_its_share_of_a_thousand_connections(tmp_path, two, figures):
    async with a_mesh(tmp_path, two) as (process, http):
        urls = await planes(process, 2)
        async with connections(http, CONNECTIONS):
            taken = []

            async def all_taken():
                taken[:] = [await figure(url, "mesh_gateway_connections") for url in urls]
                return sum(taken) >= CONNECTIONS

            async with asyncio.timeout(20):
                while not await all_taken():
                    pass
        figures("connections of each of two workers", taken=taken)
        assert all(0.3 * CONNECTIONS <= share <= 0.7 * CONNECTIONS + 2 for share in taken), taken


async def test_a_configuration_that_is_being_written_is_not_read(monkeypatch, tmp_path):
    """An editor empties the file first: for a moment it is a valid one, with every setting as it is by default."""
    seen, looks, read = [(1, 10), (2, 0), (3, 12), (3, 12)], [], []

    def stamp(file):
        looks.append(file)
        return seen[min(len(looks), len(seen)) - 1]

    monkeypatch.setattr(mesh.cli.workers, "_stamp", stamp)
    monkeypatch.setattr(mesh.cli.workers, "POLL_S", 0)
    workers = mesh.cli.workers.Workers(lambda *_: [], lambda: None, lambda *_: None, tmp_path / "mesh.toml")
    workers._reload.set = lambda: read.append(len(looks))
    watching = asyncio.create_task(workers._watch())
    await eventually(lambda: len(looks) > 10)
    watching.cancel()
    assert read == [4]


async def test_both_answer_and_count_for_themselves(tmp_path, two):
    async with a_mesh(tmp_path, two) as (process, http):
        urls = await planes(process, 2)
        assert len(workers(process)) == 2
        for _ in range(24):
            assert (await anew(http, "/work")).status_code == 200
        answered = []
        for url in urls:
            async with http_client() as operator:
                text = (await operator.get(f"{url}/metrics")).text
            found = re.search(r'requests_total\{method="GET",route="/work",status="200"\} (\d+)', text)
            answered.append(int(found[1]) if found else 0)
        assert sum(answered) >= 24
        assert min(answered) > 0


async def test_one_that_dies_is_replaced_and_the_other_goes_on(tmp_path, two):
    async with a_mesh(tmp_path, two) as (process, http):
        first = workers(process)
        os.kill(int(first[0]), signal.SIGKILL)
        await process.line("was ended by SIGKILL; starting another")
        answered = await asyncio.gather(*(anew(http, "/readyz") for _ in range(20)))  # none is refused, some wait
        assert {response.status_code for response in answered} <= {200, 503}
        await eventually(lambda: len(workers(process)) == 2, 20)
        assert first[1] in workers(process)
        assert first[0] not in workers(process)


@pytest.mark.parametrize("number", [1, 3])
async def test_a_reload_to_another_number_loses_nothing(tmp_path, two, number):
    file = tmp_path / "mesh.toml"
    file.write_text("[gateway]\nworkers = 2\n")
    settings = {name: value for name, value in two.items() if name != "MESH_WORKERS"}
    async with a_mesh(tmp_path, settings) as (process, http):
        first = workers(process)
        assert len(first) == 2
        clients = Clients(str(http.base_url), 4)
        file.write_text(f"[gateway]\nworkers = {number}\n")
        await process.line("reloaded: process")
        before = clients.answered
        for _ in range(20):
            assert (await anew(http, "/work")).status_code == 200
        await eventually(lambda: clients.answered > before + 50)
        await clients.end()
        assert clients.failures == []
        await eventually(lambda: len(workers(process)) == number, 30)
        assert not set(first) & set(workers(process))


async def test_stopped_or_drained_all_of_them_end(tmp_path, two):
    async with a_mesh(tmp_path, two | {"MESH_GATEWAY_LINGER_MS": "0"}) as (process, http):
        pids = workers(process)
        assert await process.end() == 0
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid), 0)
        with pytest.raises(httpx.ConnectError):
            await anew(http, "/work")
    async with a_mesh(tmp_path, two | {"MESH_GATEWAY_LINGER_MS": "0"}) as (process, _):
        async with run("drain", "gateway", "--yes", cwd=tmp_path, env=two) as drain:
            assert await asyncio.wait_for(drain.child.wait(), 30) == 0, drain.lines
        assert await asyncio.wait_for(process.child.wait(), 30) == 0


async def test_a_port_on_which_somebody_listens_is_taken(tmp_path, two):
    async with a_mesh(tmp_path, two) as (_, http):
        port = str(http.base_url.port)
        async with run("gateway", "--port", port, "--ops-port", "0", cwd=tmp_path, env=two) as second:
            assert f"cannot listen on 127.0.0.1:{port}" in await second.line("cannot listen")
            assert await asyncio.wait_for(second.child.wait(), 20) == 1


async def test_no_number_of_workers_is_an_error_that_names_it(tmp_path, two):
    async with run("gateway", cwd=tmp_path, env=two | {"MESH_WORKERS": "0"}) as process:
        assert "MESH_WORKERS" in await process.line("MESH_WORKERS")
        assert await asyncio.wait_for(process.child.wait(), 20) == 2
