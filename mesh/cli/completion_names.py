"""Names of live services, instances and endpoints for the shell's completion: asked for quickly, silent on failure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from mesh.foreign.survey import MicroInstance

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
CONNECT_S: Final = 0.5
"""Seconds for the connection to NATS: a person has pressed Tab and waits."""
TOTAL_S: Final = 1.5
"""Seconds after which there is no completion."""
FIRST_S: Final = 0.3
"""Seconds that the first answer may take."""
QUIET_S: Final = 0.08
"""Seconds without another answer after which no more are waited for."""


def services(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of services; after the name of one and a dot, its instances."""
    service, dot, _ = incomplete.partition(".")
    if dot:
        return _matching({f"{m.name}.{m.id}" for m in _asked("PING", service)}, incomplete)
    return _matching({"gateway", *(m.name for m in _asked("PING"))}, incomplete)


def services_and_methods(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of services, and HTTP methods: the first argument of `mesh call`."""
    if incomplete and incomplete.isupper() and (methods := _matching(METHODS, incomplete)):
        return methods
    return _matching({m.name for m in _asked("PING")}, incomplete) or _matching(METHODS, incomplete)


def endpoints(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Endpoints of the service in the argument before."""
    service = ctx.params.get("what") or ""
    if not service or service in METHODS:
        return []
    return _matching({e.name for m in _asked("INFO", service) for e in m.endpoints}, incomplete)


def _matching(names: Iterable[str], incomplete: str) -> list[str]:
    # A name that a shell would read as several words, or as a command, must not be completed.
    sound = (name for name in names if all(c.isalnum() or c in "._-" for c in name))
    return sorted(name for name in sound if name.startswith(incomplete))


def _asked(verb: str, service: str = "") -> list[MicroInstance]:
    """The instances that answer ``$SRV.<verb>``, of the mesh and foreign ones; none if anything fails."""
    import os
    from dataclasses import replace

    from mesh.bus import Bus
    from mesh.foreign.survey import survey
    from mesh.settings import BusSettings, find_file, load_all

    logging.disable()  # nothing may be printed into the line that a person types

    async def ask() -> list[MicroInstance]:
        (settings,) = load_all(BusSettings, environ=os.environ, file=find_file(os.environ))
        async with asyncio.timeout(TOTAL_S):
            async with Bus(replace(settings, connect_timeout_s=CONNECT_S)) as bus:
                # Instances of one service have the same endpoints: the first answer will do.
                enough = (lambda found: True) if verb == "INFO" else None
                return await survey(bus, verb, service, first=FIRST_S, quiet=QUIET_S, complete=enough)

    try:
        return asyncio.run(ask())
    except Exception:  # no NATS, wrong settings: there is nothing to offer
        return []
