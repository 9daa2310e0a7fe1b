"""`mesh gateway`: run the HTTP gateway."""

from __future__ import annotations

import asyncio
import signal
import sys

import click

from mesh.cli.main import fail
from mesh.cli.settings import load
from mesh.config import BusSettings, GatewaySettings, ServiceSettings


@click.command("gateway")
@click.option("--host", help="Address to listen on  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on, 0 for any  [default: 8080]")
@click.option("--ops-host", help="Address of the operator's plane  [default: 127.0.0.1]")
@click.option("--ops-port", type=int, help="Port of the operator's plane, 0 for any  [default: 8081]")
def command(host: str | None, port: int | None, ops_host: str | None, ops_port: int | None) -> None:
    """Serve HTTP: every route that a live service announces, until SIGTERM or Ctrl-C.

    \b
    Examples:
      mesh gateway
      mesh gateway --host 0.0.0.0 --port 80
      NATS_URL=nats://nats.internal:4222 mesh gateway

    Exit codes: 0 after draining, 1 when a port is taken, 2 for wrong settings.
    """
    from mesh.logs import configure
    from mesh.service.run import loop_factory

    flags = {"host": host, "port": port, "ops_host": ops_host, "ops_port": ops_port}
    bus, settings, logging_settings = load(BusSettings, GatewaySettings, ServiceSettings, flags=flags)
    configure(logging_settings.log_level, logging_settings.log_format)
    text = logging_settings.log_format == "text" or (logging_settings.log_format == "auto" and sys.stderr.isatty())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(_serve(bus, settings, text))
        except OSError as error:
            fail(f"{error.strerror or error}; choose another with --port or --ops-port", 1)


async def _serve(bus: BusSettings, settings: GatewaySettings, text: bool) -> None:
    from gateway.server import Gateway

    gateway = Gateway(bus, settings, text_log=text)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stop_requested.set)
    async with gateway:
        await gateway.stop_requested.wait()
