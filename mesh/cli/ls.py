"""`mesh ls`: the live instances, and how they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mesh.cli.bus_command import HELP, execute
from mesh.cli.completion_names import services
from mesh.cli.foreign_services import announced_by
from mesh.cli.formatting import age, number, span, state_of
from mesh.cli.mesh_observer import parse_selector
from mesh.cli.terminal import STATES, ColumnFit

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.cli.mesh_observer import InstanceSelector, MeshObserver
    from mesh.cli.terminal import Terminal
    from mesh.foreign.survey import MicroInstance
    from mesh.registry import Instance

# What gives way on a narrow terminal, in this order.
FIT = (
    ColumnFit("INSTANCE", 8, mark=""),
    ColumnFit("REVISION"),
    ColumnFit("HEARD"),
    ColumnFit("SERVICE", 16),
    ColumnFit("STATE", 10),
    ColumnFit("VERSION", 8),
    ColumnFit("AGE"),
    ColumnFit("LAG"),
)
HEAD = ("SERVICE", "INSTANCE", "VERSION", "STATE", "AGE", "HEARD", "LOAD", "LAG", "REVISION", "ROUTES")


@click.command("ls", context_settings=HELP)
@click.argument("service", required=False, shell_complete=services)
@click.option("--json", "as_json", is_flag=True, help="One JSON array of instances.")
@click.option("--quick", is_flag=True, help="Do not wait for heartbeats: load and lag may be missing.")
def command(service: str | None, as_json: bool, quick: bool) -> None:
    """List instances: of the mesh, and of foreign NATS micro services.

    LOAD is calls in flight / how many may run; LAG is how late the instance's event loop is; HEARD is how long ago
    it spoke. SERVICE may be SERVICE.INSTANCE, the instance shortened.

    \b
    Examples:
      mesh ls
      mesh ls users
      mesh ls --json | jq -r '.[] | select(.state != "ready") | .instance'

    Exit codes: 0, 1 when SERVICE is unknown, 2 for wrong usage, 75 without NATS.
    """
    selector = parse_selector(service) if service else None
    execute(lambda bus: _ls(bus, selector, as_json, quick))


async def _ls(bus: Bus, selector: InstanceSelector | None, as_json: bool, quick: bool) -> int:
    from mesh.cli.mesh_observer import MeshObserver
    from mesh.cli.terminal import Terminal

    async with MeshObserver(bus) as observer:
        rows = await _rows(observer, selector, quick)
        if not rows:
            observer.say_nothing()
    _print(Terminal(), rows, as_json)
    return 0


async def _rows(observer: MeshObserver, selector: InstanceSelector | None, quick: bool) -> list[dict[str, Any]]:
    """A row per instance. Raises `Missing` for a name that does not exist."""
    import asyncio

    from mesh.foreign.survey import survey

    _, micros = await asyncio.gather(observer.synchronise(), survey(observer.bus, "INFO"))
    foreign = observer.foreign(micros)
    shown = [m for m in foreign if selector is None or selector.selects(m.name, m.id)]
    instances = observer.instances(selector)
    if selector and not instances and not shown:
        raise observer.missing(selector, (m.name for m in foreign))
    if instances and not quick:
        await observer.wait_heartbeats(service=selector.service if selector else "")
    rows = [_row(observer, i) for i in observer.instances(selector)]
    return rows + [_foreign(m, observer.bus.subjects.prefix) for m in shown]


def _print(terminal: Terminal, rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        terminal.json(rows)
    elif rows:
        terminal.table(HEAD, [_cells(row) for row in rows], FIT, _colour)


def _colour(column: str, cell: str) -> str:
    return STATES.get(cell, "") if column == "STATE" else ""


def _row(observer: MeshObserver, instance: Instance) -> dict[str, Any]:
    has_load = observer.has_load(instance)
    return {
        "service": instance.service,
        "instance": instance.id,
        "version": instance.version,
        "kind": "mesh",
        "state": state_of(instance),
        "started": instance.started,
        "age_s": age(instance.started),
        "heard_s": round(max(0.0, observer.watcher.now - instance.seen), 3),
        "inflight": instance.inflight if has_load else None,
        "capacity": instance.capacity if has_load else None,
        "lag_ms": instance.lag_ms if has_load else None,
        "revision": instance.revision,
        "routes": len(instance.routes),
    }


def _foreign(micro: MicroInstance, prefix: str) -> dict[str, Any]:
    return {
        "service": micro.name,
        "instance": micro.id,
        "version": micro.version,
        "kind": "nats micro",
        "state": micro.kind(prefix),
        "metadata": micro.metadata,
        # None for one of another mesh: no gateway of this one asks it.
        "routes": None if (announced := announced_by(micro, prefix)) is None else len(announced.routes),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [row["service"], row["instance"], row["version"], row["state"]]
    if row["kind"] != "mesh":
        return [*cells, "-", "-", "-", "-", "-", "-" if row["routes"] is None else str(row["routes"])]
    load = "-" if row["inflight"] is None else f"{row['inflight']}/{row['capacity'] or 'any'}"
    lag = "-" if row["lag_ms"] is None else f"{row['lag_ms']}ms"
    return [
        *cells,
        span(row["age_s"]),
        number(row["heard_s"], "s"),
        load,
        lag,
        row["revision"][:8],
        str(row["routes"]),
    ]
