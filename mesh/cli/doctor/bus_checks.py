"""Checks of NATS itself. Each one tries what it checks, and does not only read about it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final

from mesh.bus import Bus
from mesh.cli.doctor.findings import Finding, fail, ok, warn
from mesh.errors import DeadlineExceeded, Forbidden, MeshError, NoResponders
from mesh.subjects import new_id

OLDEST: Final = (2, 10)
"""The oldest nats-server that the mesh is meant for, as docs/guide/running.md says."""
SLOW_MS: Final = 50.0
"""Milliseconds of a round trip from which calls are noticeably slower."""
PINGS: Final = 5
TRY_TIMEOUT_S: Final = 1.0
"""Seconds that one try may take."""
PERMISSION_DELAY_S: Final = 0.1
"""Seconds after the answer to a flush within which the client reports that a permission is missing."""
USUAL_PAYLOAD: Final = 1024 * 1024
"""Bytes of a message at most, by the server's default."""
LARGE_PAYLOAD: Final = 8 * 1024 * 1024
"""Bytes of a message at most, as NATS advises."""


class ProbingBus(Bus):
    """A bus that remembers what NATS's permissions refused: ``(verb, subject)``, the subject in lower case."""

    def refused(self, verb: str, subject: str) -> None:
        if not hasattr(self, "forbidden"):
            self.forbidden: list[tuple[str, str]] = []
        self.forbidden.append((verb, subject))
        super().refused(verb, subject)


Check = Callable[[ProbingBus], Awaitable[list[Finding]]]


async def version(bus: ProbingBus) -> list[Finding]:
    """The server is one that the mesh is tested with."""
    text = str(bus.server.get("version", ""))
    found = re.match(r"(\d+)\.(\d+)", text)
    seen = f"nats-server {text or 'of an unknown version'}"
    if not found:
        return [warn("nats version", seen, "make sure that it is 2.10 or later")]
    if (int(found[1]), int(found[2])) < OLDEST:
        todo = "upgrade it to 2.10 or later: older ones get no security fixes, and the mesh is not tested with them"
        return [warn("nats version", seen, todo)]
    return [ok("nats version", seen)]


async def round_trip(bus: ProbingBus) -> list[Finding]:
    """A message to ourselves comes back quickly."""
    times = []
    for _ in range(PINGS):
        began = time.perf_counter()
        try:
            await bus.flush(TRY_TIMEOUT_S)
        except DeadlineExceeded:
            return [
                fail("round trip", f"more than {TRY_TIMEOUT_S:g} s", "look at the load of NATS and of this machine")
            ]
        times.append((time.perf_counter() - began) * 1000)
    seen = f"{min(times):.2f} ms at best, {max(times):.2f} ms at worst of {PINGS}"
    if min(times) > SLOW_MS:
        return [warn("round trip", seen, "every call pays it twice: run NATS closer to the services")]
    return [ok("round trip", seen)]


async def jetstream(bus: ProbingBus) -> list[Finding]:
    """Only durable events need it."""
    if bus.server.get("jetstream"):
        return [ok("jetstream", "on")]
    return [ok("jetstream", "off", "durable events need it: start nats-server with -js")]


async def max_payload(bus: ProbingBus) -> list[Finding]:
    """How large a body may be."""
    size = bus.max_payload
    seen = f"{size} bytes for headers and body of one message"
    if size < USUAL_PAYLOAD:
        todo = (
            "larger bodies go in pieces, which takes longer; headers, announcements and events that are larger are"
            " refused: raise max_payload on the server"
        )
        return [warn("max_payload", seen, todo)]
    if size > LARGE_PAYLOAD:
        return [warn("max_payload", seen, "large messages delay small ones: NATS advises at most 8 MiB")]
    return [ok("max_payload", seen)]


async def permissions(bus: ProbingBus) -> list[Finding]:
    """These credentials may subscribe and publish as a member of the mesh needs to.

    It is tried on subjects without subscribers, so that no instance is disturbed.
    """
    subjects, nobody = bus.subjects, new_id()
    wanted = [
        subjects.announce_all,
        subjects.heartbeat_all,
        subjects.discover(),
        subjects.request(nobody, nobody),
        subjects.to(nobody, nobody, "*"),
        subjects.control("*", nobody),
        "$SRV.PING." + nobody,
    ]
    said = [
        subjects.discover(nobody),
        subjects.request(nobody, nobody),
        subjects.to(nobody, nobody, nobody),
        subjects.control("cancel", nobody),
        subjects.event(f"doctor-{nobody}"),
        "$SRV.PING." + nobody,
    ]
    subscriptions = [await bus.subscribe(subject, lambda *message: None) for subject in wanted]
    for subject in said:
        bus.publish(bus.address(subject), b"")
    try:
        await bus.flush()
    finally:
        await bus.unsubscribe(*subscriptions)
    await asyncio.sleep(PERMISSION_DELAY_S)  # there is no event for a refusal that does not come
    forbidden: list[tuple[str, str]] = getattr(bus, "forbidden", [])
    if not forbidden:
        return [ok("permissions", f"{len(wanted)} subscriptions and {len(said)} publications were allowed")]
    names = {subject.lower(): subject for subject in (*wanted, *said)}
    return [
        fail(
            "permissions",
            f"{'publishing to' if verb == 'publish' else 'subscribing to'} {names.get(subject, subject)} is forbidden",
            "allow it for these credentials; a member of the mesh needs it",
        )
        for verb, subject in dict.fromkeys(forbidden)
    ]


async def wildcards(bus: ProbingBus) -> list[Finding]:
    """NATS reports no responders at once for a subject without subscribers. A wildcard subscription prevents that."""
    subjects, nobody = bus.subjects, new_id()
    findings = []
    for subject, pattern in (
        (subjects.request(nobody, nobody), subjects.request("*", "*")),
        (subjects.to(nobody, nobody, nobody), subjects.to("*", "*", "*")),
    ):
        find = f"find it with 'nats server report connections --subscriptions', looking for > or {subjects.prefix}.>"
        harm = "every caller waits for its whole timeout where nobody is listening"
        began = time.perf_counter()
        try:
            reply = await bus.request(bus.address(subject), b"", timeout=TRY_TIMEOUT_S, lenient=True)
        except NoResponders:
            elapsed = (time.perf_counter() - began) * 1000
            findings.append(ok("wildcards", f"a request to nobody on {pattern} failed within {elapsed:.1f} ms"))
        except DeadlineExceeded:
            findings.append(fail("wildcards", f"somebody subscribes to {pattern} with a wildcard; {harm}", find))
        except Forbidden:
            pass  # the check of permissions says so
        else:
            stream = re.search(rb'"stream"\s*:\s*"([^"]{1,255})"', reply.payload)
            if stream:
                name = stream[1].decode("utf-8", "replace")
                seen = f"the JetStream stream {name!r} lies over {pattern} and acknowledges requests to nobody"
                findings.append(fail("wildcards", seen, f"take {subjects.prefix}.> out of its subjects"))
            else:
                findings.append(fail("wildcards", f"somebody answers for everybody on {pattern}", find))
    return findings


CHECKS: tuple[Check, ...] = (version, round_trip, jetstream, max_payload, permissions, wildcards)


async def examine(bus: ProbingBus) -> list[Finding]:
    """The findings of all checks. A check that fails with an error is a finding too."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += await check(bus)
        except MeshError as error:
            findings.append(
                fail(check.__name__.replace("_", " "), error.detail, "try again; if it stays, see NATS's log")
            )
    return findings
