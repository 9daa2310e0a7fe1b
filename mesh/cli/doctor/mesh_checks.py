"""Checks of the mesh, on what a watcher has learned: no check waits for anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from mesh.cli.doctor.findings import Finding, fail, ok, some, warn
from mesh.cli.doctor.witness import Witness
from mesh.cli.formatting import age, state_of
from mesh.cli.mesh_observer import MeshObserver
from mesh.conflict_texts import advice, sentence
from mesh.foreign.survey import CONTRADICTED, PREFIX, MicroInstance
from mesh.registry import Instance
from mesh.subjects import GATEWAY

LAG_MS: Final = 100
"""Milliseconds that an event loop may be late: a person notices more."""
AHEAD_S: Final = 5.0
"""Seconds that the clock of another machine may be ahead."""


class Observations(NamedTuple):
    """What the checks look at.

    complaints: log lines about messages that were refused
    witness: has heard the announcements and heartbeats that the watcher heard
    """

    observer: MeshObserver
    micros: list[MicroInstance]
    complaints: list[str]
    witness: Witness


def members(mesh: Observations) -> list[Finding]:
    """There are instances, and gateways among them."""
    registry = mesh.observer.watcher.registry
    services = [name for name in registry.services() if name != GATEWAY]
    gateways = registry.instances(GATEWAY)
    findings = []
    if services:
        count = sum(len(registry.instances(name)) for name in services)
        findings.append(ok("services", f"{count} instances of {len(services)} services: {some(services)}"))
    else:
        todo = f"start one with 'mesh run'; is the prefix {mesh.observer.bus.subjects.prefix!r} the right one?"
        findings.append(warn("services", "none has announced itself", todo))
    ready = [g for g in gateways if g.ready]
    if ready:
        findings.append(ok("gateways", f"{len(ready)} ready"))
    elif gateways:
        findings.append(warn("gateways", f"{len(gateways)}, and none is ready", "see their /readyz and their log"))
    else:
        findings.append(warn("gateways", "none has announced itself", "HTTP clients need one: 'mesh gateway'"))
    return findings


def states(mesh: Observations) -> list[Finding]:
    """All instances are ready and are heard."""
    observer = mesh.observer
    if observer.watcher.stale:
        return [fail("states", "no news from NATS: what is known is stale", "look at the connection to NATS")]
    findings = []
    silent = [str(i.service + "." + i.id) for i in observer.instances() if i.suspect or not observer.has_load(i)]
    others = [
        f"{i.service}.{i.id} ({state_of(i)})" for i in observer.instances() if i.state != "ready" and not i.suspect
    ]
    strangers = [f"{service}.{id}" for service, id in observer.watcher.registry.unknown()]
    if silent:
        findings.append(warn("states", f"no heartbeat from {some(silent)}", "frozen, overloaded or beating slowly"))
    if others:
        findings.append(warn("states", f"not ready: {some(others)}", "they get no calls; see their readiness checks"))
    if strangers:
        findings.append(warn("states", f"beats without announcing itself: {some(strangers)}", "see its log"))
    return findings or [ok("states", "all are ready and beating")]


def announced(mesh: Observations) -> list[Finding]:
    """Instances of this mesh that answer ``$SRV.PING`` have announced themselves too."""
    observer = mesh.observer
    prefix = observer.bus.subjects.prefix
    known = {(i.service, i.id) for i in observer.instances()}
    absent = [
        f"{m.name}.{m.id}" for m in mesh.micros if m.metadata.get(PREFIX) == prefix and (m.name, m.id) not in known
    ]
    if absent:
        return [warn("announcements", f"answers $SRV.PING, has not announced itself: {some(absent)}", "see its log")]
    return []


def conflicts(mesh: Observations) -> list[Finding]:
    """No route is claimed twice."""
    found = [warn("routes", sentence(conflict), advice(conflict)) for conflict in mesh.observer.routes.conflicts]
    return found or [ok("routes", f"{len(mesh.observer.routes)} routes, no conflict")]


def rejected(mesh: Observations) -> list[Finding]:
    """Every announced route can be one."""
    return [
        fail("routes", f"{r.method} {r.path} of {r.service} serves nothing: {r.why}", "correct it in the service")
        for r in mesh.observer.routes.rejected
    ]


def revisions(mesh: Observations) -> list[Finding]:
    """One revision of a service stands for one content."""
    found: dict[tuple[str, str], list[Instance]] = {}
    for instance in mesh.observer.watcher.registry.instances():
        found.setdefault((instance.service, instance.content.announced_revision), []).append(instance)
    return [
        fail(
            "revisions",
            f"one revision, and other endpoints or routes: {some([f'{i.service}.{i.id}' for i in instances])}",
            "an error in how one of them makes its revision, or forgery; see 'mesh info'",
        )
        for instances in found.values()
        if len({instance.revision for instance in instances}) > 1
    ]


def versions(mesh: Observations) -> list[Finding]:
    """One version of each service, except while it is being replaced."""
    registry = mesh.observer.watcher.registry
    findings = []
    for service in registry.services():
        found = sorted({i.version for i in registry.instances(service)})
        if len(found) > 1:
            seen = f"{service} runs side by side in {', '.join(found)}"
            findings.append(warn("versions", seen, f"as it should during a rollout; else 'mesh drain {service}.ID'"))
    return findings or [ok("versions", "one of each service")]


def lag(mesh: Observations) -> list[Finding]:
    """Event loops run on time."""
    late = [f"{i.service}.{i.id} ({i.lag_ms} ms)" for i in mesh.observer.instances() if i.lag_ms >= LAG_MS]
    if late:
        return [
            warn("lag", f"event loops are late: {some(late)}", "something blocks them: plain def handlers get a thread")
        ]
    return [ok("lag", f"every event loop is less than {LAG_MS} ms late")]


def clocks(mesh: Observations) -> list[Finding]:
    """No instance started in the future: that does not harm the mesh, but logs and tokens."""
    ahead = []
    for instance in mesh.observer.instances():
        seconds = age(instance.started)
        if seconds is not None and seconds < -AHEAD_S:
            ahead.append(f"{instance.service}.{instance.id} (by {-seconds:.0f} s)")
    if ahead:
        return [warn("clocks", f"started in the future: {some(ahead)}", "synchronise that clock, or this one")]
    return [ok("clocks", "nobody started in the future")]


def breakers(mesh: Observations) -> list[Finding]:
    """Every announcement and heartbeat follows the protocol."""
    count = mesh.observer.watcher.refused
    if not count:
        return [ok("protocol", "every message was understood")]
    example = f"; the last one told: {mesh.complaints[-1]}" if mesh.complaints else ""
    return [warn("protocol", f"{count} messages were refused{example}", "correct or stop who sends them")]


def senders(mesh: Observations) -> list[Finding]:
    """No other process speaks in the name of an instance."""
    todo = "two processes with one id, or forgery: let NATS permissions allow everybody its own subjects only"
    findings = [
        fail("senders", f"{party.service}.{party.instance} contradicts itself: {what}", todo)
        for party, what in sorted(mesh.witness.found.items())[:20]
    ]
    prefix = mesh.observer.bus.subjects.prefix
    told = {
        f"{m.name}.{m.id}": m.metadata[CONTRADICTED]
        for m in mesh.micros
        if m.metadata.get(PREFIX) == prefix and CONTRADICTED in m.metadata
    }
    if told:
        who = some([f"{name} ({count[:20]})" for name, count in told.items()])
        findings.append(warn("senders", f"heard messages of somebody else in their own name: {who}", todo))
    return findings or [ok("senders", "every instance speaks for itself")]


CHECKS: tuple[Callable[[Observations], Iterable[Finding]], ...] = (
    members,
    states,
    announced,
    conflicts,
    rejected,
    revisions,
    versions,
    lag,
    clocks,
    senders,
    breakers,
)


def examine(mesh: Observations) -> list[Finding]:
    """The findings of all checks."""
    return [finding for check in CHECKS for finding in check(mesh)]
