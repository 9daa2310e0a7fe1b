"""`mesh drain`: tell instances to stop without losing a request, and wait until they have."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

import click

from mesh.cli.bus_command import HELP, Missing, execute
from mesh.cli.completion_names import services
from mesh.cli.mesh_observer import InstanceSelector, MeshObserver, parse_selector
from mesh.cli.terminal import clean
from mesh.cli.texts import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh.bus import Bus
    from mesh.registry import Change

WAIT_S: Final = 60.0
"""Seconds to wait: more than the 25 s that a service gives its handlers by default."""


@click.command("drain", context_settings=HELP)
@click.argument("selector", metavar="SERVICE[.INSTANCE]", shell_complete=services)
@click.option("--no-wait", is_flag=True, help="Do not wait until they have left.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before every instance of a service is drained.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=WAIT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: drained, remaining.")
def command(selector: str, no_wait: bool, yes: bool, timeout: float, as_json: bool) -> None:
    """Drain one instance, or all instances of a service: no new work, the rest is finished, then they exit.

    Before all instances of a service are drained it asks; without a terminal to ask at it wants --yes.
    Progress goes to standard error. INSTANCE may be shortened as long as one instance alone begins so.

    \b
    Examples:
      mesh drain users.7K2
      mesh drain users --yes
      mesh drain gateway --yes --no-wait

    Exit codes: 0, 1 when the name is unknown or an instance has not left, 2 for wrong usage, 75 without NATS.
    """
    wanted = parse_selector(selector)
    execute(lambda bus: _drain(bus, wanted, no_wait, yes, timeout, as_json))


async def _drain(bus: Bus, selector: InstanceSelector, no_wait: bool, yes: bool, timeout: float, as_json: bool) -> int:
    from mesh.cli.terminal import Terminal

    async with MeshObserver(bus) as observer:
        await observer.synchronise()
        instances = observer.instances(selector)
        if not instances:
            raise observer.missing(selector)
        if selector.instance and len(instances) > 1:
            raise Missing(f"{selector} is the beginning of {len(instances)} ids: {', '.join(i.id for i in instances)}")
        if not selector.instance and not yes:
            all_of_them = counted(len(instances), "instance")
            if sys.stdin is None or not sys.stdin.isatty():
                raise click.UsageError(
                    f"this drains {all_of_them} of {selector.service} and cannot ask first: give --yes"
                )
            if not await confirmed(f"Drain {all_of_them} of {selector.service}?"):
                click.echo("nothing was drained", err=True)
                return 1
            instances = observer.instances(selector)  # some may have come or gone meanwhile
        leaving = {i.id for i in instances}
        waiting = DrainProgress(selector.service, leaving)
        observer.watcher.on_change(waiting.changed)
        subject = bus.subjects.control("drain", selector.service, instances[0].id if selector.instance else "")
        bus.publish(bus.address(subject), b"")
        await bus.flush()
        if not no_wait:
            await waiting.over(timeout)
    if as_json:
        Terminal().json({"drained": sorted(waiting.left), "lost": sorted(waiting.lost), "remaining": sorted(leaving)})
    if no_wait:
        return 0
    if leaving:
        names = ", ".join(sorted(leaving))
        click.echo(f"error: {selector.service} still has {names} after {timeout:g} s", err=True)
    return 1 if leaving or waiting.lost else 0


async def confirmed(question: str) -> bool:
    """True if the person at the terminal says yes. The connection stays alive meanwhile, and Ctrl-C works."""
    click.echo(f"{question} [y/N]: ", nl=False, err=True)
    loop, typed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), typed.set)
    try:
        await typed.wait()  # a terminal is readable when a whole line is there
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline().strip().lower() in ("y", "yes")


class DrainProgress:
    """Follows instances until they have left, and prints how far they are.

    remaining: their ids; it shrinks as they leave
    """

    def __init__(self, service: str, remaining: set[str]) -> None:
        self.remaining = remaining
        self.left: set[str] = set()
        self.lost: set[str] = set()
        self._service = service
        self._gone = asyncio.Event()

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.service != self._service or change.instance not in self.remaining:
                continue
            name = f"{change.service}.{change.instance}"
            if change.kind in ("left", "lost"):
                self.remaining.discard(change.instance)
                (self.left if change.kind == "left" else self.lost).add(change.instance)
                how = "has left" if change.kind == "left" else "was lost before it had drained"
                click.echo(f"{name} {how}; {len(self.remaining)} to go", err=True)
            elif change.kind == "state":
                click.echo(clean(f"{name} is {change.state}"), err=True)
        if not self.remaining:
            self._gone.set()

    async def over(self, timeout: float) -> None:
        """Return when all have left, or after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._gone.wait()
        except TimeoutError:
            pass
