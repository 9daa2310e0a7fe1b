"""NATS, a gateway and instances of the service under test as real processes, each of which can be made to fail."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from mesh.embedded import Cluster, NatsServer, free_port
from tests.chaos.app import RECORD
from tests.chaos.load import Load, get_work
from tests.chaos.record import Executions
from tests.processes import Process, http_client, run

POLL_S = 0.02
ROUTES = 4
"""Connections between two nodes: three for accounts, one for the system's own."""
QUIET = {"MESH_ACCESS_LOG": "false", "NATS_URL": "", "MESH_CONFIG": ""}


class Part:
    """One process of the mesh and what can be done to it."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.child.pid

    @property
    def running(self) -> bool:
        return self.process.child.returncode is None

    def signal(self, number: signal.Signals) -> None:
        self.process.child.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    async def drain(self) -> int:
        """SIGTERM, and its exit code."""
        return await self.process.end()


class Instance(Part):
    """One instance of the service; ``id`` is the mesh's name of it."""

    def __init__(self, process: Process, id: str) -> None:
        super().__init__(process)
        self.id = id


class Gateway(Part):
    """The gateway: a parent that owns the sockets, and the worker that serves them."""

    def __init__(self, process: Process, port: int) -> None:
        super().__init__(process)
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> int:
        """The worker's process id."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(children[-1])


class World:
    """A mesh for as long as the context lasts; settings are the defaults except for those given.

    ``nodes``: 1, or a cluster of that many NATS servers. ``home`` of a gateway or an instance is the node to which it
    connects first; without one it gets the addresses of all, as a user would give them. ``nats_url`` stands in for the
    servers' own addresses: a proxy's, say.
    """

    def __init__(
        self,
        folder: Path,
        *,
        instances: int = 2,
        nodes: int = 1,
        timeout_s: float = 10.0,
        nats_url: Callable[[World], str] | None = None,
        gateway: Mapping[str, str] | None = None,
        service: Mapping[str, str] | None = None,
        homes: tuple[int | None, ...] = (),
    ) -> None:
        self.timeout_s = timeout_s
        self.nodes: list[NatsServer] = []
        self.instances: list[Instance] = []
        self.gateway: Gateway
        self.http: httpx.AsyncClient
        self._folder = folder
        self._count = instances
        self._node_count = nodes
        self._nats_url = nats_url
        self._gateway_env = dict(gateway or {})
        self._service_env = dict(service or {})
        self._homes = homes or (None,) * (instances + 1)
        self._stack = AsyncExitStack()

    # -- life

    async def __aenter__(self) -> Self:
        async with self._stack:
            await self._start_nats()
            self.gateway = await self.start_gateway(self._homes[0])
            self.http = await self._stack.enter_async_context(
                http_client(base_url=self.gateway.url, timeout=self.timeout_s + 10)
            )
            await asyncio.gather(*(self.start_instance(home) for home in self._homes[1 : self._count + 1]))
            await self.ready(self._count)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start_nats(self) -> None:
        if self._node_count == 1:
            self.nodes.append(await self._stack.enter_async_context(NatsServer(jetstream=False)))
            return
        ports = {free_port(0) for _ in range(self._node_count)}
        while len(ports) < self._node_count:
            ports.add(free_port(0))
        routes: list[str] = []
        for index, port in enumerate(ports):
            server = NatsServer(
                name=f"n{index}",
                jetstream=False,
                monitoring=True,
                # Each connects to those before it: of two that connect to each other at once nats-server may lose a
                # route for good (2.15; nats-server pull request 8527).
                cluster=Cluster("chaos", port, tuple(routes)),
                extra_config='lame_duck_grace_period: "1s"\nlame_duck_duration: "30s"',
            )
            self.nodes.append(await self._stack.enter_async_context(server))
            routes.append(f"nats://127.0.0.1:{port}")
        await self.meshed()

    async def start_gateway(self, home: int | None = None) -> Gateway:
        """One gateway more; returns when it is ready."""
        env = {"MESH_TIMEOUT_MS": str(int(self.timeout_s * 1000)), **self._env(home), **self._gateway_env}
        process = await self._run("gateway", "--port", "0", "--ops-port", "0", env=env)
        found = re.search(r"listens on [^:]+:(\d+)", await process.line("listens on"))
        assert found is not None
        gateway = Gateway(process, int(found[1]))
        async with http_client(base_url=gateway.url) as http:
            await until(lambda: answers(http, "/readyz", 200), 15)
        return gateway

    async def start_instance(self, home: int | None = None, **env: str) -> Instance:
        """One instance more; returns when it has announced itself."""
        env = {**self._env(home), **self._service_env, RECORD: str(self.record), **env}
        process = await self._run("run", "tests.chaos.app:service", env=env)
        found = re.search(r"runs as ([A-Za-z0-9_-]+)", await process.line("runs as"))
        assert found is not None
        instance = Instance(process, found[1])
        self.instances.append(instance)
        return instance

    def _env(self, home: int | None) -> dict[str, str]:
        if self._nats_url is not None:
            url = self._nats_url(self)
        else:
            url = ",".join(node.url for node in self.nodes) if home is None else self.nodes[home].url
        return {**QUIET, "NATS_URL": url}

    async def _run(self, *arguments: str, env: Mapping[str, str]) -> Process:
        environment = {name: value for name, value in env.items() if value}
        return await self._stack.enter_async_context(run(*arguments, cwd=self._folder, env=environment))

    # -- facts

    @property
    def nats(self) -> NatsServer:
        return self.nodes[0]

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def record(self) -> Path:
        return self._folder / "executions"

    def executions(self) -> Executions:
        return Executions.read(self.record)

    def load(self, rate: float, *, request: Callable[[str], tuple[str, str]] = get_work, url: str = "") -> Load:
        return Load(url or self.url, rate, timeout_s=self.timeout_s, request=request)

    async def known(self, service: str = "work") -> list[dict[str, Any]]:
        """The instances of a service as the gateway knows them."""
        response = await self.http.get(f"/v1/metadata/{service}")
        if response.status_code == 404:
            return []
        found: list[dict[str, Any]] = response.json()["services"][service]
        return found

    async def ready(self, count: int, timeout: float = 20.0) -> float:
        """Return when exactly ``count`` instances of the service are ready; gives the seconds it took."""
        began = time.monotonic()
        known: list[dict[str, Any]] = []

        async def counted() -> bool:
            known[:] = await self.known()
            return len(known) == sum(i["state"] == "ready" and not i["suspect"] for i in known) == count

        try:
            await until(counted, timeout)
        except TimeoutError:
            said = [line for instance in self.instances for line in instance.process.lines]
            raise TimeoutError(f"not {count} ready instances after {timeout:g} s, but {known}; {said}") from None
        return time.monotonic() - began

    # -- the cluster

    async def meshed(self, timeout: float = 20.0) -> None:
        """Return when every running node has all its routes to every other one: one for each part of the accounts."""
        running = [node for node in self.nodes if node.running]

        async def complete() -> bool:
            for node in running:
                names = [route["remote_name"] for route in (await monitor(node, "routez"))["routes"]]
                if len(names) < ROUTES * (len(running) - 1):
                    return False
            return True

        await until(complete, timeout)

    async def home_of(self, name: str) -> NatsServer:
        """The node to which the connection whose name begins so is open: ``gateway``, ``work.<id>``."""
        for node in self.nodes:
            if node.running:
                connections = (await monitor(node, "connz"))["connections"]
                if any(connection.get("name", "").startswith(name) for connection in connections):
                    return node
        raise AssertionError(f"{name} is connected to no node")


def retire(node: NatsServer) -> None:
    """Lame duck mode, as ``nats-server --signal ldm=PID`` asks for it."""
    os.kill(node.pid, signal.SIGUSR2)


async def monitor(node: NatsServer, page: str) -> dict[str, Any]:
    """One of the server's monitoring pages."""
    async with http_client(timeout=5) as http:
        document: dict[str, Any] = (await http.get(f"{node.monitor_url}/{page}")).json()
        return document


async def answers(http: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await http.get(path)).status_code == status


async def until(condition: Callable[[], Any], timeout: float) -> float:
    """Ask the awaitable ``condition()`` until it holds; gives the seconds it took. TimeoutError after ``timeout``."""
    began = time.monotonic()
    async with asyncio.timeout(timeout):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    return time.monotonic() - began


def resident_kib(pid: int) -> int:
    """A process's resident memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def descriptors(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
