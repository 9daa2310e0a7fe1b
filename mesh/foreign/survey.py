"""Asks NATS micro services (ADR-32) through ``$SRV``, those of the mesh and foreign ones alike.

Clients differ in what they leave out and in their number and time formats, so replies are read leniently: whoever
has a name and an id is listed, and a field of another type than expected counts as missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.headers import NO_RESPONDERS

if TYPE_CHECKING:
    from mesh.bus import Bus

QUIET_S = 0.15
"""A survey is over when nobody has answered for so long; the answers come within milliseconds of each other."""
FIRST_S = 0.5
"""How long the first answer may take."""
LONGEST_S = 3.0
"""A survey is over so long after the first answer was due at the latest, whoever goes on answering."""
MOST = 16_384
"""Instances that a survey lists at most; more answers end it."""
_LARGEST = 1e18
"""No figure counts above it: 30 years in nanoseconds, and an integer everywhere."""
PREFIX = "mesh.prefix"
"""The metadata key with which an instance of a mesh says so."""
CONTRADICTED = "mesh.contradicted"
"""The one with which it says how many messages somebody else has published in its name; only where there are any."""


@dataclass(slots=True)
class MicroEndpoint:
    """One endpoint, as INFO or STATS describe it; times in milliseconds."""

    name: str
    subject: str = ""
    queue_group: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    errors: int = 0
    last_error: str = ""
    average_ms: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(slots=True)
class MicroInstance:
    """One instance's answer. ``elapsed_ms`` is the time it took."""

    name: str
    id: str
    version: str = ""
    description: str = ""
    started: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    endpoints: list[MicroEndpoint] = field(default_factory=list)
    elapsed_ms: float = 0.0

    @property
    def foreign(self) -> bool:
        """Whether it is an instance of no mesh."""
        return PREFIX not in self.metadata

    def kind(self, prefix: str) -> str:
        """Empty for an instance of the mesh with that prefix, else what to call it."""
        other = self.metadata.get(PREFIX)
        if other == prefix:
            return ""
        return f"nats micro (mesh {other})" if other else "nats micro"


async def survey(
    bus: Bus,
    verb: str,
    service: str = "",
    *,
    first: float = FIRST_S,
    quiet: float = QUIET_S,
    complete: Callable[[list[MicroInstance]], bool] | None = None,
) -> list[MicroInstance]:
    """The answers to ``$SRV.<verb>`` of one service or of all, by name and id.

    Ends when ``complete`` says so of what has come, when nobody listens, after ``first`` seconds without any
    answer, ``quiet`` seconds after the last one, and in any case after ``first`` + `LONGEST_S`.
    """
    subject = ".".join(filter(None, ("$SRV", verb, service)))
    found: dict[tuple[str, str], MicroInstance] = {}
    loop = asyncio.get_running_loop()
    until = loop.time() + first
    latest = until + LONGEST_S
    began = time.perf_counter()
    async with bus.gather(bus.address(subject), b"") as replies:
        while True:
            try:
                async with asyncio.timeout_at(until):
                    reply = await replies.get()
            except TimeoutError:
                break
            if not reply.payload and reply.block.startswith(NO_RESPONDERS):
                break
            micro = read(reply.payload)
            if micro is None:
                continue
            micro.elapsed_ms = (time.perf_counter() - began) * 1000
            found.setdefault((micro.name, micro.id), micro)
            until = min(latest, loop.time() + quiet)
            if len(found) >= MOST or (complete is not None and complete(list(found.values()))):
                break
    return [found[key] for key in sorted(found)]


def read(payload: bytes) -> MicroInstance | None:
    """A PING, INFO or STATS response, as far as it can be understood; None where it names nobody."""
    try:
        document = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    name, id = document.get("name"), document.get("id")
    if not isinstance(name, str) or not isinstance(id, str) or not name or not id:
        return None
    endpoints = document.get("endpoints")
    return MicroInstance(
        name=name,
        id=id,
        version=_text(document.get("version")),
        description=_text(document.get("description")),
        started=_text(document.get("started")),
        metadata=_texts(document.get("metadata")),
        endpoints=[_endpoint(e) for e in endpoints if isinstance(e, dict)] if isinstance(endpoints, list) else [],
    )


def _endpoint(document: dict[str, Any]) -> MicroEndpoint:
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    return MicroEndpoint(
        name=_text(document.get("name")),
        subject=_text(document.get("subject")),
        queue_group=_text(document.get("queue_group")),
        metadata=_texts(document.get("metadata")),
        requests=int(_number(document.get("num_requests")) or 0),
        errors=int(_number(document.get("num_errors")) or 0),
        last_error=_text(document.get("last_error")),
        average_ms=(_number(document.get("average_processing_time")) or 0) / 1e6,
        p50_ms=_number(data.get("p50_ms")),
        p99_ms=_number(data.get("p99_ms")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> dict[str, str]:
    return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    """A number that can be shown and calculated with; JSON has ones that are beyond any float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= _LARGEST else None
