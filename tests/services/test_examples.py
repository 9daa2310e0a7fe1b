"""The example services that are not written for Python, or not for the mesh: JavaScript, Go, a FastAPI application."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh import adapt
from mesh.embedded import free_port
from mesh.testing import Mesh
from services.notes.app import app
from tests.conditions import eventually
from tests.micro.packages import installed
from tests.processes import answers, gateway_on, run

ROOT = Path(__file__).parents[2]
JAVASCRIPT = ROOT / "services" / "javascript"


@pytest.fixture(scope="module")
def javascript():
    """The folder where the examples are, with their packages beside them."""
    return installed(JAVASCRIPT, "package.json", "quotes.mjs", "riddles.mjs")


@asynccontextmanager
async def node(file, url, prefix):
    child = await asyncio.create_subprocess_exec(
        *("node", str(file)),
        env={**os.environ, "NATS_URL": url, "MESH_PREFIX": prefix},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        line = await asyncio.wait_for(child.stdout.readline(), 20)
        found = re.search(rb"runs as (\S+)", line)
        assert found, line + await child.stdout.read()
        yield child, found[1].decode()
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


@pytest.fixture
async def mesh(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix, gateway={"foreign_s": 0.3}) as mesh:
        yield mesh


async def test_a_native_instance_in_javascript(javascript, mesh, nats_url, prefix):
    """Written from the protocol's page: announced, alive by its heartbeats, addressed, drained without a loss."""
    registry = mesh.gateway.watcher.registry
    async with node(javascript / "quotes.mjs", nats_url, prefix) as (one, id):
        await eventually(lambda: registry.get("quotes", id) is not None)
        found = (await mesh.http.get("/quotes/random")).json()
        assert (found["language"], found["instance"]) == ("JavaScript", id)
        assert (await mesh.http.get("/quotes/2")).json()["quote"].startswith("Make it work")
        missing = await mesh.http.get("/quotes/99")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        instance = registry.get("quotes", id)
        assert (instance.foreign, instance.metadata, instance.state) == (False, {"language": "JavaScript"}, "ready")
        seq = instance.seq
        await eventually(lambda: instance.seq > seq + 1, 10)  # it beats
        assert not instance.suspect

        async with node(javascript / "quotes.mjs", nats_url, prefix) as (_, second):
            await eventually(lambda: registry.get("quotes", second) is not None)
            seen = {(await mesh.http.get("/quotes/random")).json()["instance"] for _ in range(50)}
            assert seen == {id, second}
            states = []
            mesh.gateway.watcher.on_change(lambda found: states.extend((c.kind, c.state) for c in found))
            one.send_signal(signal.SIGTERM)
            while one.returncode is None:
                assert (await mesh.http.get("/quotes/1")).status_code == 200
                await asyncio.sleep(0)
            assert await one.wait() == 0
            await eventually(lambda: registry.get("quotes", id) is None)
            assert states == [("state", "draining"), ("left", "stopped")]
            assert (await mesh.http.get("/quotes/1")).status_code == 200


async def test_a_nats_micro_service_in_javascript(javascript, mesh, nats_url, prefix):
    async with node(javascript / "riddles.mjs", nats_url, prefix) as (child, _):
        await eventually(lambda: mesh.gateway.watcher.registry.instances("riddles"))
        assert "riddle" in (await mesh.http.get("/riddles/random")).json()
        assert (await mesh.http.get("/riddles/2")).json()["answer"] == "a sponge"
        missing = await mesh.http.get("/riddles/9")
        assert (missing.status_code, missing.json()["detail"]) == (404, "there is no riddle 9")
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0
    await eventually(lambda: not mesh.gateway.watcher.registry.instances("riddles"))


@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
async def test_an_http_server_in_go_behind_the_bridge(tmp_path, nats_url, prefix):
    built = subprocess.run(
        ["go", "build", "-o", str(tmp_path / "facts"), "."],
        cwd=ROOT / "services" / "go" / "facts",
        env={**os.environ, "GOCACHE": str(tmp_path / "cache"), "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=False,
        timeout=55,
    )
    assert built.returncode == 0, built.stderr
    env = {"NATS_URL": nats_url, "MESH_PREFIX": prefix, "MESH_WINDOW_MS": "0", "MESH_LINGER_MS": "20"}
    address = f"127.0.0.1:{free_port(0)}"
    flags = ("--name", "facts", "--to", f"http://{address}", "--prefix", "/facts", "--health", "/health")
    async with (
        run("bridge", *flags, "--", str(tmp_path / "facts"), "-address", address, cwd=tmp_path, env=env) as process,
        gateway_on(tmp_path, env) as (_, http),
    ):
        await answers(http, "/facts/1", 200, 20)
        assert (await http.get("/facts/1")).json()["language"] == "Go"
        assert (await http.get("/facts/99")).status_code == 404
        assert len((await http.get("/facts")).json()) == 3
        assert await process.end() == 0


async def test_a_plain_fastapi_application(mesh):
    await mesh.start(adapt(app, name="notes").service)
    made = await mesh.http.post("/notes", json={"text": "milk"})
    assert made.status_code == 201
    assert (await mesh.http.get(made.headers["location"])).json() == made.json()
    assert made.json() in (await mesh.http.get("/notes")).json()
    assert json.loads((await mesh.http.get("/notes/999")).content)["detail"] == "there is no note 999"
    assert (await mesh.http.post("/notes", json={"text": ""})).status_code == 422
