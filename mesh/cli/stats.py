"""`mesh stats`: requests, errors and times per endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from mesh.cli.bus_command import HELP, execute
from mesh.cli.completion_names import services
from mesh.cli.formatting import number
from mesh.cli.mesh_observer import InstanceSelector, MeshObserver, parse_selector
from mesh.cli.terminal import ColumnFit

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.cli.terminal import Terminal
    from mesh.foreign.survey import MicroEndpoint, MicroInstance

HEAD = (
    "SERVICE",
    "INSTANCE",
    "ENDPOINT",
    "REQUESTS",
    "RATE",
    "ERRORS",
    "AVERAGE",
    "P50",
    "P99",
    "INFLIGHT",
    "LAST ERROR",
)
# What gives way on a narrow terminal, in this order.
FIT = (
    ColumnFit("INSTANCE", 8, mark=""),
    ColumnFit("LAST ERROR", 20),
    ColumnFit("P50"),
    ColumnFit("SERVICE", 12),
    ColumnFit("ENDPOINT", 12),
    ColumnFit("INFLIGHT"),
    ColumnFit("LAST ERROR", 10),
    ColumnFit("AVERAGE"),
    ColumnFit("RATE"),
)
FIRST_ANSWER_S: Final = 1.0
"""Seconds that the first answer may take; longer than for PING, because an instance works for it."""
Counts = dict[tuple[str, str, str], tuple[float, int]]
"""By service, instance and endpoint: when its requests were counted, in monotonic seconds, and how many they were."""


@click.command("stats", context_settings=HELP)
@click.argument("service", required=False, shell_complete=services)
@click.option("--watch", is_flag=True, help="Again and again until Ctrl-C, with rates per second.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, metavar="SECONDS")
@click.option("--json", "as_json", is_flag=True, help="One JSON array; with --watch one a line.")
@click.option("--quick", is_flag=True, help="Do not wait for heartbeats: calls in flight may be missing.")
def command(service: str | None, watch: bool, interval: float, as_json: bool, quick: bool) -> None:
    """Show figures per endpoint of every instance since it started, foreign NATS micro services included.

    AVERAGE, P50 and P99 are times in the handler; INFLIGHT is of the whole instance.

    \b
    Examples:
      mesh stats
      mesh stats users --watch
      mesh stats --json | jq 'map(.errors) | add'

    Exit codes: 0, 1 when SERVICE is unknown, 2 for wrong usage, 75 without NATS.
    """
    selector = parse_selector(service) if service else None
    execute(lambda bus: _stats(bus, selector, interval if watch else 0.0, as_json, quick))


async def _stats(bus: Bus, selector: InstanceSelector | None, interval_s: float, as_json: bool, quick: bool) -> int:
    from mesh.cli.refresh import refresh
    from mesh.cli.terminal import Terminal

    terminal = Terminal()
    before: Counts = {}
    async with MeshObserver(bus) as observer:
        await observer.synchronise()
        if not quick:
            await observer.wait_heartbeats(service=selector.service if selector else "")

        async def show() -> None:
            rows = await _rows(observer, selector, before)
            if not rows and not before and (selector or not interval_s):
                await _say_why(observer, selector)
            _print(terminal, rows, as_json, watching=bool(interval_s))

        await refresh(show, interval_s)
    return 0


async def _rows(observer: MeshObserver, selector: InstanceSelector | None, before: Counts) -> list[dict[str, Any]]:
    """A row per endpoint.

    before: the counts of the last call, for rates; they are replaced by those of this one
    """
    import time

    from mesh.foreign.survey import survey

    service = selector.service if selector else ""
    expected = {(i.service, i.id) for i in observer.instances(InstanceSelector(service) if service else None)}
    alone = bool(service) and bool(expected)
    micros = await survey(
        observer.bus,
        "STATS",
        service,
        first=FIRST_ANSWER_S,
        # Without a name, foreign services are asked too, and how many there are is not known.
        complete=(lambda found: expected <= {(m.name, m.id) for m in found}) if alone else None,
    )
    rows = []
    now = time.monotonic()
    for micro in micros:
        if selector and not micro.id.startswith(selector.instance):
            continue
        for endpoint in micro.endpoints:
            key = (micro.name, micro.id, endpoint.name)
            then, count = before.get(key, (0.0, -1))
            rate = (endpoint.requests - count) / (now - then) if 0 <= count <= endpoint.requests else None
            before[key] = (now, endpoint.requests)
            rows.append(_row(observer, micro, endpoint, rate))
    return rows


def _row(observer: MeshObserver, micro: MicroInstance, endpoint: MicroEndpoint, rate: float | None) -> dict[str, Any]:
    instance = observer.watcher.registry.get(micro.name, micro.id)
    return {
        "service": micro.name,
        "instance": micro.id,
        "kind": "nats micro" if micro.kind(observer.bus.subjects.prefix) else "mesh",
        "endpoint": endpoint.name,
        "requests": endpoint.requests,
        "rate": None if rate is None else round(rate, 3),
        "errors": endpoint.errors,
        "last_error": endpoint.last_error,
        "average_ms": round(endpoint.average_ms, 4) if endpoint.requests else None,
        "p50_ms": endpoint.p50_ms,
        "p99_ms": endpoint.p99_ms,
        "inflight": instance.inflight if instance is not None and observer.has_load(instance) else None,
    }


async def _say_why(observer: MeshObserver, selector: InstanceSelector | None) -> None:
    """Say why there is no row. Raises `Missing` for a name that does not exist."""
    from mesh.foreign.survey import survey

    micros = await survey(observer.bus, "PING")
    if observer.instances(selector) or any(selector is None or m.name == selector.service for m in micros):
        click.echo(f"no endpoint of {selector or 'anybody'} has figures; 'mesh ls' shows who is there", err=True)
    elif selector:
        raise observer.missing(selector, (m.name for m in micros))
    else:
        observer.say_nothing()


def _print(terminal: Terminal, rows: list[dict[str, Any]], as_json: bool, *, watching: bool) -> None:
    if as_json:
        terminal.json(rows)
        return
    if watching:
        terminal.clear()
    if rows or watching:
        terminal.table(HEAD, [_cells(row) for row in rows], FIT if watching else (ColumnFit("RATE"), *FIT))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["service"],
        row["instance"],
        row["endpoint"],
        str(row["requests"]),
        number(row["rate"], "/s"),
        str(row["errors"]),
        number(row["average_ms"], "ms"),
        number(row["p50_ms"], "ms"),
        number(row["p99_ms"], "ms"),
        "-" if row["inflight"] is None else str(row["inflight"]),
        row["last_error"] or "-",
    ]
