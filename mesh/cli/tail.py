"""`mesh-tail`: the events of the mesh, live. It watches the mesh itself, as a gateway does, so it needs no gateway."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
import msgspec

from mesh.bus import Bus
from mesh.cli import completion_names
from mesh.cli.bus_command import HELP, connecting, detach, quiet, without_nats
from mesh.cli.exit import NO_NATS, fail
from mesh.cli.load_settings import load
from mesh.cli.route_changes import altered_route, in_words
from mesh.cli.terminal import Terminal, clean, json_text
from mesh.cli.texts import counted, no_service, nothing
from mesh.codec import UNREADABLE
from mesh.conflict_texts import sentence
from mesh.errors import BusUnavailable
from mesh.foreign import ForeignWatch
from mesh.live_routes import LiveRoutes
from mesh.messages import Route, RouteConflict
from mesh.registry import Change, Instance
from mesh.registry.instance_records import route_label
from mesh.settings import BusSettings, GatewaySettings
from mesh.watcher import Watcher

MARKS = {
    "joined": ("+", "green"),
    "present": ("=", "dim"),
    "changed": ("~", "cyan"),
    "state": ("~", "yellow"),
    "suspect": ("?", "yellow"),
    "recovered": ("+", "green"),
    "lost": ("!", "red"),
    "left": ("-", "blue"),
    "conflict": ("!", "red"),
    "conflict over": ("+", "green"),
    "disconnected": ("!", "red"),
    "connected": ("+", "green"),
}


@click.command("tail", context_settings=HELP)
@click.option(
    "--service",
    "services",
    multiple=True,
    metavar="NAME",
    shell_complete=completion_names.services,
    help="Only this service; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line (the default when not on a terminal).")
@click.option("--text", "as_text", is_flag=True, help="Text for people, also into a pipe.")
@click.option("--raw", is_flag=True, help="The announcements and heartbeats themselves, as they arrive.")
@click.option(
    "--foreign",
    "foreign_s",
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How often foreign NATS micro services are asked for; 0 for never.",
)
@click.option("--once", is_flag=True, help="Print the present state and exit.")
def command(services: tuple[str, ...], as_json: bool, as_text: bool, raw: bool, foreign_s: float, once: bool) -> None:
    """Show the instances, then those that join, change, turn unready, go suspect, are lost or leave, until Ctrl-C.

    \b
    Examples:
      mesh-tail
      mesh-tail --service users
      mesh-tail --json | jq 'select(.kind == "lost")'
      mesh-tail --raw

    Data goes to standard output, the rest to standard error. Exit codes: 0, 1 when --once misses a service that
    was named, 2 for wrong usage, 75 without NATS.
    """
    if as_json and as_text:
        raise click.UsageError("--json and --text exclude each other")
    if raw and once:
        raise click.UsageError("--raw shows what arrives, so it has no present state for --once")
    settings, gateway = load(BusSettings, GatewaySettings)
    quiet()  # what the library warns of is shown here as an event
    terminal = Terminal()
    text = as_text or (not as_json and (sys.stdout.isatty() or terminal.colour))
    tail = Tail(settings, gateway, terminal, frozenset(services), text, foreign_s)
    try:
        code = asyncio.run(tail.run(raw=raw, once=once))
    except BusUnavailable as error:
        fail(without_nats(error), NO_NATS)
    except BrokenPipeError:
        detach()
        code = 0
    sys.exit(code)


class Tail:
    """Prints the events of the mesh.

    services: names of those to show; empty shows all
    text: text for people, else a JSON object a line
    foreign_s: seconds between two rounds of asking for foreign services; 0 never asks
    """

    def __init__(
        self,
        settings: BusSettings,
        gateway: GatewaySettings,
        terminal: Terminal,
        services: frozenset[str],
        text: bool,
        foreign_s: float,
    ) -> None:
        self._gateway = gateway
        self._foreign_s = foreign_s
        self._settings = settings
        self._terminal = terminal
        self._services = services
        self._text = text
        self._live = False
        self._broken: asyncio.Future[None] | None = None

    async def run(self, *, raw: bool, once: bool) -> int:
        """Print events until a signal, or the present state only. Returns the exit code.

        raw: print the messages themselves
        once: print the present state and end, with 1 if a service that was named is not there
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._broken = asyncio.get_running_loop().create_future()
        async with connecting(self._settings, Bus) as bus:
            if raw:
                await self._raw(bus)
                await self._until(stop)
                return 0
            watcher = Watcher(bus)
            watcher.on_change(self._changes)
            live_routes = self._live_routes(watcher)
            await watcher.start()
            foreign = ForeignWatch(bus, watcher, self._foreign_s)
            foreign.start()
            there = True
            if await self._until(stop, watcher.synchronised):
                there = self._present(watcher, live_routes, once)
                self._live = True
                bus.on_connection(self._connection)
                if not once:
                    await self._until(stop)
            await foreign.aclose()
            await watcher.aclose()
            if self._broken.done():
                raise BrokenPipeError
        return 1 if once and not there else 0

    def _live_routes(self, watcher: Watcher) -> LiveRoutes:
        """The routes as a gateway with the settings of this process decides them."""
        from gateway.health import RESERVED

        owners = self._gateway.owners
        return LiveRoutes(watcher, owners=owners, reserved=RESERVED, on_conflicts=self._conflicts)

    async def _until(self, stop: asyncio.Event, other: asyncio.Event | None = None) -> bool:
        """Wait for ``stop`` or ``other``. Returns False for ``stop``; raises BrokenPipeError if our reader has gone."""
        assert self._broken is not None
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
        if other is not None:
            waits.append(asyncio.ensure_future(other.wait()))
        await asyncio.wait([*waits, self._broken], return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self._broken.done():
            raise BrokenPipeError
        return not stop.is_set()

    # -- events

    def _present(self, watcher: Watcher, live_routes: LiveRoutes, once: bool) -> bool:
        """Print the instances. Returns False if a service that was named has none."""
        live_routes.update_now()
        instances = [i for i in watcher.registry.instances() if self._wanted(i.service)]
        absent = self._services - {i.service for i in instances}
        for name in sorted(absent):
            sentence = clean(no_service(name, watcher.registry.services()))
            click.echo(f"{'error' if once else 'note'}: {sentence}", err=True)
        for instance in sorted(instances, key=lambda i: (i.service, i.id)):
            self._print(
                "present",
                service=instance.service,
                instance=instance.id,
                version=instance.content.version,
                state="suspect" if instance.suspect else instance.state,
                routes=_labels(instance.routes),
            )
        for conflict in live_routes.conflicts:
            self._conflict("conflict", conflict)
        if not instances and not self._services and (self._text or once):
            click.echo(nothing(self._settings.prefix, self._settings.servers), err=True)
        if self._text:
            self._sum_up(instances, once)
        return not absent

    def _sum_up(self, instances: Sequence[Instance], once: bool) -> None:
        services = len({i.service for i in instances})
        words = [f"{counted(len(instances), 'instance')} of {counted(services, 'service')}"] if instances else []
        words += [] if once else ["watching, Ctrl-C ends"]
        if words:
            click.echo("; ".join(words), err=True)

    def _changes(self, changes: Sequence[Change]) -> None:
        if not self._live:
            return
        for change in changes:
            if not self._wanted(change.service) or change.kind == "claimed":
                continue
            facts: dict[str, Any] = {
                "service": change.service,
                "instance": change.instance,
                "version": change.version,
                "state": change.state,
            }
            if change.kind == "state":
                facts["previous"] = change.previous
            if change.kind == "joined":
                facts["routes"] = _labels(change.added)
            elif change.added or change.removed:
                facts.update(added=_labels(change.added), removed=_labels(change.removed))
            if change.altered:
                facts["altered"] = [altered_route(route) for route in change.altered]
            if change.reason:
                facts["reason"] = change.reason
            self._print(change.kind, **facts)

    def _conflicts(self, begun: Sequence[RouteConflict], over: Sequence[RouteConflict]) -> None:
        if self._live:
            for conflict in begun:
                self._conflict("conflict", conflict)
            for conflict in over:
                self._conflict("conflict over", conflict)

    def _conflict(self, kind: str, conflict: RouteConflict) -> None:
        if not self._services or {conflict.winner, *conflict.losers} & self._services:
            self._print(kind, **msgspec.to_builtins(conflict))

    def _connection(self, connected: bool) -> None:
        self._print("connected" if connected else "disconnected")

    def _wanted(self, service: str) -> bool:
        return not self._services or service in self._services

    async def _raw(self, bus: Bus) -> None:
        def show(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            party = bus.subjects.party(subject)
            if party is None or not self._wanted(party.service):
                return
            text, body = subject.decode("ascii", "replace"), payload.decode("utf-8", "replace")
            if self._text:
                self._emit(f"{_clock()} {self._terminal.paint(clean(text), 'cyan')} {clean(body)}")
            else:
                shown: dict[str, Any] = {"time": _now(), "subject": text}
                try:
                    line = json_text({**shown, "message": msgspec.json.decode(payload)})
                except (*UNREADABLE, UnicodeError, OverflowError):  # not JSON, or not to be encoded again
                    line = json_text({**shown, "message": body})
                self._emit(line)

        for subject in (bus.subjects.announce_all, bus.subjects.heartbeat_all):
            await bus.subscribe(subject, show)

    # -- output

    def _print(self, kind: str, **facts: Any) -> None:
        if not self._text:
            self._emit(json_text({"time": _now(), "kind": kind, **facts}))
            return
        mark, colour = MARKS[kind]
        self._emit(f"{_clock()} {self._terminal.paint(f'{mark} {kind:<9}', colour)} {_describe(kind, facts)}")

    def _emit(self, line: str) -> None:
        try:
            self._terminal.line(line)
        except (BrokenPipeError, ValueError):
            if self._broken is not None and not self._broken.done():
                self._broken.set_result(None)


def _labels(routes: Sequence[Route]) -> list[str]:
    return sorted(map(route_label, routes))


def _describe(kind: str, facts: dict[str, Any]) -> str:
    if kind in ("connected", "disconnected"):
        return "to NATS" if kind == "connected" else "from NATS; the last known state stays until it is back"
    if "winner" in facts:
        return clean(sentence(msgspec.convert(facts, RouteConflict)))
    words = [f"{facts['service']}.{facts['instance']}", facts["version"]]
    if kind == "state":
        words.append(f"{facts['previous']} -> {facts['state']}")
    elif kind in ("present", "joined") or facts["state"] != "ready":
        words.append(facts["state"])
    words += [f"+[{route}]" for route in facts.get("added", ())]
    words += [f"-[{route}]" for route in facts.get("removed", ())]
    words += [f"~[{in_words(route)}]" for route in facts.get("altered", ())]
    words += [f"[{route}]" for route in facts.get("routes", ())]
    words += [f"({facts['reason']})"] if "reason" in facts else []
    return clean(" ".join(words))


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S.%f")[:-3]


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
