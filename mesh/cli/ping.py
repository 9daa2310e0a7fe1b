"""`mesh ping`: does it answer, and how quickly?"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from mesh.cli.bus_command import HELP, execute
from mesh.cli.completion_names import services
from mesh.cli.formatting import number
from mesh.cli.mesh_observer import InstanceSelector, parse_selector
from mesh.cli.terminal import clean

if TYPE_CHECKING:
    from mesh.bus import Bus

GATEWAY = "gateway"
PAUSE_S: Final = 0.2
"""Seconds between two rounds: an instance answers a discover message at most ten times a second."""
QUIET_S: Final = 0.1
"""Seconds without another answer after which a round is over."""


@dataclass(slots=True)
class PingResult:
    """One instance and the times of its answers in milliseconds."""

    service: str
    instance: str
    version: str = ""
    times: list[float] = field(default_factory=list)

    def row(self, sent: int) -> dict[str, Any]:
        document: dict[str, Any] = {
            "service": self.service,
            "instance": self.instance,
            "version": self.version,
            "sent": sent,
            "received": len(self.times),
        }
        return document | (figures(self.times) if self.times else {})


def figures(times: list[float]) -> dict[str, float]:
    """The smallest, the average and the largest of some milliseconds."""
    known = {"min_ms": min(times), "avg_ms": sum(times) / len(times), "max_ms": max(times)}
    return {name: round(value, 3) for name, value in known.items()}


Found = dict[tuple[str, str], PingResult]


@click.command("ping", context_settings=HELP)
@click.argument("selector", required=False, metavar="[SERVICE[.INSTANCE]]", shell_complete=services)
@click.option("-c", "--count", type=click.IntRange(1, 10_000), default=1, help="How often to ask.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.05, 60),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer may take, the connection to NATS likewise.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing; the exit code says it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(selector: str | None, count: int, timeout: float, quiet: bool, as_json: bool) -> None:
    """Ask instances to answer: NATS and every service, or the one that is named.

    Over NATS, so it needs no port; `mesh ping gateway` asks the gateways.

    \b
    Examples:
      mesh ping
      mesh ping users -c 5
      mesh ping gateway --quiet --timeout 1     as the health check of a container

    Exit codes: 0, 1 when one that was named or has announced itself does not answer, 2 for wrong usage,
    75 without NATS.
    """
    wanted = parse_selector(selector) if selector else None

    def make(settings: Any, **options: Any) -> Bus:
        from dataclasses import replace

        from mesh.bus import Bus

        return Bus(replace(settings, connect_timeout_s=min(settings.connect_timeout_s, max(timeout, 0.1))), **options)

    execute(lambda bus: _ping(bus, wanted, count, timeout, quiet, as_json), make)


async def _ping(
    bus: Bus, selector: InstanceSelector | None, count: int, timeout: float, quiet: bool, as_json: bool
) -> int:
    found: Found = {}
    if selector is not None:
        await _rounds(bus, selector, count, timeout, found)
        code = 0 if any(p.times for p in found.values()) else 1
        if code:
            click.echo(f"error: {clean(await _silence(bus, selector))}", err=True)
        nats: list[float] = []
    else:
        nats, code = await _everything(bus, count, timeout, found)
    _print(nats, [found[key].row(count) for key in sorted(found)], quiet, as_json)
    return code


async def _everything(bus: Bus, count: int, timeout: float, found: Found) -> tuple[list[float], int]:
    """The times of NATS itself, and the exit code: 1 if an instance that announces itself does not answer."""
    from mesh.cli.mesh_observer import MeshObserver

    nats = []
    for _ in range(count):
        began = time.perf_counter()
        await bus.flush(timeout)
        nats.append((time.perf_counter() - began) * 1000)
    async with MeshObserver(bus) as observer:
        await observer.synchronise()
        announced = {(i.service, i.id): i.version for i in observer.instances()}
    for (service, id), version in announced.items():
        found[service, id] = PingResult(service, id, version)
    await asyncio.gather(
        _rounds(bus, InstanceSelector(""), count, timeout, found),
        _rounds(bus, InstanceSelector(GATEWAY), count, timeout, found),
    )
    silent = [f"{p.service}.{p.instance}" for p in found.values() if not p.times]
    for name in silent:
        click.echo(f"error: {clean(name)} has announced itself and does not answer", err=True)
    return nats, 1 if silent else 0


async def _rounds(bus: Bus, selector: InstanceSelector, count: int, timeout: float, found: Found) -> None:
    ask = _ask_gateways if selector.service == GATEWAY else _ask_services
    for turn in range(count):
        if turn:
            await asyncio.sleep(PAUSE_S)
        await ask(bus, selector, timeout, found)
        if selector.service and not found:
            return


async def _ask_services(bus: Bus, selector: InstanceSelector, timeout: float, found: Found) -> None:
    from mesh.foreign.survey import MicroInstance, survey

    known = {key for key in found if key[0] != GATEWAY}

    def complete(answers: list[MicroInstance]) -> bool:
        ids = {(m.name, m.id) for m in answers}
        if selector.instance and (selector.service, selector.instance) in ids:
            return True
        # Without a name, instances that have not announced themselves must have the time to answer too.
        return bool(selector.service) and bool(known) and known <= ids

    for micro in await survey(bus, "PING", selector.service, first=timeout, quiet=QUIET_S, complete=complete):
        if selector.service or not micro.kind(bus.subjects.prefix) or micro.foreign:
            _note(found, micro.name, micro.id, micro.version, micro.elapsed_ms, selector)


async def _ask_gateways(bus: Bus, selector: InstanceSelector, timeout: float, found: Found) -> None:
    """Gateways do not answer ``$SRV``: asked to announce themselves, they do so at once."""
    from mesh import messages
    from mesh.foreign.survey import LONGEST_S

    arrived: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def announced(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
        party = bus.subjects.party(subject)
        if party is None:
            return
        try:
            message = messages.decode(payload, party.service, party.instance)
        except messages.BadMessage:
            return
        if isinstance(message, messages.Announcement) and message.state != "stopped":
            arrived.put_nowait((party.instance, message.version))

    subscription = await bus.subscribe(bus.subjects.announce(GATEWAY), announced)
    await bus.flush(timeout)
    began = time.perf_counter()
    bus.publish(bus.address(bus.subjects.discover(GATEWAY)), messages.encode(messages.Discover(window_ms=0)))
    known = {id for service, id in found if service == GATEWAY}
    seen: set[str] = set()
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    latest = until + LONGEST_S  # even if announcements still come
    while not (known and known <= seen) and not (selector.instance and selector.instance in seen):
        try:
            async with asyncio.timeout_at(until):
                id, version = await arrived.get()
        except TimeoutError:
            break
        if id not in seen:
            seen.add(id)
            _note(found, GATEWAY, id, version, (time.perf_counter() - began) * 1000, selector)
        until = min(latest, loop.time() + QUIET_S)
    await bus.unsubscribe(subscription)


def _note(found: Found, service: str, id: str, version: str, elapsed: float, selector: InstanceSelector) -> None:
    if id.startswith(selector.instance):
        found.setdefault((service, id), PingResult(service, id, version)).times.append(elapsed)


async def _silence(bus: Bus, selector: InstanceSelector) -> str:
    """Why a service or an instance did not answer, as a sentence."""
    from mesh.cli.mesh_observer import MeshObserver
    from mesh.foreign.survey import survey

    async with MeshObserver(bus) as observer:
        _, micros = await asyncio.gather(observer.synchronise(), survey(bus, "PING"))
        if observer.instances(selector):
            return f"{selector} has announced itself and does not answer"
        names = [f"{m.name}" for m in micros if m.foreign]
        return str(observer.missing(selector, names))


def _print(nats: list[float], rows: list[dict[str, Any]], quiet: bool, as_json: bool) -> None:
    from mesh.cli.terminal import ColumnFit, Terminal

    if quiet:
        return
    terminal = Terminal(sys.stdout)
    if as_json:
        document: dict[str, Any] = {"instances": rows}
        if nats:
            document["nats"] = figures(nats)
        terminal.json(document)
        return
    cells = [
        [r["service"], r["instance"], r["version"], f"{r['received']}/{r['sent']}"]
        + [number(r.get(key), "ms") for key in ("min_ms", "avg_ms", "max_ms")]
        for r in rows
    ]
    if nats:
        told = [number(value, "ms") for value in figures(nats).values()]
        cells.insert(0, ["(NATS)", "-", "-", f"{len(nats)}/{len(nats)}", *told])
    if cells:
        fit = (
            ColumnFit("INSTANCE", 8, mark=""),
            ColumnFit("SERVICE", 16),
            ColumnFit("VERSION", 8),
            ColumnFit("MIN"),
            ColumnFit("MAX"),
        )
        terminal.table(("SERVICE", "INSTANCE", "VERSION", "ANSWERS", "MIN", "AVERAGE", "MAX"), cells, fit)
