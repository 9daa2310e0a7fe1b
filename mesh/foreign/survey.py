"""Asks NATS micro services (NATS ADR-32) through ``$SRV``: those of the mesh and foreign ones alike.

Clients differ in the fields that they leave out and in their formats of numbers and times. So replies are read
leniently: an instance with a name and an id is listed, and a field of another type than expected counts as missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mesh.codec import decode_or_none
from mesh.headers import says_no_responders

if TYPE_CHECKING:
    from mesh.bus import Bus

QUIET_S: Final = 0.15
"""Seconds without another answer after which a survey ends: answers come within milliseconds of each other."""
FIRST_S: Final = 0.5
"""Seconds that the first answer may take."""
LONGEST_S: Final = 3.0
"""Seconds after `FIRST_S` at which a survey ends, even if answers still come."""
MAX_INSTANCES: Final = 16_384
"""Instances that a survey lists at most; more answers end it."""
PREFIX: Final = "mesh.prefix"
"""The metadata key of every instance of a mesh: the prefix of its subjects."""
CONTRADICTED: Final = "mesh.contradicted"
"""The metadata key for the number of messages that others published in an instance's name; absent if there are none."""
_ANY = msgspec.json.Decoder()
_LARGEST = 1e18
"""The largest figure that counts: 30 years in nanoseconds, and an integer in every implementation of JSON."""


@dataclass(slots=True)
class MicroEndpoint:
    """One endpoint, as INFO or STATS describes it; times in milliseconds."""

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
    """The answer of one instance. ``elapsed_ms`` is how long it took."""

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
        """True if it is not an instance of any mesh."""
        return PREFIX not in self.metadata

    def kind(self, prefix: str) -> str:
        """Empty for an instance of the mesh with that prefix, else a name for what it is."""
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
    """The answers to ``$SRV.<verb>``, sorted by name and id.

    verb: PING, INFO or STATS
    service: ask this one only; empty asks all
    first: seconds without any answer after which the survey ends
    quiet: seconds after the last answer at which it ends
    complete: called with the answers so far; True ends the survey

    Ends at once if NATS has no responders, and in any case after ``first`` + `LONGEST_S`.
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
            if says_no_responders(reply.block, reply.payload):
                break
            micro = read(reply.payload)
            if micro is None:
                continue
            micro.elapsed_ms = (time.perf_counter() - began) * 1000
            found.setdefault((micro.name, micro.id), micro)
            until = min(latest, loop.time() + quiet)
            if len(found) >= MAX_INSTANCES or (complete is not None and complete(list(found.values()))):
                break
    return [found[key] for key in sorted(found)]


def read(payload: bytes) -> MicroInstance | None:
    """The instance in a PING, INFO or STATS response; None if it has no name and id."""
    document = decode_or_none(_ANY, payload)
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
    """``value`` if it is a number that can be shown and calculated with. JSON has numbers beyond any float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= _LARGEST else None
