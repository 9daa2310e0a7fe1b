"""The mesh as a gateway would know it, for commands that look at it and end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import click

from mesh.cli.bus_command import Missing
from mesh.cli.foreign_services import announced_by
from mesh.cli.terminal import clean
from mesh.cli.texts import nearest, no_service, nothing

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.foreign import MicroInstance
    from mesh.live_routes import LiveRoutes
    from mesh.registry import Instance
    from mesh.routes import RouteTable
    from mesh.watcher import Watcher

DISCOVER_WINDOW_MS: Final = 200
"""Milliseconds over which instances spread their answers to a command: short, because a person waits."""
SYNCHRONISE_S: Final = 10.0
"""Seconds after which a command that did not learn who is there gives up: NATS did not stay connected."""
HEARTBEATS_S: Final = 3.0
"""Seconds for which a command waits for heartbeats: one and a half of the usual interval."""


class InstanceSelector(NamedTuple):
    """``SERVICE`` or ``SERVICE.INSTANCE`` of a command line; the instance may be the unique beginning of an id."""

    service: str
    instance: str = ""

    def __str__(self) -> str:
        return f"{self.service}.{self.instance}" if self.instance else self.service

    def selects(self, service: str, instance: str) -> bool:
        """True if that instance is, or may be, the selected one."""
        return service == self.service and instance.startswith(self.instance)


def parse_selector(text: str) -> InstanceSelector:
    """The selector in ``text``. Raises a usage error for a text that cannot be a name."""
    from mesh.subjects import is_name

    service, dot, instance = text.partition(".")
    if not is_name(service) or (dot and not is_name(instance)):
        raise click.UsageError(f"{clean(text)!r} is not SERVICE or SERVICE.INSTANCE")
    return InstanceSelector(service, instance)


class MeshObserver:
    """A watcher and its route table, for as long as the context lasts.

    bus: a connected bus; the observer does not close it
    owners, reserved: as in `LiveRoutes`
    """

    def __init__(self, bus: Bus, *, owners: Mapping[str, str] | None = None, reserved: Iterable[str] = ()) -> None:
        from mesh.live_routes import LiveRoutes
        from mesh.watcher import Watcher

        self.bus = bus
        self.watcher: Watcher = Watcher(bus, window_ms=DISCOVER_WINDOW_MS)
        self._live_routes: LiveRoutes = LiveRoutes(self.watcher, owners=owners, reserved=tuple(reserved))
        self._sent_heartbeat: set[tuple[str, str]] = set()
        self._news = asyncio.Event()
        self.watcher.on_heard(self._heard)
        self.watcher.on_change(lambda changes: self._news.set())

    async def __aenter__(self) -> Self:
        await self.watcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.watcher.aclose()

    @property
    def routes(self) -> RouteTable:
        """The route table with everything that the registry knows."""
        self._live_routes.update_now()
        return self._live_routes.table

    async def synchronise(self) -> Self:
        """Return when every live instance has had the time to answer. Raises `BusUnavailable` after 10 s."""
        from mesh.errors import BusUnavailable

        try:
            async with asyncio.timeout(SYNCHRONISE_S):
                await self.watcher.synchronised.wait()
        except TimeoutError:
            raise BusUnavailable(self.bus.last_error or "NATS did not stay connected") from None
        return self

    async def wait_heartbeats(self, timeout: float = HEARTBEATS_S, service: str = "") -> None:
        """Return when every known instance has sent a heartbeat, which has its load, or after ``timeout`` seconds.

        service: wait for its instances only; empty for all services
        """
        try:
            async with asyncio.timeout(timeout):
                while any(not self.has_load(i) for i in self.watcher.registry.instances(service or None)):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass

    def has_load(self, instance: Instance) -> bool:
        """True if a heartbeat of the instance was heard, so that its load and its lag are known."""
        return (instance.service, instance.id) in self._sent_heartbeat

    def foreign(self, micros: Iterable[MicroInstance]) -> list[MicroInstance]:
        """Those of ``micros`` that are not instances of this mesh, whatever they say of themselves."""
        get, prefix = self.watcher.registry.get, self.bus.subjects.prefix
        return [m for m in micros if m.kind(prefix) and ((known := get(m.name, m.id)) is None or known.foreign)]

    def adopt(self, micros: Iterable[MicroInstance]) -> list[tuple[str, str]]:
        """Take in foreign services and their routes, as a gateway does. Returns what was left out: service, reason."""
        left_out: dict[tuple[str, str], None] = {}
        for micro in self.foreign(micros):
            problems: list[str] = []
            found = announced_by(micro, self.bus.subjects.prefix, problems)
            if found is not None:
                self.watcher.adopt(found)
            left_out |= dict.fromkeys((micro.name, p.removeprefix(f"{micro.name}, ")) for p in problems)
        return list(left_out)

    def instances(self, selector: InstanceSelector | None = None) -> list[Instance]:
        """The selected instances, or all of them, by service and id. An id that is complete selects only itself."""
        found = self.watcher.registry.instances(selector.service if selector else None)
        if selector:
            found = [i for i in found if i.id == selector.instance] or [
                i for i in found if i.id.startswith(selector.instance)
            ]
        return sorted(found, key=lambda i: (i.service, i.id))

    def missing(self, selector: InstanceSelector, others: Iterable[str] = ()) -> Missing:
        """The error for a selector that selects nothing.

        others: names of further services, for the hint
        """
        registry = self.watcher.registry
        siblings = [i.id for i in registry.instances(selector.service)]
        if siblings and selector.instance:
            return Missing(
                f"{selector.service} has no instance {selector.instance!r}.{nearest(selector.instance, siblings)}"
                f" It has {len(siblings)}: see 'mesh ls {selector.service}'."
            )
        names = {*registry.services(), *others}
        return Missing(no_service(selector.service, names))

    def say_nothing(self) -> None:
        """Say on standard error that no instance was found, where it was looked for, and what to do."""
        click.echo(nothing(self.bus.settings.prefix, self.bus.settings.servers), err=True)

    def _heard(self, service: str, id: str) -> None:
        instance = self.watcher.registry.get(service, id)
        if instance is not None and instance.seq > instance.announced:
            self._sent_heartbeat.add((service, id))
        self._news.set()
