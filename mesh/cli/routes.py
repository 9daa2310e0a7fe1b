"""`mesh routes`: every HTTP route, who serves it, and what does not come true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.view import HELP, Target, View, as_list, execute, number, plain

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.routes import Entry

HEAD = ("METHOD", "PATH", "SERVICE", "VERSIONS", "INSTANCES", "FLAGS")


def gateway_view(bus: Bus) -> View:
    """A view whose routes are decided with the settings of a gateway that runs here."""
    from gateway.health import RESERVED
    from mesh.cli.settings import load
    from mesh.config import GatewaySettings

    (settings,) = load(GatewaySettings)
    return View(bus, owners=settings.owners, reserved=RESERVED)


@click.command("routes", context_settings=HELP)
@click.option("--service", metavar="NAME", help="Only routes of this service.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: routes, conflicts, rejected.")
def command(service: str | None, as_json: bool) -> None:
    """List HTTP routes, then the conflicts (two services claim one route) and the routes that cannot be one.

    Decided here as a gateway with the same settings decides.

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

    async with gateway_view(bus) as view:
        await view.synchronise()
        if service and not view.watcher.registry.instances(service):
            raise view.missing(Target(service))
        table = view.directory.table
        rows = [_row(view, entry) for entry in table.entries() if service in ("", entry.service)]
        conflicts = [plain(c) for c in table.conflicts if service in ("", c.winner, *c.losers)]
        rejected = [plain(r) for r in table.rejected if service in ("", r.service)]
    terminal = Terminal()
    if as_json:
        terminal.json({"routes": rows, "conflicts": conflicts, "rejected": rejected})
        return 0
    cells = [
        (r["method"], r["path"], r["service"], as_list(r["versions"]), str(r["instances"]), _flags(r)) for r in rows
    ]
    terminal.table(HEAD, cells)
    for c in conflicts:
        why = {"name": "the smaller name", "owner": "owner of the prefix", "reserved": "the gateway's own path"}
        text = f"conflict: {c['method']} {c['path']} is {c['winner']}'s ({why[c['why']]}), claimed by "
        terminal.line(terminal.paint(clean(text + ", ".join(c["losers"]) + " too"), "red"))
    for r in rejected:
        text = f"rejected: {r['method']} {r['path']} of {r['service']}: {r['why']}"
        terminal.line(terminal.paint(clean(text), "red"))
    return 0


def _row(view: View, entry: Entry) -> dict[str, Any]:
    revisions = entry.bindings.keys()
    instances = [i for i in view.watcher.registry.instances(entry.service) if i.revision in revisions]
    routes = [binding.route for binding in entry.bindings.values()]
    return {
        "method": entry.method,
        "path": entry.template,
        "service": entry.service,
        "versions": sorted({i.version for i in instances}),
        "instances": len(instances),
        "endpoints": sorted({binding.endpoint for binding in entry.bindings.values()}),
        "summary": next((r.summary for r in routes if r.summary), ""),
        "deprecated": any(r.deprecated for r in routes),
        "idempotent": any(r.idempotent for r in routes),
        "retry": all(r.retry for r in routes),
        "timeout_ms": min((r.timeout_ms for r in routes if r.timeout_ms), default=0),
        "try_timeout_ms": min((r.try_timeout_ms for r in routes if r.try_timeout_ms), default=0),
    }


def _flags(row: dict[str, Any]) -> str:
    flags = [name for name in ("deprecated", "idempotent") if row[name]] + (["no retry"] if not row["retry"] else [])
    flags += [
        f"{name} {number(row[key] / 1000, 's')}"
        for name, key in (("timeout", "timeout_ms"), ("try", "try_timeout_ms"))
        if row[key]
    ]
    return as_list(flags)
