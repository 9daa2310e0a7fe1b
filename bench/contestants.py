"""Who is measured: the same application behind the gateway that it usually has, one process of each kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from pathlib import Path
from typing import ClassVar

from bench import load
from bench.processes import ROOT, a_port, children, listening, process
from mesh.embedded import NatsServer

UVICORN = (sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--loop", "uvloop")
NODE_PACKAGES = {"node": "22", "moleculer": "0.15", "moleculer-web": "0.11", "nats": "2"}


class Contestant(ABC):
    """``url`` and ``pids`` (by role) are there after `start`."""

    name: ClassVar[str]
    leaves_out: ClassVar[frozenset[str]] = frozenset()
    """Work that it has no means for."""
    open_loop: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.pids: dict[str, int] = {}

    def missing(self) -> str:
        """What is not installed, or an empty string."""
        return ""

    @abstractmethod
    async def start(self, stack: AsyncExitStack) -> None:
        """Start everything; it ends with the stack."""

    async def load(self, work: load.Work, connections: int, seconds: int, rate: float = 0) -> load.Result:
        """Load it for that long."""
        return await load.run(self.url, work, connections, seconds, self.folder, rate)

    async def run(self, stack: AsyncExitStack, role: str, *command: str, port: int = 0, **env: str) -> int:
        """Start one process; returns when its port listens."""
        log = self.folder / f"{self.name.replace(' ', '-').replace('>', '')}-{role}.log"
        pid = await stack.enter_async_context(process(*command, log=log, env=env))
        self.pids[role] = pid
        if port:
            await listening(port, log)
            self.url = f"http://127.0.0.1:{port}"
        return pid

    async def nats(self, stack: AsyncExitStack) -> str:
        server = await stack.enter_async_context(NatsServer(jetstream=False))
        self.pids["nats-server"] = server.pid
        return server.url

    async def uvicorn(self, stack: AsyncExitStack, role: str, app: str, **env: str) -> None:
        port = a_port()
        await self.run(stack, role, *UVICORN, "--port", str(port), app, port=port, **env)


class RawAsgi(Contestant):
    name = "uvicorn raw ASGI, no bus"

    async def start(self, stack: AsyncExitStack) -> None:
        await self.uvicorn(stack, "service", "bench.apps.raw_asgi:app")


class OnMesh(Contestant):
    """Everything on, as it is by default: access log, metrics, request ids, trace, health."""

    name = "mesh"
    workers: ClassVar[int] = 1

    async def start(self, stack: AsyncExitStack) -> None:
        url, port = await self.nats(stack), a_port()
        env = {"NATS_URL": url, "MESH_WINDOW_MS": "50", "MESH_WORKERS": str(self.workers)}
        parent = await self.run(
            *(stack, "gateway", sys.executable, "-m", "mesh", "gateway", "--port", str(port), "--ops-port", "0"),
            port=port,
            **env,
        )
        # The parent only owns the sockets; the workers do the work.
        for number, pid in enumerate(await children(parent, self.workers)):
            self.pids["gateway" if number == 0 else f"gateway {number + 1}"] = pid
        await self.run(stack, "service", sys.executable, "-m", "mesh", "run", "bench.apps.on_mesh:service", **env)


class OnMeshTwice(OnMesh):
    """Two gateway processes behind one address, each with as many connections as the one of `OnMesh`."""

    name = "mesh, two workers"
    workers = 2
    open_loop = False
    leaves_out = frozenset(load.works()) - {"get"}

    async def load(self, work: load.Work, connections: int, seconds: int, rate: float = 0) -> load.Result:
        return await super().load(work, self.workers * connections, seconds, rate)


class DirectNats(Contestant):
    """The service without a gateway, called by a client of NATS: what HTTP adds is the difference."""

    name = "the service, called over NATS"
    open_loop = False
    leaves_out = frozenset({"events", "down-100k", "down-900k", "up-100k", "up-900k"})

    async def start(self, stack: AsyncExitStack) -> None:
        self.url = await self.nats(stack)
        await self.run(
            stack, "service", sys.executable, "-m", "mesh", "run", "bench.apps.on_mesh:service", NATS_URL=self.url
        )

    async def load(self, work: load.Work, connections: int, seconds: int, rate: float = 0) -> load.Result:
        seen = await load.output(
            *(sys.executable, "-m", "bench.apps.nats_caller", work.name, str(connections), str(seconds)),
            NATS_URL=self.url,
        )
        return load.Result(**seen)


class Nginx(Contestant):
    name = "nginx -> FastAPI"

    def missing(self) -> str:
        return "" if shutil.which("nginx") else "nginx (Debian package nginx-light)"

    async def start(self, stack: AsyncExitStack) -> None:
        await self.uvicorn(stack, "service", "bench.apps.on_fastapi:app")
        port = a_port()
        config = self.folder / "nginx.conf"
        config.write_text(
            f"""
            worker_processes 1; daemon off; pid {self.folder}/nginx.pid; error_log stderr warn;
            events {{ worker_connections 4096; }}
            http {{
                access_log {self.folder}/nginx-access.log combined buffer=64k flush=1s;
                client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u; scgi_temp_path {self.folder}/s;
                client_max_body_size 16m; client_body_buffer_size 1m; proxy_buffers 32 32k; keepalive_requests 1000000;
                upstream app {{ server {self.url.removeprefix("http://")}; keepalive 256; keepalive_requests 1000000; }}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
                        proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id;
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    }}
                }}
            }}"""
        )
        parent = await self.run(stack, "gateway", "nginx", "-p", str(self.folder), "-c", str(config), port=port)
        (self.pids["gateway"],) = await children(parent, 1)


class AiohttpGateway(Contestant):
    name = "FastAPI + aiohttp -> FastAPI"

    def missing(self) -> str:
        return _module("aiohttp")

    async def start(self, stack: AsyncExitStack) -> None:
        await self.uvicorn(stack, "service", "bench.apps.on_fastapi:app")
        await self.uvicorn(stack, "gateway", "bench.apps.aiohttp_gateway:app", UPSTREAM=self.url)


class NatsMicro(Contestant):
    name = "FastAPI -> nats.micro"
    leaves_out = frozenset({"events"})

    async def start(self, stack: AsyncExitStack) -> None:
        url = await self.nats(stack)
        await self.run(stack, "service", sys.executable, "-m", "bench.apps.nats_micro", NATS_URL=url)
        await self.uvicorn(stack, "gateway", "bench.apps.nats_micro:app", NATS_URL=url)


class Moleculer(Contestant):
    name = "Moleculer"

    @property
    def packages(self) -> Path:
        return ROOT / "build" / "bench-node"

    def missing(self) -> str:
        if (self.packages / "node_modules" / "moleculer-web").exists():
            return ""
        if shutil.which("npm") is None:
            return "npm"
        self.packages.mkdir(parents=True, exist_ok=True)
        (self.packages / "package.json").write_text(json.dumps({"private": True, "dependencies": NODE_PACKAGES}))
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=self.packages,
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 else f"npm packages: {done.stderr[-200:]}"

    async def start(self, stack: AsyncExitStack) -> None:
        url, port = await self.nats(stack), a_port()
        node = str(self.packages / "node_modules" / "node" / "bin" / "node")
        env = {"NATS_URL": url, "NODE_PATH": str(self.packages / "node_modules"), "NODE_ENV": "production"}
        await self.run(stack, "service", node, str(ROOT / "bench/apps/moleculer.js"), "service", **env)
        await self.run(
            stack, "gateway", node, str(ROOT / "bench/apps/moleculer.js"), "gateway", str(port), port=port, **env
        )


def _module(name: str) -> str:
    from importlib.util import find_spec

    return "" if find_spec(name) else name


ALL: tuple[type[Contestant], ...] = (
    RawAsgi,
    DirectNats,
    OnMesh,
    OnMeshTwice,
    Moleculer,
    Nginx,
    NatsMicro,
    AiohttpGateway,
)
