"""What the commands share: a connection, the mesh as a gateway would see it, and how a command ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self, TypeVar

import click

from mesh.cli.foreign_services import taken
from mesh.cli.main import NO_NATS, fail
from mesh.cli.terminal import clean
from mesh.cli.texts import nearest, no_service, nothing

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.errors import BusUnavailable
    from mesh.foreign import Micro
    from mesh.live_routes import LiveRoutes
    from mesh.registry import Instance
    from mesh.settings import BusSettings
    from mesh.watcher import Watcher

AnyBus = TypeVar("AnyBus", bound="Bus")

HELP = {"help_option_names": ["-h", "--help"]}
WINDOW_MS = 200
"""How long instances may take to answer a command's discover message; short, because somebody waits."""
BEAT_S = 3.0
"""Seconds for which a command waits for heartbeats: one and a half of the usual interval."""
GIVE_UP_S = 1.0
"""Seconds for which a command tries to reach NATS where every server fails: somebody waits."""


class Missing(Exception):
    """A name that does not exist, as a sentence with the nearest names."""


class Target(NamedTuple):
    """``SERVICE`` or ``SERVICE.INSTANCE``; the instance may be the unique beginning of an id."""

    service: str
    instance: str = ""

    def __str__(self) -> str:
        return f"{self.service}.{self.instance}" if self.instance else self.service


def target_of(text: str) -> Target:
    """Parse a target; raises a usage error for what can be no name."""
    from mesh.subjects import is_name

    service, dot, instance = text.partition(".")
    if not is_name(service) or (dot and not is_name(instance)):
        raise click.UsageError(f"{clean(text)!r} is not SERVICE or SERVICE.INSTANCE")
    return Target(service, instance)


# -- a command's run


def execute(main: Callable[[Bus], Awaitable[int]], make: Callable[[BusSettings], Bus] | None = None) -> NoReturn:
    """Connect, run ``main`` and exit with its code; every foreseeable failure has its own."""
    from mesh.bus import Bus
    from mesh.cli.load_settings import load
    from mesh.errors import BadSubject, BusUnavailable, MeshError
    from mesh.settings import BusSettings

    (settings,) = load(BusSettings)
    quiet()

    async def run() -> int:
        async with connecting(settings, make or Bus) as bus:
            return await main(bus)

    try:
        code = asyncio.run(run())
        sys.stdout.flush()
    except BusUnavailable as error:
        fail(without_nats(error), NO_NATS)
    except MeshError as error:
        fail(clean(error.detail), 1)
    except (Missing, BadSubject) as error:
        fail(clean(str(error)), 1)
    except BrokenPipeError:
        detach()
        code = 0
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def connecting(settings: BusSettings, make: Callable[..., AnyBus]) -> AnyBus:
    """The bus of a command, to be entered: it gives up sooner than a program that may wait for NATS."""
    return make(settings, give_up_s=GIVE_UP_S)


def without_nats(error: BusUnavailable) -> str:
    """What is shown of an error of the bus: why, and what to do about it."""
    hint = getattr(error, "hint", "")
    return clean(error.detail) + (f"\nhint: {clean(hint)}" if hint else "")


def detach() -> None:
    """The reader of our output has gone, as `head` does: nothing more is written to it, at exit neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def quiet() -> None:
    """Let only errors of the library through to standard error, and no control character of anybody's in them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Clean("%(levelname)s: %(message)s"))
    logger = logging.getLogger("mesh")
    logger.handlers[:] = [handler]
    logger.propagate = False
    level = os.environ.get("MESH_LOG_LEVEL") or os.environ.get("LOG_LEVEL") or ""
    logger.setLevel(logging.DEBUG if level.lower() == "debug" else logging.ERROR)


class _Clean(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(clean(line) for line in super().format(record).split("\n"))


# -- the mesh as this command sees it


class MeshView:
    """A watcher and its route table, for as long as the context lasts."""

    def __init__(self, bus: Bus, *, owners: Mapping[str, str] | None = None, reserved: Iterable[str] = ()) -> None:
        from mesh.live_routes import LiveRoutes
        from mesh.watcher import Watcher

        self.bus = bus
        self.watcher: Watcher = Watcher(bus, window_ms=WINDOW_MS)
        self.directory: LiveRoutes = LiveRoutes(self.watcher, owners=owners, reserved=tuple(reserved))
        self._beaten: set[tuple[str, str]] = set()
        self._heard = asyncio.Event()
        self.watcher.on_heard(self._note)
        self.watcher.on_change(lambda changes: self._heard.set())

    async def __aenter__(self) -> Self:
        await self.watcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.watcher.aclose()

    async def synchronise(self) -> Self:
        """Return when everybody who lives has answered."""
        from mesh.errors import BusUnavailable

        try:
            async with asyncio.timeout(10):
                await self.watcher.synchronised.wait()
        except TimeoutError:
            raise BusUnavailable(self.bus.last_error or "NATS did not stay connected") from None
        self.directory.settle()
        return self

    async def beats(self, timeout: float = BEAT_S, service: str = "") -> None:
        """Return when every instance known has sent a heartbeat, which has its load; at latest after ``timeout``."""
        try:
            async with asyncio.timeout(timeout):
                while any(not self.has_beaten(i) for i in self.watcher.registry.instances(service or None)):
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pass

    def foreign(self, micros: Iterable[Micro]) -> list[Micro]:
        """Those of ``micros`` that are no instance of this mesh, whether or not they say so themselves."""
        get, prefix = self.watcher.registry.get, self.bus.subjects.prefix
        return [m for m in micros if m.kind(prefix) and ((known := get(m.name, m.id)) is None or known.foreign)]

    def adopt(self, micros: Iterable[Micro]) -> list[tuple[str, str]]:
        """Take in foreign services and their routes, as a gateway does; gives what was left out: service, sentence."""
        left_out: dict[tuple[str, str], None] = {}
        for micro in self.foreign(micros):
            problems: list[str] = []
            found = taken(micro, self.bus.subjects.prefix, problems)
            if found is not None:
                self.watcher.adopt(found)
            left_out |= dict.fromkeys((micro.name, p.removeprefix(f"{micro.name}, ")) for p in problems)
        self.directory.settle()
        return list(left_out)

    def has_beaten(self, instance: Instance) -> bool:
        """Whether load and lag of that instance are known."""
        return (instance.service, instance.id) in self._beaten

    def instances(self, target: Target | None = None) -> list[Instance]:
        """The instances of a target, or all of them, by service and id."""
        found = self.watcher.registry.instances(target.service if target else None)
        if target:
            found = [i for i in found if i.id == target.instance] or [
                i for i in found if i.id.startswith(target.instance)
            ]
        return sorted(found, key=lambda i: (i.service, i.id))

    def missing(self, target: Target, others: Iterable[str] = ()) -> Missing:
        """The error for a target that nothing here is."""
        registry = self.watcher.registry
        siblings = [i.id for i in registry.instances(target.service)]
        if siblings and target.instance:
            return Missing(
                f"{target.service} has no instance {target.instance!r}.{nearest(target.instance, siblings)}"
                f" It has {len(siblings)}: see 'mesh ls {target.service}'."
            )
        names = {*registry.services(), *others}
        return Missing(no_service(target.service, names))

    def say_nothing(self) -> None:
        """Say on standard error that there is nobody, where somebody might have been."""
        click.echo(nothing(self.bus.settings.prefix, self.bus.settings.servers), err=True)

    def _note(self, service: str, id: str) -> None:
        instance = self.watcher.registry.get(service, id)
        if instance is not None and instance.seq > instance.announced:
            self._beaten.add((service, id))
        self._heard.set()


# -- texts


def age(started: str) -> float | None:
    """Seconds since an RFC 3339 time, with however many digits; negative in the future, None for anything else."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - moment).total_seconds()


def span(seconds: float | None) -> str:
    """A duration for people: ``4s``, ``3m12s``, ``2h05m``, ``8d4h``."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return "future"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def state_of(instance: Instance) -> str:
    """The state to show: what it declares, and what its silence means."""
    return "suspect" if instance.suspect else instance.state


def number(value: float | None, unit: str = "") -> str:
    """A figure with three digits that matter, ``-`` where there is none."""
    if value is None:
        return "-"
    text = f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return text + unit


def as_list(values: Iterable[str]) -> str:
    return ", ".join(values) or "-"


def plain(value: Any) -> Any:
    """Any value as JSON-ready builtins."""
    import msgspec

    return msgspec.to_builtins(value)
