"""`mesh doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

import click

from mesh.cli.bus_command import HELP
from mesh.cli.texts import counted

if TYPE_CHECKING:
    from mesh.cli.doctor.findings import Finding
    from mesh.settings import BusSettings

MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
OBSERVE_S: Final = 4.0
"""Seconds for which heartbeats are waited for: two of the usual intervals."""


@click.command("doctor", context_settings=HELP)
@click.option(
    "--for",
    "observe",
    type=click.FloatRange(0.1, 600),
    default=OBSERVE_S,
    show_default=True,
    metavar="SECONDS",
    help="How long heartbeats are waited for at most.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array of findings.")
def command(observe: float, as_json: bool) -> None:
    """Look for what commonly goes wrong: in NATS, in its permissions, in routes, in instances.

    Changes nothing; its messages go to subjects without subscribers.

    \b
    Examples:
      mesh doctor
      mesh doctor --json | jq '.[] | select(.severity == "fail")'

    Exit codes: 0 when nothing failed (there may be warnings), 1 when something did, 2 for wrong usage, 75 without NATS.
    """
    import asyncio

    from mesh.cli.bus_command import detach, quiet
    from mesh.cli.exit import NO_NATS
    from mesh.cli.load_settings import load
    from mesh.errors import BusUnavailable
    from mesh.settings import BusSettings

    (settings,) = load(BusSettings)
    quiet()
    logging.getLogger("mesh.bus").setLevel(logging.CRITICAL)  # its complaints become findings
    code = NO_NATS
    try:
        try:
            findings = asyncio.run(_examine(settings, observe))
            code = 1 if any(f.severity == "fail" for f in findings) else 0
        except BusUnavailable as error:
            from mesh.cli.doctor.findings import fail

            findings = [fail("nats", error.detail, getattr(error, "hint", ""))]
        _print(findings, as_json)
    except BrokenPipeError:
        detach()
    sys.exit(code)


async def _examine(settings: BusSettings, observe: float) -> list[Finding]:
    import asyncio

    from mesh.cli.bus_command import connecting
    from mesh.cli.doctor import bus_checks, mesh_checks
    from mesh.cli.doctor.findings import ok
    from mesh.cli.doctor.witness import Witness
    from mesh.cli.routes import observe_gateway
    from mesh.foreign.survey import survey
    from mesh.messages import BadMessage, decode
    from mesh.settings_reader import redact

    complaints = Complaints()
    logger = logging.getLogger("mesh.watcher")
    logger.addHandler(complaints)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    async with connecting(settings, bus_checks.ProbingBus) as bus:
        where = redact(", ".join(settings.servers))
        findings = [ok("nats", f"connected to {where}, prefix {bus.subjects.prefix!r}")]
        witness = Witness()

        def hear(subject: bytes, reply: bytes, block: bytes, payload: bytes) -> None:
            party = bus.subjects.party(subject)
            if party is not None:
                try:
                    witness.hear(decode(payload, *party))
                except BadMessage:
                    pass  # the watcher counts those

        for subject in (bus.subjects.announce_all, bus.subjects.heartbeat_all):
            await bus.subscribe(subject, hear)
        async with observe_gateway(bus) as observer:
            findings += await bus_checks.examine(bus)
            _, micros = await asyncio.gather(observer.synchronise(), survey(bus, "PING"))
            await observer.wait_heartbeats(observe)
            findings += mesh_checks.examine(mesh_checks.Observations(observer, micros, complaints.lines, witness))
    return findings


class Complaints(logging.Handler):
    """Keeps the last log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines = [*self.lines[-9:], record.getMessage()]


def _print(findings: list[Finding], as_json: bool) -> None:
    from mesh.cli.terminal import Terminal, clean

    terminal = Terminal()
    if as_json:
        terminal.json(findings)
        return
    width = max(len(f.check) for f in findings)
    for finding in findings:
        mark, colour = MARKS[finding.severity]
        terminal.line(f"{terminal.paint(mark, colour)}  {finding.check:<{width}}  {clean(finding.seen)}")
        if finding.todo:
            terminal.line(f"{'':<{width + 6}}  -> {clean(finding.todo)}")
    counts = {severity: sum(f.severity == severity for f in findings) for severity in MARKS}
    click.echo(f"{counts['ok']} ok, {counted(counts['warn'], 'warning')}, {counts['fail']} failed", err=True)
