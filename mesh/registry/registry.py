"""The registry: messages and the passing of time go in, changes and discover requests come out.

The rules of wire protocol 1:

- Content is ordered by ``seq`` among announcements, state and load by ``seq`` among all messages. So a late
  announcement may still bring content, but only a message above the highest ``seq`` shows that the instance lives.
- A heartbeat with a revision that the registry does not have makes it ask that one instance, until it has it.
- A ``seq`` that leaps ahead is not believed: no later message of the instance could be above it.
- Silence makes an instance suspect, then lost. A lost one leaves a tombstone with its ``seq``: only a message above it
  brings the instance back.
- ``stopped`` ends an instance whatever its ``seq`` and whenever it arrives: a forged message with a higher ``seq`` must
  not hide it. It leaves a tombstone with the highest ``seq`` seen. An instance that stopped never says more. So if more
  is heard, ``stopped`` was forged, and the instance is taken in again.
- A foreign service never has the name of a service of the mesh: not while an instance of that lives, and not for as
  long as a tombstone would remember one. Foreign ones end when an instance of the mesh with their name joins.

Times are liveness time in seconds (`mesh.registry.Liveness`) and never go back.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from typing import Final

from mesh.defaults import LOST_AFTER, SUSPECT_AFTER
from mesh.messages import MAX_HEARTBEAT_MS, MAX_LEAP, Announcement, Control, Heartbeat, Route, State
from mesh.registry.awaited_announcements import AwaitedAnnouncement
from mesh.registry.content_pool import is_same
from mesh.registry.instance_records import (
    AlteredRoute,
    AnnouncedContent,
    Change,
    ChangeKind,
    DiscoverRequest,
    Instance,
    claim_times_of,
    compare_routes,
)
from mesh.registry.instance_table import InstanceTable
from mesh.registry.tombstones import TOMBSTONE_S, InstanceKey, Tombstones

MAX_UNKNOWN: Final = 16_384
"""Unknown instances that are asked to announce themselves at the same time: a bound for the memory of forged ids."""
MAX_TOMBSTONES: Final = 131_072
"""Instances that are remembered after their end: a bound for the memory of forged ids."""
FORGET_S: Final = LOST_AFTER * MAX_HEARTBEAT_MS / 1000
"""Seconds of silence after which an instance that never announced is forgotten: no heartbeat interval is longer."""

FOREIGN: Final = "NATS micro service"
NOT_STOPPED: Final = "it lives, though a message in its name said that it had stopped"

Effects = list[Change | DiscoverRequest]
"""What follows from a message or from silence, in the order in which it happened."""


class Registry(InstanceTable):
    """The instances that one receiver knows.

    max_unknown: unknown instances that are asked at the same time; one more is asked as soon as there is room
    tombstone_s: seconds for which an instance that has gone is remembered
    rng: spreads requests that are sent again
    max_tombstones: instances that are remembered at most

    Not thread-safe. Nothing here blocks, or raises for any decoded message.
    """

    def __init__(
        self,
        max_unknown: int = MAX_UNKNOWN,
        tombstone_s: float = TOMBSTONE_S,
        rng: random.Random | None = None,
        *,
        max_tombstones: int = MAX_TOMBSTONES,
    ) -> None:
        super().__init__()
        self._max_unknown = max_unknown
        self._rng = rng or random.Random()
        self._unknown: dict[InstanceKey, AwaitedAnnouncement] = {}
        self._tombstones = Tombstones(tombstone_s, max_tombstones)
        self._native = Tombstones(tombstone_s, max_tombstones)
        """Services of the mesh whose last instance ended within ``tombstone_s``, as ``(service, "")``."""
        # Checks to make, soonest first. A heartbeat does not move the check of its instance: the check finds that it
        # is too early and moves itself. An element counts only while its item still has that time as ``due``.
        self._checks: list[tuple[float, int, Instance | AwaitedAnnouncement]] = []
        self._serial = 0
        self._late = self._duplicate = self._final = self._asks = self._refused = 0
        self._contradicted = self._leaps = 0

    # -- facts

    def unknown(self) -> list[InstanceKey]:
        """Service and id of instances whose heartbeats were heard, but no announcement yet."""
        return list(self._unknown)

    @property
    def counters(self) -> dict[str, int]:
        """Totals since the start: dropped messages by cause, requests sent and refused, clashes of revisions."""
        return {
            "late": self._late,
            "duplicate": self._duplicate,
            "leaps": self._leaps,
            "after_stopped": self._final,
            "lived_after_stopped": self._contradicted,
            "revision_clashes": self.revision_clashes,
            "asks": self._asks,
            "asks_refused": self._refused,
            "tombstones_evicted": self._tombstones.evicted,
        }

    @property
    def revision_clashes(self) -> int:
        """How often an instance announced a known revision with other endpoints or routes."""
        return self._content_pool.clashes

    def next_due(self) -> float | None:
        """The earliest time at which `expire` can have an effect; None if nothing is waited for."""
        times = [self._checks[0][0]] if self._checks else []
        tombstone = self._tombstones.next_due()
        return min(times, default=tombstone) if tombstone is None else min([*times, tombstone])

    # -- messages

    def apply(self, message: Control, now: float) -> Effects:
        """Take in one decoded message, received at ``now``."""
        if isinstance(message, Heartbeat):
            return self._heartbeat(message, now)
        return self._announcement(message, now)

    def _heartbeat(self, message: Heartbeat, now: float) -> Effects:
        siblings = self._live.get(message.name)
        instance = None if siblings is None else siblings.get(message.id)
        if instance is not None and instance.foreign:
            instance = None  # a foreign service has no heartbeats: this is another instance with its name and id
        if message.state == "stopped":
            return self._stopped(message, instance, now)
        if instance is None:
            return self._unknown_heartbeat(message, now)
        if not 0 < message.seq - instance.seq <= MAX_LEAP:
            self._drop(message.seq - instance.seq)
            return []
        instance.inflight = message.inflight
        instance.capacity = message.capacity
        instance.lag_ms = message.lag_ms
        effects: Effects = []
        self._heard(instance, message, now, effects)
        self._compare(instance, now, effects)
        return effects

    def _unknown_heartbeat(self, message: Heartbeat, now: float) -> Effects:
        key = (message.name, message.id)
        if self._buried(key, message.seq):
            return []
        awaited = self._unknown.get(key)
        if awaited is not None:
            latest = awaited.latest
            if latest is not None and not 0 < message.seq - latest.seq <= MAX_LEAP:
                self._drop(message.seq - latest.seq)
            else:
                awaited.latest = message
                awaited.seen = now
            return []
        if len(self._unknown) >= self._max_unknown:
            self._refused += 1
            return []
        awaited = self._unknown[key] = AwaitedAnnouncement(*key, now, message)
        return [self._ask(awaited, now)]

    def _announcement(self, message: Announcement, now: float) -> Effects:
        instance = self.get(message.name, message.id)
        if instance is not None and instance.foreign:
            instance = None  # a foreign service announces nothing: this is another instance with its name and id
        if message.state == "stopped":
            return self._stopped(message, instance, now)
        if instance is None:
            return self._join(message, now)
        if message.seq <= instance.announced or message.seq - instance.seq > MAX_LEAP:
            self._drop(message.seq - instance.announced)
            return []
        effects: Effects = []
        before, facts = self._renew(instance, message), instance.describe(message)
        instance.announced = message.seq
        instance.connection = message.connection
        if before is not None or facts:
            effects.append(self._content_change(instance, before or instance.content, ", ".join(facts)))
        claimed = claim_times_of(message.claimed, instance.started)
        if claimed != instance.claimed:
            instance.claimed = claimed
            if before is None:
                effects.append(self._change(instance, "claimed"))
        if message.seq > instance.seq:
            self._heard(instance, message, now, effects)
        else:
            self._late += 1  # too late for state and load, but it brought content
        if "heartbeat_ms" in facts:
            _set_intervals(instance)
            self._check(instance, instance.seen + (instance.lost_s if instance.suspect else instance.suspect_s))
        self._compare(instance, now, effects)
        return effects

    def _join(self, message: Announcement, now: float) -> Effects:
        key = (message.name, message.id)
        if self._buried(key, message.seq):
            return []
        effects = self._oust(message.name)
        instance = Instance(message, self._content_pool.take(message), now)
        _set_intervals(instance)
        awaited = self._unknown.pop(key, None)
        instance.awaited = awaited
        if awaited is not None and awaited.latest is not None:
            if 0 < awaited.latest.seq - message.seq <= MAX_LEAP:
                # The heartbeat overtook the announcement: its state is the newer one, and so is its time.
                latest = awaited.latest
                instance.seq, instance.state, instance.told = latest.seq, latest.state, latest.revision
                instance.inflight, instance.capacity, instance.lag_ms = latest.inflight, latest.capacity, latest.lag_ms
                instance.seen = awaited.seen
            awaited.latest = None
        stone = self._tombstones.get(key)
        back = "" if stone is None else NOT_STOPPED if stone.final else "back after it was lost"
        if stone is not None and stone.final:
            self._contradicted += 1
        self._tombstones.remove(key)
        self._add(instance)
        self._check(instance, instance.seen + instance.suspect_s)
        effects.append(
            Change(
                kind="joined",
                service=instance.service,
                instance=instance.id,
                version=instance.version,
                state=instance.state,
                added=instance.routes,
                reason=back,
            )
        )
        self._compare(instance, now, effects)
        return effects

    def _stopped(self, message: Control, instance: Instance | None, now: float) -> Effects:
        key = (message.name, message.id)
        stone = self._tombstones.get(key)
        awaited = self._unknown.pop(key, None)
        known = -1 if stone is None else stone.seq
        if awaited is not None:
            awaited.open = False
            known = known if awaited.latest is None else max(known, awaited.latest.seq)
        if instance is not None:
            known = instance.seq
        seq = _highest(known, message.seq)
        self._tombstones.set(key, seq, final=True, now=now)
        if instance is None:
            self._final += stone is not None and stone.final
            return []
        self._end(instance, now)
        previous, instance.state, instance.seq = instance.state, "stopped", seq
        return [self._change(instance, "left", previous, removed=instance.routes)]

    # -- foreign services

    def adopt(self, message: Announcement, now: float) -> Effects:
        """Take in a foreign micro service, described as if it had announced itself. Silence never ends it.

        If a service of the mesh has that name, nothing happens (`is_native`).
        """
        if self.is_native(message.name):
            return []
        instance = self.get(message.name, message.id)
        if instance is None:
            instance = Instance(message, self._content_pool.take(message), now)
            instance.foreign = True
            self._add(instance)
            return [self._change(instance, "joined", added=instance.routes, reason=FOREIGN)]
        instance.seen = now
        instance.describe(message)
        before = self._renew(instance, message)
        if before is None:
            return []
        return [self._content_change(instance, before, reason=FOREIGN)]

    def dismiss(self, service: str, id: str, reason: str = "answers no more") -> Effects:
        """End a foreign micro service that does not answer any more."""
        instance = self.get(service, id)
        if instance is None or not instance.foreign:
            return []
        self._end(instance)
        return [self._change(instance, "left", removed=instance.routes, reason=reason)]

    def is_native(self, service: str) -> bool:
        """True if a service of the mesh has that name, or had it within ``tombstone_s``: no foreign one may then."""
        siblings = self._live.get(service)
        if siblings is not None:
            return any(not instance.foreign for instance in siblings.values())
        return self._native.get((service, "")) is not None

    def _oust(self, service: str) -> Effects:
        """End the foreign services with a name that an instance of the mesh has now."""
        ids = [i.id for i in self.instances(service) if i.foreign]
        return [change for id in ids for change in self.dismiss(service, id, "a service of the mesh has that name")]

    # -- what messages have in common

    def _buried(self, key: InstanceKey, seq: int) -> bool:
        """True if a tombstone forbids the message, which is then counted as dropped."""
        stone = self._tombstones.get(key)
        if stone is None:
            return False
        if 0 < seq - stone.seq <= MAX_LEAP:
            return False
        if stone.final:
            self._final += 1
        else:
            self._drop(seq - stone.seq)
        return True

    def _drop(self, ahead: int) -> None:
        """Count a dropped message. ``ahead``: its ``seq`` less the highest known one."""
        if ahead == 0:
            self._duplicate += 1
        elif ahead < 0:
            self._late += 1
        else:
            self._leaps += 1

    def _heard(self, instance: Instance, message: Control, now: float, effects: Effects) -> None:
        """Take in a message above the highest ``seq``: the instance lives, and this is its state."""
        instance.seq = message.seq
        instance.seen = now
        instance.told = message.revision
        previous = instance.state
        if instance.suspect:
            instance.suspect = False
            # Its present check is for the loss, which is later than the next suspicion.
            self._check(instance, now + instance.suspect_s)
            effects.append(self._change(instance, "recovered"))
        if previous != message.state:
            instance.state = message.state
            effects.append(self._change(instance, "state", previous))

    def _compare(self, instance: Instance, now: float, effects: Effects) -> None:
        """Ask for an announcement while the newest message has another revision than the last announcement."""
        awaited = instance.awaited
        if instance.told == instance.content.announced_revision:
            if awaited is not None:
                awaited.open = False
                instance.awaited = None
        elif awaited is None:
            awaited = instance.awaited = AwaitedAnnouncement(instance.service, instance.id, now)
            effects.append(self._ask(awaited, now))

    def _renew(self, instance: Instance, message: Announcement) -> AnnouncedContent | None:
        """Give the instance the announced content. Returns the content before, or None if nothing changed."""
        before = instance.content
        if is_same(before, message):
            return None
        # Take before releasing: content that only this instance holds is never freed in between.
        instance.content = self._content_pool.take(message)
        self._content_pool.release(before)
        return before

    def _change(
        self,
        instance: Instance,
        kind: ChangeKind,
        previous: State | None = None,
        *,
        added: tuple[Route, ...] = (),
        removed: tuple[Route, ...] = (),
        altered: tuple[AlteredRoute, ...] = (),
        reason: str = "",
    ) -> Change:
        return Change(
            kind=kind,
            service=instance.service,
            instance=instance.id,
            version=instance.content.version,
            state=instance.state,
            previous=previous or instance.state,
            added=added,
            removed=removed,
            altered=altered,
            reason=reason,
        )

    def _content_change(self, instance: Instance, before: AnnouncedContent, reason: str = "") -> Change:
        added, removed, altered = compare_routes(before.routes, instance.routes)
        return self._change(instance, "changed", added=added, removed=removed, altered=altered, reason=reason)

    def _end(self, instance: Instance, now: float | None = None) -> None:
        """Remove the instance.

        now: for an instance of the mesh; if it was the last one, its name stays reserved for ``tombstone_s``
        """
        self._remove(instance)
        if now is not None and instance.service not in self._live:
            self._native.set((instance.service, ""), 0, final=False, now=now)
        if instance.awaited is not None:
            instance.awaited.open = False
            instance.awaited = None

    # -- time

    def _check(self, item: Instance | AwaitedAnnouncement, due: float) -> None:
        item.due = due
        self._serial += 1  # breaks ties, so that items are never compared
        heappush(self._checks, (due, self._serial, item))

    def _ask(self, awaited: AwaitedAnnouncement, now: float) -> DiscoverRequest:
        self._asks += 1
        self._check(awaited, awaited.next_request(now, self._rng))
        return DiscoverRequest(awaited.service, awaited.id)

    def expire(self, now: float) -> Effects:
        """What silence means by ``now``: suspicions, losses, further requests. Call it about every 100 ms."""
        effects: Effects = []
        checks = self._checks
        while checks and checks[0][0] <= now:
            due, _, item = heappop(checks)
            if item.due != due:
                continue
            if isinstance(item, AwaitedAnnouncement):
                self._expire_awaited(item, now, effects)
            elif item.live:
                self._expire_instance(item, now, effects)
        self._tombstones.expire(now)
        self._native.expire(now)
        return effects

    def _expire_instance(self, instance: Instance, now: float, effects: Effects) -> None:
        lost_at = instance.seen + instance.lost_s
        if lost_at <= now:
            self._end(instance, now)
            self._tombstones.set((instance.service, instance.id), instance.seq, final=False, now=now)
            effects.append(self._change(instance, "lost", removed=instance.routes, reason=_silent(instance, now)))
            return
        suspect_at = instance.seen + instance.suspect_s
        if instance.suspect:
            self._check(instance, lost_at)
        elif suspect_at <= now:
            instance.suspect = True
            self._check(instance, lost_at)
            effects.append(self._change(instance, "suspect", reason=_silent(instance, now)))
        else:
            self._check(instance, suspect_at)

    def _expire_awaited(self, awaited: AwaitedAnnouncement, now: float, effects: Effects) -> None:
        if not awaited.open:
            return
        if awaited.latest is not None and awaited.seen + FORGET_S <= now:
            awaited.open = False
            del self._unknown[awaited.service, awaited.id]
            return
        effects.append(self._ask(awaited, now))

    def restart(self, now: float) -> None:
        """Start all waits at ``now``, after a time in which nothing could be heard.

        No silence before ``now`` counts. A suspicion stays until the instance is heard, because nothing speaks
        against it yet. Tombstones keep their time.
        """
        open_requests = list(self._unknown.values())
        for instance in self:
            instance.seen = now
            if instance.awaited is not None:
                open_requests.append(instance.awaited)
        for awaited in open_requests:
            awaited.restart(now)
            self._check(awaited, awaited.next_request(now, self._rng))


def _highest(known: int, seq: int) -> int:
    """The higher ``seq``, unless it leaps ahead; ``known`` is -1 if no ``seq`` is known."""
    return max(known, seq) if known < 0 or seq - known <= MAX_LEAP else known


def _set_intervals(instance: Instance) -> None:
    instance.suspect_s = SUSPECT_AFTER * instance.heartbeat_ms / 1000
    instance.lost_s = LOST_AFTER * instance.heartbeat_ms / 1000


def _silent(instance: Instance, now: float) -> str:
    return f"silent for {now - instance.seen:.1f} s"
