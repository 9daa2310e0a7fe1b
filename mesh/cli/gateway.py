"""`mesh gateway`: run the HTTP gateway."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mesh.cli.exit import fail
from mesh.cli.load_settings import load
from mesh.settings import DEFAULT_FILE, BusSettings, GatewaySettings, ServiceSettings, find_file, load_all


@click.command("gateway")
@click.option("--host", help="Address to listen on  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on, 0 for any  [default: 8080]")
@click.option("--ops-host", help="Address of the operator's plane  [default: 127.0.0.1]")
@click.option("--ops-port", type=int, help="Port of the operator's plane, 0 for any  [default: 8081]")
@click.option("--workers", type=int, help="Processes that serve clients  [default: 1]")
@click.option("--worker", hidden=True, help="Descriptors, with commas: a pipe, the operator's socket, public ones.")
@click.option("--succeeds", is_flag=True, hidden=True, help="Another worker accepts until this one does.")
def command(worker: str | None, succeeds: bool, **flags: Any) -> None:
    """Serve HTTP: every route that a live service announces, until SIGTERM or Ctrl-C.

    With --workers, as many processes share the address; each knows the mesh for itself, and its limits are its own. The
    operator's planes are at --ops-port and the ports after it.

    SIGHUP, or a mesh.toml that changes or appears, starts a new process with the new configuration behind the same
    sockets; the old one finishes what it has. No connection is refused or cut for it.

    \b
    Examples:
      mesh gateway
      mesh gateway --host 0.0.0.0 --port 80
      mesh gateway --workers 4
      NATS_URL=nats://nats.internal:4222 mesh gateway
      kill -HUP PID                      take over a new configuration or version

    Exit codes: 0 after draining, 1 when a port is taken, 2 for wrong settings.
    """
    from mesh.logs import configure
    from mesh.service.run import loop_factory

    bus, settings, logging_settings = load(BusSettings, GatewaySettings, ServiceSettings, flags=flags)
    configure(logging_settings.log_level, logging_settings.log_format)
    if worker:
        text = logging_settings.log_format == "text" or (logging_settings.log_format == "auto" and sys.stderr.isatty())
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            served = runner.run(_serve(bus, settings, text, [int(fd) for fd in worker.split(",")], succeeds))
        sys.exit(0 if served else 1)
    try:
        code = asyncio.run(_supervise(flags))
    except OSError as error:
        fail(f"{error.strerror or error}; choose another with --port or --ops-port", 1)
    sys.exit(code)


async def _supervise(flags: dict[str, Any]) -> int:
    from gateway.listening_sockets import listen
    from mesh.cli.workers import Layout, Workers

    options = [part for name, value in flags.items() if value is not None for part in (_option(name), str(value))]

    def command(descriptors: Sequence[int], succeeds: bool) -> list[str]:
        hidden = ["--worker", ",".join(map(str, descriptors)), *(["--succeeds"] if succeeds else [])]
        return [sys.executable, "-m", "mesh", "gateway", *options, *hidden]

    def layout() -> Layout:
        _, found = load_all(BusSettings, GatewaySettings, environ=os.environ, file=find_file(os.environ), flags=flags)
        return Layout(found.workers, (found.host, found.port), (found.ops_host, found.ops_port))

    return await Workers(command, layout, listen, find_file(os.environ) or Path(DEFAULT_FILE)).run()


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


async def _serve(
    bus: BusSettings, settings: GatewaySettings, text: bool, descriptors: Sequence[int], succeeds: bool
) -> bool:
    """A worker: serve the parent's sockets until SIGTERM, or until SIGUSR1 says that another worker serves them.

    Returns False if it stopped because it could not go on.
    """
    from gateway.listening_sockets import inherited
    from gateway.server import Gateway
    from mesh.cli.workers import REPLACED
    from mesh.service.run import settle

    ready, ops, *public = descriptors
    sockets = [*(inherited(fd) for fd in public), inherited(ops)]
    gateway = Gateway(bus, settings, sockets=sockets, text_log=text)
    for handler in logging.getLogger().handlers:
        handler.addFilter(gateway.access.comes_first)
    hurry, replaced = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        (hurry if gateway.stop_requested.is_set() else gateway.stop_requested).set()

    def another_serves() -> None:
        replaced.set()
        gateway.stop_requested.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(REPLACED, another_serves)
    await gateway.start()
    try:
        if succeeds:  # the worker before knows all instances: this one accepts when it does too
            await _either(gateway.watcher.synchronised, gateway.stop_requested)
        if not gateway.stop_requested.is_set():
            settle()
            await gateway.listen()
            os.write(ready, b"1")
            os.close(ready)
            await gateway.stop_requested.wait()
    finally:
        await gateway.drain(hurry, replaced=replaced.is_set())
    return not gateway.failed


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
