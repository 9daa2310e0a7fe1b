"""`mesh routes`: every HTTP route, who serves it, and what does not come true."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import click

from mesh.cli.bus_command import HELP, execute
from mesh.cli.completion_names import services
from mesh.cli.formatting import as_list, builtins, number
from mesh.cli.mesh_observer import InstanceSelector, MeshObserver
from mesh.cli.terminal import ColumnFit
from mesh.conflict_texts import sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.bus import Bus
    from mesh.routes import ServedRoute

# What gives way on a narrow terminal, in this order.
FIT = (
    ColumnFit("FLAGS", 12),
    ColumnFit("SERVICE", 12),
    ColumnFit("VERSIONS", 8),
    ColumnFit("INSTANCES"),
    ColumnFit("FLAGS"),
    ColumnFit("VERSIONS"),
    ColumnFit("PATH", 24),
)
HEAD = ("METHOD", "PATH", "SERVICE", "VERSIONS", "INSTANCES", "FLAGS")


class GatewayObserver(MeshObserver):
    """What a gateway with the settings of this process serves, including the routes of foreign services."""

    asks_foreign = True
    left_out: Sequence[tuple[str, str]] = ()
    """What such a gateway does not serve of foreign services: the service, and why."""

    async def synchronise(self) -> Self:
        from mesh.foreign import survey

        if self.asks_foreign:
            _, micros = await asyncio.gather(super().synchronise(), survey(self.bus, "INFO"))
            self.left_out = self.adopt(micros)
        else:
            await super().synchronise()
        return self


def observe_gateway(bus: Bus) -> GatewayObserver:
    """What a gateway would serve that runs here with the same settings."""
    from gateway.health import RESERVED
    from mesh.cli.load_settings import load
    from mesh.settings import GatewaySettings

    (settings,) = load(GatewaySettings)
    observer = GatewayObserver(bus, owners=settings.owners, reserved=RESERVED)
    observer.asks_foreign = bool(settings.foreign_s)
    return observer


@click.command("routes", context_settings=HELP)
@click.option("--service", metavar="NAME", shell_complete=services, help="Only routes of this service.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: routes, conflicts, rejected.")
def command(service: str | None, as_json: bool) -> None:
    """List HTTP routes, then the conflicts (two services claim one route) and the routes that cannot be one.

    Decided here as a gateway with the same settings decides, those of foreign NATS micro services included.

    \b
    Examples:
      mesh routes
      mesh routes --service users
      mesh routes --json | jq '.conflicts'

    Exit codes: 0, 1 when the service is unknown, 2 for wrong usage, 75 without NATS.
    """
    execute(lambda bus: _routes(bus, service or "", as_json))


async def _routes(bus: Bus, service: str, as_json: bool) -> int:
    from mesh.cli.terminal import Terminal, clean

    async with observe_gateway(bus) as observer:
        await observer.synchronise()
        if service and not observer.watcher.registry.instances(service):
            raise observer.missing(InstanceSelector(service))
        table = observer.routes
        rows = [_row(observer, route) for route in table.routes() if service in ("", route.service)]
        conflicts = [c for c in table.conflicts if service in ("", c.winner, *c.losers)]
        rejected = [builtins(r) for r in table.rejected if service in ("", r.service)]
        rejected += [
            {"service": name, "method": "", "path": "", "why": why}
            for name, why in observer.left_out
            if service in ("", name)
        ]
        if not observer.instances():
            observer.say_nothing()
        elif not rows:
            hint = f"'mesh info {service}' shows what it has" if service else "'mesh ls' shows who is there"
            click.echo(clean(f"no HTTP route of {service or 'anybody'} is served; {hint}"), err=True)
    terminal = Terminal()
    if as_json:
        terminal.json({"routes": rows, "conflicts": [builtins(c) for c in conflicts], "rejected": rejected})
        return 0
    cells = [
        (r["method"], r["path"], r["service"], as_list(r["versions"]), str(r["instances"]), _flags(r)) for r in rows
    ]
    if cells:
        terminal.table(HEAD, cells, FIT)
    for conflict in conflicts:
        terminal.line(terminal.paint(clean(f"conflict: {sentence(conflict)}"), "red"))
    for r in rejected:
        what = f"{r['method']} {r['path']} of {r['service']}" if r["path"] else r["service"]
        text = f"rejected: {what}: {r['why']}"
        terminal.line(terminal.paint(clean(text), "red"))
    return 0


def _row(observer: MeshObserver, route: ServedRoute) -> dict[str, Any]:
    revisions, policy = route.revisions, route.policy
    instances = [i for i in observer.watcher.registry.instances(route.service) if i.revision in revisions]
    return {
        "method": route.method,
        "path": route.template,
        "service": route.service,
        "versions": sorted({i.version for i in instances}),
        "instances": len(instances),
        "endpoints": sorted({announced.endpoint for announced in revisions.values()}),
        "summary": next((r.announced.summary for r in revisions.values() if r.announced.summary), ""),
        "deprecated": policy.deprecated,
        "idempotent": policy.idempotent,
        "retry": policy.retry,
        "timeout_ms": policy.timeout_ms,
        "try_timeout_ms": policy.try_timeout_ms,
    }


def _flags(row: dict[str, Any]) -> str:
    flags = [name for name in ("deprecated", "idempotent") if row[name]] + (["no retry"] if not row["retry"] else [])
    flags += [
        f"{name} {number(row[key] / 1000, 's')}"
        for name, key in (("timeout", "timeout_ms"), ("try", "try_timeout_ms"))
        if row[key]
    ]
    return as_list(flags)
