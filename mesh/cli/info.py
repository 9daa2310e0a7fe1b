"""`mesh info`: everything that a service announces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.bus_command import HELP, execute
from mesh.cli.completion_names import services
from mesh.cli.foreign_services import announced_by
from mesh.cli.formatting import age, builtins, span, state_of
from mesh.cli.mesh_observer import InstanceSelector, parse_selector
from mesh.cli.terminal import ColumnFit

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.cli.terminal import Terminal
    from mesh.foreign.survey import MicroInstance
    from mesh.registry import Instance

# What gives way on a narrow terminal, in this order.
ENDPOINT_FIT = (
    ColumnFit("METADATA", 16),
    ColumnFit("QUEUE"),
    ColumnFit("METADATA"),
    ColumnFit("SUBJECT", 24),
    ColumnFit("  ENDPOINT", 16),
)
ROUTE_FIT = (ColumnFit("SUMMARY", 16), ColumnFit("ENDPOINT", 12), ColumnFit("SUMMARY"), ColumnFit("PATH", 24))


@click.command("info", context_settings=HELP)
@click.argument("selector", metavar="SERVICE[.INSTANCE]", shell_complete=services)
@click.option("--json", "as_json", is_flag=True, help="One JSON array, an object for each instance.")
def command(selector: str, as_json: bool) -> None:
    """Show what the instances of a service announce: description, metadata, endpoints and routes.

    Works for foreign NATS micro services too. INSTANCE may be shortened.

    \b
    Examples:
      mesh info users
      mesh info users.7K2
      mesh info users --json | jq '.[0].endpoints[].subject'

    Exit codes: 0, 1 when the name is unknown, 2 for wrong usage, 75 without NATS.
    """
    wanted = parse_selector(selector)
    execute(lambda bus: _info(bus, wanted, as_json))


async def _info(bus: Bus, selector: InstanceSelector, as_json: bool) -> int:
    import asyncio

    from mesh.cli.mesh_observer import MeshObserver
    from mesh.cli.terminal import Terminal
    from mesh.foreign.survey import survey

    async with MeshObserver(bus) as observer:
        _, micros = await asyncio.gather(observer.synchronise(), survey(bus, "INFO"))
        documents = [_announced(i) for i in observer.instances(selector)]
        foreign = observer.foreign(micros)
        wanted = [m for m in foreign if selector.selects(m.name, m.id)]
        documents += [_micro(m, bus.subjects.prefix) for m in wanted]
        if not documents:
            raise observer.missing(selector, (m.name for m in foreign))
    terminal = Terminal()
    if as_json:
        terminal.json(documents)
        return 0
    for place, document in enumerate(documents):
        if place:
            terminal.line()
        _print(terminal, document)
    return 0


def _announced(instance: Instance) -> dict[str, Any]:
    return {
        "service": instance.service,
        "instance": instance.id,
        "version": instance.version,
        "kind": "mesh",
        "state": state_of(instance),
        "description": instance.description,
        "metadata": instance.metadata,
        "started": instance.started,
        "heartbeat_ms": instance.heartbeat_ms,
        "revision": instance.revision,
        "endpoints": builtins(instance.content.endpoints),
        "routes": builtins(instance.routes),
    }


def _micro(micro: MicroInstance, prefix: str) -> dict[str, Any]:
    return {
        "service": micro.name,
        "instance": micro.id,
        "version": micro.version,
        "kind": "nats micro",
        "state": micro.kind(prefix),
        "description": micro.description,
        "metadata": micro.metadata,
        "endpoints": [
            {"name": e.name, "subject": e.subject, "queue_group": e.queue_group, "metadata": e.metadata}
            for e in micro.endpoints
        ],
        "routes": _routes(micro, prefix),
    }


def _routes(micro: MicroInstance, prefix: str) -> list[dict[str, Any]]:
    """The routes that a gateway serves of it, with the names of their endpoints; none of a service of another mesh."""
    announced = announced_by(micro, prefix)
    if announced is None:
        return []
    names = {e.subject: e.name for e in announced.endpoints}
    return [{**builtins(route), "endpoint": names.get(route.endpoint, route.endpoint)} for route in announced.routes]


def _print(terminal: Terminal, document: dict[str, Any]) -> None:
    from mesh.cli.terminal import clean

    terminal.line(terminal.paint(clean(f"{document['service']}.{document['instance']}"), "bold"))
    facts = [("version", document["version"]), ("state", document["state"])]
    if document["description"]:
        facts.append(("description", document["description"]))
    if document["kind"] == "mesh":
        facts.append(("started", f"{document['started']} ({span(age(document['started']))} ago)"))
        facts.append(("heartbeat", f"every {document['heartbeat_ms']} ms"))
        facts.append(("revision", document["revision"]))
    facts += [("metadata", f"{key} = {value}") for key, value in sorted(document["metadata"].items())]
    for name, value in facts:
        terminal.line(f"  {name:<12} {clean(value)}")
    if document["endpoints"]:
        terminal.table(
            ("  ENDPOINT", "SUBJECT", "QUEUE", "METADATA"),
            [
                (f"  {e['name']}", e["subject"], e["queue_group"] or "-", _pairs(e.get("metadata")))
                for e in document["endpoints"]
            ],
            (
                ColumnFit("METADATA", 16),
                ColumnFit("QUEUE"),
                ColumnFit("METADATA"),
                ColumnFit("SUBJECT", 24),
                ColumnFit("  ENDPOINT", 16),
            ),
        )
    if document["routes"]:
        terminal.table(
            ("  METHOD", "PATH", "ENDPOINT", "SUMMARY"),
            [(f"  {r['method']}", r["path"], r["endpoint"], r.get("summary", "")) for r in document["routes"]],
            ROUTE_FIT,
        )


def _pairs(metadata: dict[str, str] | None) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted((metadata or {}).items()))
