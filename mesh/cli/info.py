"""`mesh info`: everything that a service announces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.completion_names import services
from mesh.cli.foreign_services import taken
from mesh.cli.mesh_view import HELP, Target, age, execute, plain, span, state_of, target_of
from mesh.cli.terminal import Fit

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.cli.terminal import Terminal
    from mesh.foreign.survey import Micro
    from mesh.registry import Instance


@click.command("info", context_settings=HELP)
@click.argument("target", metavar="SERVICE[.INSTANCE]", shell_complete=services)
@click.option("--json", "as_json", is_flag=True, help="One JSON array, an object for each instance.")
def command(target: str, as_json: bool) -> None:
    """Show what the instances of a service announce: description, metadata, endpoints and routes.

    Works for foreign NATS micro services too. INSTANCE may be shortened.

    \b
    Examples:
      mesh info users
      mesh info users.7K2
      mesh info users --json | jq '.[0].endpoints[].subject'

    Exit codes: 0, 1 when the name is unknown, 2 for wrong usage, 75 without NATS.
    """
    wanted = target_of(target)
    execute(lambda bus: _info(bus, wanted, as_json))


async def _info(bus: Bus, target: Target, as_json: bool) -> int:
    import asyncio

    from mesh.cli.mesh_view import MeshView
    from mesh.cli.terminal import Terminal
    from mesh.foreign.survey import survey

    async with MeshView(bus) as view:
        _, micros = await asyncio.gather(view.synchronise(), survey(bus, "INFO"))
        documents = [_announced(i) for i in view.instances(target)]
        foreign = view.foreign(micros)
        wanted = [m for m in foreign if m.name == target.service and m.id.startswith(target.instance)]
        documents += [_micro(m, bus.subjects.prefix) for m in wanted]
        if not documents:
            raise view.missing(target, (m.name for m in foreign))
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
        "endpoints": plain(instance.content.endpoints),
        "routes": plain(instance.routes),
    }


def _micro(micro: Micro, prefix: str) -> dict[str, Any]:
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


def _routes(micro: Micro, prefix: str) -> list[dict[str, Any]]:
    """The routes that a gateway takes from it, under the names of their endpoints; none of another mesh's service."""
    announced = taken(micro, prefix)
    if announced is None:
        return []
    names = {e.subject: e.name for e in announced.endpoints}
    return [{**plain(route), "endpoint": names.get(route.endpoint, route.endpoint)} for route in announced.routes]


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
            (Fit("METADATA", 16), Fit("QUEUE"), Fit("METADATA"), Fit("SUBJECT", 24), Fit("  ENDPOINT", 16)),
        )
    if document["routes"]:
        terminal.table(
            ("  METHOD", "PATH", "ENDPOINT", "SUMMARY"),
            [(f"  {r['method']}", r["path"], r["endpoint"], r.get("summary", "")) for r in document["routes"]],
            (Fit("SUMMARY", 16), Fit("ENDPOINT", 12), Fit("SUMMARY"), Fit("PATH", 24)),
        )


def _pairs(metadata: dict[str, str] | None) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted((metadata or {}).items()))
