"""`mesh ping`: does it answer, and how quickly?"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.completion_names import services
from mesh.cli.mesh_view import HELP, Target, execute, number, target_of
from mesh.cli.terminal import clean

if TYPE_CHECKING:
    from mesh.bus import Bus

GATEWAY = "gateway"
PAUSE_S = 0.2
"""Between two rounds; an instance answers a discover message at most ten times a second."""
QUIET_S = 0.1


@dataclass(slots=True)
class Pinged:
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


Found = dict[tuple[str, str], Pinged]


@click.command("ping", context_settings=HELP)
@click.argument("target", required=False, metavar="[SERVICE[.INSTANCE]]", shell_complete=services)
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
def command(target: str | None, count: int, timeout: float, quiet: bool, as_json: bool) -> None:
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
    wanted = target_of(target) if target else None

    def make(settings: Any, **options: Any) -> Bus:
        from dataclasses import replace

        from mesh.bus import Bus

        return Bus(replace(settings, connect_timeout_s=min(settings.connect_timeout_s, max(timeout, 0.1))), **options)

    execute(lambda bus: _ping(bus, wanted, count, timeout, quiet, as_json), make)


async def _ping(bus: Bus, target: Target | None, count: int, timeout: float, quiet: bool, as_json: bool) -> int:
    found: Found = {}
    if target is not None:
        await _rounds(bus, target, count, timeout, found)
        code = 0 if any(p.times for p in found.values()) else 1
        if code:
            click.echo(f"error: {clean(await _silence(bus, target))}", err=True)
        nats: list[float] = []
    else:
        nats, code = await _everything(bus, count, timeout, found)
    _print(nats, [found[key].row(count) for key in sorted(found)], quiet, as_json)
    return code


async def _everything(bus: Bus, count: int, timeout: float, found: Found) -> tuple[list[float], int]:
    """The times of NATS itself, and the exit code: whoever announces himself must answer."""
    from mesh.cli.mesh_view import MeshView

    nats = []
    for _ in range(count):
        began = time.perf_counter()
        await bus.flush(timeout)
        nats.append((time.perf_counter() - began) * 1000)
    async with MeshView(bus) as view:
        await view.synchronise()
        announced = {(i.service, i.id): i.version for i in view.instances()}
    for (service, id), version in announced.items():
        found[service, id] = Pinged(service, id, version)
    await asyncio.gather(
        _rounds(bus, Target(""), count, timeout, found), _rounds(bus, Target(GATEWAY), count, timeout, found)
    )
    silent = [f"{p.service}.{p.instance}" for p in found.values() if not p.times]
    for name in silent:
        click.echo(f"error: {clean(name)} has announced itself and does not answer", err=True)
    return nats, 1 if silent else 0


async def _rounds(bus: Bus, target: Target, count: int, timeout: float, found: Found) -> None:
    ask = _ask_gateways if target.service == GATEWAY else _ask_services
    for turn in range(count):
        if turn:
            await asyncio.sleep(PAUSE_S)
        await ask(bus, target, timeout, found)
        if target.service and not found:
            return


async def _ask_services(bus: Bus, target: Target, timeout: float, found: Found) -> None:
    from mesh.foreign.survey import Micro, survey

    known = {key for key in found if key[0] != GATEWAY}

    def complete(answers: list[Micro]) -> bool:
        ids = {(m.name, m.id) for m in answers}
        if target.instance and (target.service, target.instance) in ids:
            return True
        # Asked for everybody, those that nobody knows of must have their time to answer too.
        return bool(target.service) and bool(known) and known <= ids

    for micro in await survey(bus, "PING", target.service, first=timeout, quiet=QUIET_S, complete=complete):
        if target.service or not micro.kind(bus.subjects.prefix) or micro.foreign:
            _note(found, micro.name, micro.id, micro.version, micro.elapsed_ms, target)


async def _ask_gateways(bus: Bus, target: Target, timeout: float, found: Found) -> None:
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
    latest = until + LONGEST_S  # whoever goes on announcing
    while not (known and known <= seen) and not (target.instance and target.instance in seen):
        try:
            async with asyncio.timeout_at(until):
                id, version = await arrived.get()
        except TimeoutError:
            break
        if id not in seen:
            seen.add(id)
            _note(found, GATEWAY, id, version, (time.perf_counter() - began) * 1000, target)
        until = min(latest, loop.time() + QUIET_S)
    await bus.unsubscribe(subscription)


def _note(found: Found, service: str, id: str, version: str, elapsed: float, target: Target) -> None:
    if id.startswith(target.instance):
        found.setdefault((service, id), Pinged(service, id, version)).times.append(elapsed)


async def _silence(bus: Bus, target: Target) -> str:
    """What to say of a target that did not answer."""
    from mesh.cli.mesh_view import MeshView
    from mesh.foreign.survey import survey

    async with MeshView(bus) as view:
        _, micros = await asyncio.gather(view.synchronise(), survey(bus, "PING"))
        if view.instances(target):
            return f"{target} has announced itself and does not answer"
        names = [f"{m.name}" for m in micros if m.foreign]
        return str(view.missing(target, names))


def _print(nats: list[float], rows: list[dict[str, Any]], quiet: bool, as_json: bool) -> None:
    from mesh.cli.terminal import Fit, Terminal

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
        fit = (Fit("INSTANCE", 8, mark=""), Fit("SERVICE", 16), Fit("VERSION", 8), Fit("MIN"), Fit("MAX"))
        terminal.table(("SERVICE", "INSTANCE", "VERSION", "ANSWERS", "MIN", "AVERAGE", "MAX"), cells, fit)
