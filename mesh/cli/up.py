"""`mesh up`: a whole mesh on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from mesh.bus import Bus
from mesh.bus.connection_errors import NO_NATS as START_ONE
from mesh.cli.bus_command import connecting, without_nats
from mesh.cli.bus_command import quiet as quiet_library
from mesh.cli.examples import examples
from mesh.cli.exit import NO_NATS, fail
from mesh.cli.load_settings import load
from mesh.cli.terminal import Terminal
from mesh.embedded import NatsServer, ServerError, Supervisor, ended, free_port
from mesh.errors import BusUnavailable
from mesh.settings import BusSettings, GatewaySettings, foreign_variables
from mesh.settings_reader import redact
from mesh.watcher import Watcher

SERVICES = (
    ("hello-1", "services.hello"),
    ("hello-2", "services.hello"),
    ("jokes", "services.jokes"),
    ("chat", "services.chat"),
)
EXPECTED = {"gateway": 1, "hello": 2, "jokes": 1, "chat": 1}
START_S: Final = 15.0
"""Seconds that the mesh has to be up. A loaded machine needs a few, an idle one less than two."""


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
    for name in foreign_variables(os.environ):  # warned of here; not by each of the processes again
        del os.environ[name]
    quiet_library()  # the processes log for themselves
    try:
        code = asyncio.run(_up(bus, gateway, quiet))
    except BusUnavailable as error:
        told = without_nats(error).replace(START_ONE, "unset NATS_URL to have one started")
        fail(told, NO_NATS)
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
                notes.append(
                    f"port 4222 is busy: NATS listens on {server.port}; before other commands, in every terminal:"
                    f" export NATS_URL={server.url}"
                )
        client = await stack.enter_async_context(
            connecting(bus, Bus)
        )  # without NATS none of what follows need be started
        ports = [free_port(gateway.port, gateway.host), free_port(gateway.ops_port, gateway.ops_host)]
        for what, wanted, port in zip(
            ("gateway", "operator's plane"), (gateway.port, gateway.ops_port), ports, strict=True
        ):
            if port != wanted:
                notes.append(f"port {wanted} is busy: the {what} listens on {port}")
        supervisor = await stack.enter_async_context(Supervisor(sys.stderr if not quiet else None))
        supervisor.on_exit(lambda name, code: _report(name, code, stop))
        mesh = [sys.executable, "-m", "mesh"]
        environment = {"NATS_URL": ",".join(bus.servers), "MESH_WINDOW_MS": "50"}
        environment |= {"MESH_LINGER_MS": "100", "MESH_GATEWAY_LINGER_MS": "100", "MESH_FOREIGN_S": "1"}
        if terminal.stream.isatty() and sys.stderr.isatty():
            environment["MESH_LOG_FORMAT"] = os.environ.get("MESH_LOG_FORMAT", "text")
        address = ["--port", str(ports[0]), "--ops-port", str(ports[1])]
        await supervisor.start("gateway", [*mesh, "gateway", *address], env=environment)
        for name, module in SERVICES:
            await supervisor.start(name, [*mesh, "run", f"{module}:service"], env=environment)
        if not await _all_ready(client, stop):
            return 1 if not stop.is_set() else 0
        more = []
        for example in examples(Path(__file__).parents[2]):  # after the rest is up, which they would slow down
            if example.missing:
                notes.append(f"left out: {example.name} ({example.what}): needs {example.missing}")
            else:
                await supervisor.start(example.name, example.command, env=environment)
                more.append(f"{example.name} ({example.what})")
        _print(terminal, gateway.host, ports, bus.servers[0], nats_note, more, notes)
        await stop.wait()
        click.echo("stopping", err=True)
    return 0


async def _all_ready(client: Bus, stop: asyncio.Event) -> bool:
    """True when all services have announced that they are ready, False after `START_S` or a stop."""
    watcher = Watcher(client, window_ms=50)
    changed = asyncio.Event()
    watcher.on_change(lambda changes: changed.set())
    await watcher.start()
    try:
        async with asyncio.timeout(START_S):
            while not stop.is_set():
                ready = Counter(i.service for i in watcher.registry.instances() if i.state == "ready")
                if all(ready[name] >= count for name, count in EXPECTED.items()):
                    return True
                changed.clear()
                waits = [asyncio.ensure_future(event.wait()) for event in (changed, stop)]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
    except TimeoutError:
        missing = [name for name in EXPECTED if not watcher.registry.instances(name)]
        click.echo(f"error: not up after {START_S:g} s; missing: {', '.join(missing) or 'readiness'}", err=True)
    finally:
        await watcher.aclose()
    return False


def _report(name: str, code: int, stop: asyncio.Event) -> None:
    """Report a process that ended by itself. Without the gateway, the mesh ends."""
    if not stop.is_set():
        click.echo(f"{name} {ended(code)}", err=True)
        if name == "gateway":
            stop.set()


def _print(
    terminal: Terminal,
    host: str,
    ports: Sequence[int],
    nats_url: str,
    nats_note: str,
    more: Sequence[str],
    notes: Sequence[str],
) -> None:
    url = f"http://{host}:{ports[0]}"
    line, paint = terminal.line, terminal.paint
    line(paint("the mesh is up", "bold"))
    line(f"  NATS              {redact(nats_url)} ({nats_note})")
    line(f"  gateway           {url}")
    line(f"  operator's plane  http://127.0.0.1:{ports[1]}  (API, /metrics)")
    line("  services          " + ", ".join(name for name, _ in SERVICES))
    line("  starting          " + ", ".join(more))
    for note in notes:
        line(paint(f"  note: {note}", "yellow"))
    line("try it (the first one again and again: two instances answer in turn)")
    line(f"  curl {url}/hello/world")
    line(f"  curl {url}/jokes/random")
    said = '{"stream": true, "messages": [{"role": "user", "content": "streams go over the bus"}]}'
    line(f"  curl -N {url}/v1/chat/completions -H 'content-type: application/json' -d '{said}'")
    line("watch it, in another terminal")
    line(f"  NATS_URL={redact(nats_url)} .venv/bin/mesh-tail")
    line("Ctrl-C stops everything")
