"""`mesh bridge`: the sidecar of a service that only speaks HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from mesh.cli.exit import fail
from mesh.cli.load_settings import load
from mesh.cli.serve import SLASHES_HELP, TIMEOUT_HELP
from mesh.errors import DeclarationError
from mesh.settings import BusSettings, ServiceSettings
from mesh.version import install


@click.command("bridge", context_settings={"allow_interspersed_args": False})
@click.option("--name", required=True, help="The service's name.")
@click.option("--to", required=True, metavar="URL", help="Where it listens, such as http://127.0.0.1:5000.")
@click.option("--version", default="0.0.1", show_default=True, help="Its version.")
@click.option("--description", default="", help="What it does.")
@click.option("--route", "routes", multiple=True, metavar="'GET /PATH'", help="A route; WS for WebSockets; repeatable.")
@click.option("--openapi", default="", metavar="FILE_OR_PATH", help="Its OpenAPI document  [default: /openapi.json]")
@click.option("--prefix", default="", help="Everything at and below this path.")
@click.option("--health", default="", metavar="PATH", help="Its page that says whether it is ready.")
@click.option("--timeout", "timeouts", multiple=True, metavar="[PATTERN=]SECONDS", help=TIMEOUT_HELP)
@click.option("--encoded-slashes", is_flag=True, help=SLASHES_HELP)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
def command(command: tuple[str, ...], timeouts: tuple[str, ...], **options: Any) -> None:
    """Stand in the mesh for a service that only speaks HTTP, in any language, unchanged.

    Its routes come from --route, from its OpenAPI document, or are everything below --prefix. It is asked here
    whether it is well, and the mesh hears that as heartbeats. COMMAND starts it, and starts it again when it dies.

    \b
    Examples:
      mesh bridge --name joke --to http://127.0.0.1:5000 --route 'GET /joke'
      mesh bridge --name joke --to http://127.0.0.1:5000 --prefix /joke -- ./joke
      mesh bridge --name shop --to http://127.0.0.1:8000 --openapi /openapi.json

    Exit codes: 0 after draining, 1 when the other side cannot be reached or started, 2 for wrong settings.
    """
    from mesh.logs import configure
    from mesh.service.run import loop_factory

    bus, settings = load(BusSettings, ServiceSettings)
    configure(settings.log_level, settings.log_format)
    try:
        from mesh.bridge import Bridge
    except ImportError:
        fail(f"mesh bridge needs the package aiohttp: {install('bridge')}", 1)
    from mesh.adapters.timeouts import parse_timeouts

    try:
        bridge = Bridge(options.pop("to"), command=command, timeout=parse_timeouts(timeouts), **options)
    except DeclarationError as error:
        fail(str(error), 2)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            runner.run(_run(bridge, bus, settings))
        except (DeclarationError, OSError) as error:
            fail(str(error), 1)


async def _run(bridge: Any, bus: BusSettings, settings: ServiceSettings) -> None:
    from mesh.service.run import serve

    service = await bridge.open()
    try:
        await serve(service, bus, settings)
    finally:
        await bridge.aclose()
