"""`mesh up`: a whole mesh on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import replace

import click

from mesh.bus import Bus
from mesh.cli.main import NO_NATS, fail
from mesh.cli.settings import load
from mesh.cli.terminal import Terminal
from mesh.config import BusSettings, GatewaySettings
from mesh.embedded import NatsServer, ServerError, Supervisor, free_port
from mesh.errors import BusUnavailable
from mesh.watcher import Watcher

SERVICES = (("hello-1", "services.hello"), ("hello-2", "services.hello"), ("jokes", "services.jokes"))
EXPECTED = {"gateway": 1, "hello": 2, "jokes": 1}
START_S = 15.0
"""Seconds after which a mesh that is not up is given up; a loaded machine needs a few, an idle one less than two."""


@click.command("up")
@click.option("--port", type=int, help="Port of the gateway; another one is taken when it is busy  [default: 8080]")
@click.option("--ops-port", type=int, help="Port of the operator's plane, likewise  [default: 8081]")
@click.option("--quiet", is_flag=True, help="Do not show what the processes log.")
def command(port: int | None, ops_port: int | None, quiet: bool) -> None:
    """Run NATS, the gateway and the example services until Ctrl-C, which stops them in order.

    With NATS_URL set, that NATS is used and none is started.

    \b
    Examples:
      mesh up
      mesh up --port 9000 --quiet
      NATS_URL=nats://127.0.0.1:4222 mesh up
    """
    bus, gateway = load(BusSettings, GatewaySettings, flags={"port": port, "ops_port": ops_port})
    try:
        code = asyncio.run(_up(bus, gateway, quiet))
    except BusUnavailable as error:
        fail(error.detail, NO_NATS)
    except ServerError as error:
        fail(str(error), 1)
    sys.exit(code)


async def _up(bus: BusSettings, gateway: GatewaySettings, quiet: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    terminal = Terminal()
    notes: list[str] = []
    async with AsyncExitStack() as stack:
        if os.environ.get("NATS_URL"):
            nats_note = "given by NATS_URL"
        else:
            nats_port = free_port(4222)
            server = await stack.enter_async_context(NatsServer(port=nats_port, jetstream=True))
            bus = replace(bus, servers=(server.url,))
            nats_note = "embedded, JetStream in a temporary folder"
            if nats_port != 4222:
                notes.append(f"port 4222 is busy: NATS listens on {server.port}")
        ports = {}
        for name, wanted in (("gateway", gateway.port), ("operator's plane", gateway.ops_port)):
            ports[name] = free_port(wanted)
            if ports[name] != wanted:
                notes.append(f"port {wanted} is busy: the {name} listens on {ports[name]}")
        supervisor = await stack.enter_async_context(Supervisor(sys.stderr if not quiet else None))
        supervisor.on_exit(lambda name, code: _report(name, code, stop))
        mesh = [sys.executable, "-m", "mesh"]
        environment = {"NATS_URL": ",".join(bus.servers), "MESH_WINDOW_MS": "50", "PYTHONUNBUFFERED": "1"}
        address = ["--port", str(ports["gateway"]), "--ops-port", str(ports["operator's plane"])]
        await supervisor.start("gateway", [*mesh, "gateway", *address], env=environment)
        for name, module in SERVICES:
            await supervisor.start(name, [*mesh, "run", f"{module}:service"], env=environment)
        client = await stack.enter_async_context(Bus(bus))
        if not await _all_ready(client, stop):
            return 1 if not stop.is_set() else 0
        url = f"http://{gateway.host}:{ports['gateway']}"
        _print(terminal, url, f"http://127.0.0.1:{ports[chr(111) + 'perator' + chr(39) + 's plane']}", bus, nats_note, notes)
        await stop.wait()
        click.echo("stopping", err=True)
    return 0
