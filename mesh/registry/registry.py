"""The registry: messages and the passing of time in, changes and asks out.

The rules of wire protocol 1:

- Content is ordered by ``seq`` among announcements, state and load by ``seq`` among all messages. So a late
  announcement may still bring content, but only a message above the highest ``seq`` shows that the instance lives.
- A heartbeat that speaks of content the registry does not have makes it ask that one instance, until it has it.
- A ``seq`` that leaps ahead is not believed: nothing that the instance says could come after it.
- Silence makes an instance suspect, then lost. A lost one leaves a tombstone with its ``seq``: only more revives.
- ``stopped`` ends an instance whatever its ``seq`` and whenever it arrives: what somebody else said in its name with a
  higher one must not hide it. It leaves a tombstone with the highest ``seq`` seen. No instance that stopped ever says
  more; so if more is heard, ``stopped`` was not its own word, and it is taken in again.
- A foreign service never has the name of one of the mesh: not while an instance of that lives, nor for as long as a
  tombstone would remember one. Foreign ones that were there before go when one of the mesh comes.

Times are liveness time in seconds (`mesh.registry.Liveness`) and never go back.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from typing import Final

from mesh.defaults import LOST_AFTER, SUSPECT_AFTER, TOMBSTONE_S
from mesh.messages import MAX_HEARTBEAT_MS, MAX_LEAP, Announcement, Control, Heartbeat, State
from mesh.registry.announcement_requests import AnnouncementRequest
from mesh.registry.instance_records import Ask, Change, Content, Instance, Kind, labels, moments_of
from mesh.registry.instance_table import Table
from mesh.registry.shared_content import same
from mesh.registry.tombstones import Key, Tombstones

ASK_LIMIT: Final = 16_384
TOMBSTONE_LIMIT: Final = 131_072
FORGET_S: Final = LOST_AFTER * MAX_HEARTBEAT_MS / 1000
"""Silence after which an instance that never announced is forgotten: the longest that any may keep."""

FOREIGN: Final = "NATS micro service"
NOT_STOPPED: Final = "it lives, though somebody said in its name that it had stopped"

Outcome = list[Change | Ask]


class Registry(Table):
    """The instances that one receiver knows.

    ``ask_limit`` bounds the unknown instances that are being asked; one more is asked once there is room. ``rng``
    spreads repeated asks. Not thread-safe; nothing here blocks or raises on any decoded message.
    """

    def __init__(
        self,
        ask_limit: int = ASK_LIMIT,
        tombstone_s: float = TOMBSTONE_S,
        rng: random.Random | None = None,
        *,
        tombstone_limit: int = TOMBSTONE_LIMIT,
    ) -> None:
        super().__init__()
        self._ask_limit = ask_limit
        self._rng = rng or random.Random()
        self._unknown: dict[Key, AnnouncementRequest] = {}
        self._tombstones = Tombstones(tombstone_s, tombstone_limit)
        self._native = Tombstones(tombstone_s, tombstone_limit)
        """Services of the mesh whose last instance ended not long ago, as ``(service, "")``."""
        # Checks to make, soonest first. A heartbeat leaves its instance's check where it is: the check finds out
        # that it came too early and moves itself. An entry counts only while its item still names that time.
        self._checks: list[tuple[float, int, Instance | AnnouncementRequest]] = []
        self._serial = 0
        self._late = self._duplicate = self._final = self._asks = self._refused = 0
        self._contradicted = self._leaps = 0

    # -- facts

    def unknown(self) -> list[Key]:
        """Service and id of those who beat but have not announced yet."""
        return list(self._unknown)

    @property
    def counters(self) -> dict[str, int]:
        """Totals since the start: what was dropped (and why), asked, refused, found to clash."""
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
        return self._contents.clashes

    def next_due(self) -> float | None:
        """No call of `expire` before this time has anything to say; None while nothing is waited for."""
        times = [self._checks[0][0]] if self._checks else []
        tombstone = self._tombstones.next_due()
        return min(times, default=tombstone) if tombstone is None else min([*times, tombstone])

    # -- messages

    def apply(self, message: Control, now: float) -> Outcome:
        """Take in one decoded message, received at ``now``."""
        if isinstance(message, Heartbeat):
            return self._heartbeat(message, now)
        return self._announcement(message, now)

    def _heartbeat(self, message: Heartbeat, now: float) -> Outcome:
        siblings = self._live.get(message.name)
        instance = None if siblings is None else siblings.get(message.id)
        if instance is not None and instance.foreign:
            instance = None  # it has no heartbeats, so that is somebody else
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
        outcome: Outcome = []
        self._heard(instance, message, now, outcome)
        self._compare(instance, now, outcome)
        return outcome

    def _unknown_heartbeat(self, message: Heartbeat, now: float) -> Outcome:
        key = (message.name, message.id)
        if self._buried(key, message.seq):
            return []
        question = self._unknown.get(key)
        if question is not None:
            latest = question.latest
            if latest is not None and not 0 < message.seq - latest.seq <= MAX_LEAP:
                self._drop(message.seq - latest.seq)
            else:
                question.latest = message
                question.seen = now
            return []
        if len(self._unknown) >= self._ask_limit:
            self._refused += 1
            return []
        question = self._unknown[key] = AnnouncementRequest(*key, now, message)
        return [self._ask(question, now)]

    def _announcement(self, message: Announcement, now: float) -> Outcome:
        instance = self.get(message.name, message.id)
        if instance is not None and instance.foreign:
            instance = None  # it announces nothing, so that is somebody else
        if message.state == "stopped":
            return self._stopped(message, instance, now)
        if instance is None:
            return self._join(message, now)
        if message.seq <= instance.announced or message.seq - instance.seq > MAX_LEAP:
            self._drop(message.seq - instance.announced)
            return []
        outcome: Outcome = []
        before, facts = self._renew(instance, message), instance.describe(message)
        instance.announced = message.seq
        instance.connection = message.connection
        if before is not None or facts:
            old, new = labels(before or instance.content), labels(instance.content)
            added, removed = tuple(sorted(new - old)), tuple(sorted(old - new))
            change = self._change(instance, "changed", added=added, removed=removed, reason=", ".join(facts))
            outcome.append(change)
        claimed = moments_of(message.claimed, instance.started)
        if claimed != instance.claimed:
            instance.claimed = claimed
            if before is None:
                outcome.append(self._change(instance, "claimed"))
        if message.seq > instance.seq:
            self._heard(instance, message, now, outcome)
        else:
            self._late += 1  # it brought content all the same
        if "heartbeat_ms" in facts:
            _set_intervals(instance)
            self._check(instance, instance.seen + (instance.lost_s if instance.suspect else instance.suspect_s))
        self._compare(instance, now, outcome)
        return outcome

    def _join(self, message: Announcement, now: float) -> Outcome:
        key = (message.name, message.id)
        if self._buried(key, message.seq):
            return []
        outcome = self._oust(message.name)
        instance = Instance(message, self._contents.take(message), now)
        _set_intervals(instance)
        question = self._unknown.pop(key, None)
        instance.question = question
        if question is not None and question.latest is not None:
            if 0 < question.latest.seq - message.seq <= MAX_LEAP:
                # The heartbeat overtook the announcement: its state is the newer one, and so is its time.
                latest = question.latest
                instance.seq, instance.state, instance.told = latest.seq, latest.state, latest.revision
                instance.inflight, instance.capacity, instance.lag_ms = latest.inflight, latest.capacity, latest.lag_ms
                instance.seen = question.seen
            question.latest = None
        stone = self._tombstones.get(key)
        back = "" if stone is None else NOT_STOPPED if stone.final else "back after it was lost"
        if stone is not None and stone.final:
            self._contradicted += 1
        self._tombstones.remove(key)
        self._add(instance)
        self._check(instance, instance.seen + instance.suspect_s)
        outcome.append(
            Change(
                kind="joined",
                service=instance.service,
                instance=instance.id,
                version=instance.version,
                state=instance.state,
                added=tuple(sorted(labels(instance.content))),
                reason=back,
            )
        )
        self._compare(instance, now, outcome)
        return outcome

    def _stopped(self, message: Control, instance: Instance | None, now: float) -> Outcome:
        key = (message.name, message.id)
        stone = self._tombstones.get(key)
        question = self._unknown.pop(key, None)
        known = -1 if stone is None else stone.seq
        if question is not None:
            question.open = False
            known = known if question.latest is None else max(known, question.latest.seq)
        if instance is not None:
            known = instance.seq
        seq = _highest(known, message.seq)
        self._tombstones.set(key, seq, final=True, now=now)
        if instance is None:
            self._final += stone is not None and stone.final
            return []
        self._end(instance, now)
        previous, instance.state, instance.seq = instance.state, "stopped", seq
        return [self._change(instance, "left", previous, removed=tuple(sorted(labels(instance.content))))]

    # -- foreign services

    def adopt(self, message: Announcement, now: float) -> Outcome:
        """A foreign micro service, described as if it had announced itself. Only `dismiss` ends it, never silence.

        One that may not have that name is left out, see `is_native`.
        """
        if self.is_native(message.name):
            return []
        instance = self.get(message.name, message.id)
        if instance is None:
            instance = Instance(message, self._contents.take(message), now)
            instance.foreign = True
            self._add(instance)
            return [self._change(instance, "joined", added=tuple(sorted(labels(instance.content))), reason=FOREIGN)]
        instance.seen = now
        instance.describe(message)
        before = self._renew(instance, message)
        if before is None:
            return []
        old, new = labels(before), labels(instance.content)
        added, removed = tuple(sorted(new - old)), tuple(sorted(old - new))
        return [self._change(instance, "changed", added=added, removed=removed, reason=FOREIGN)]

    def dismiss(self, service: str, id: str, reason: str = "answers no more") -> Outcome:
        """A foreign micro service answers no more."""
        instance = self.get(service, id)
        if instance is None or not instance.foreign:
            return []
        self._end(instance)
        removed = tuple(sorted(labels(instance.content)))
        return [self._change(instance, "left", removed=removed, reason=reason)]

    def is_native(self, service: str) -> bool:
        """Whether a service of the mesh has that name, so that no foreign one may: now, or until not long ago."""
        siblings = self._live.get(service)
        if siblings is not None:
            return any(not instance.foreign for instance in siblings.values())
        return self._native.get((service, "")) is not None

    def _oust(self, service: str) -> Outcome:
        """End the foreign services whose name an instance of the mesh has now."""
        ids = [i.id for i in self.instances(service) if i.foreign]
        return [change for id in ids for change in self.dismiss(service, id, "a service of the mesh has that name")]

    # -- what messages have in common

    def _buried(self, key: Key, seq: int) -> bool:
        """Whether a tombstone forbids that message, which is then counted as dropped."""
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
        """Count a message that is dropped, ``ahead`` of what is known."""
        if ahead == 0:
            self._duplicate += 1
        elif ahead < 0:
            self._late += 1
        else:
            self._leaps += 1

    def _heard(self, instance: Instance, message: Control, now: float, outcome: Outcome) -> None:
        """A message above the highest ``seq``: it lives, and this is its state."""
        instance.seq = message.seq
        instance.seen = now
        instance.told = message.revision
        previous = instance.state
        if instance.suspect:
            instance.suspect = False
            # Its check waits for the loss, which is later than the next suspicion.
            self._check(instance, now + instance.suspect_s)
            outcome.append(self._change(instance, "recovered"))
        if previous != message.state:
            instance.state = message.state
            outcome.append(self._change(instance, "state", previous))

    def _compare(self, instance: Instance, now: float, outcome: Outcome) -> None:
        """Ask while the newest message speaks of another revision than the last announcement."""
        question = instance.question
        if instance.told == instance.content.announced_revision:
            if question is not None:
                question.open = False
                instance.question = None
        elif question is None:
            question = instance.question = AnnouncementRequest(instance.service, instance.id, now)
            outcome.append(self._ask(question, now))

    def _renew(self, instance: Instance, message: Announcement) -> Content | None:
        """Give the instance the announced content; the content before, or None where nothing changed."""
        before = instance.content
        if same(before, message):
            return None
        # Take before releasing: content that only this instance holds is never freed in between.
        instance.content = self._contents.take(message)
        self._contents.release(before)
        return before

    def _change(
        self,
        instance: Instance,
        kind: Kind,
        previous: State | None = None,
        *,
        added: tuple[str, ...] = (),
        removed: tuple[str, ...] = (),
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
            reason=reason,
        )

    def _end(self, instance: Instance, now: float | None = None) -> None:
        """Take it out; ``now`` for one of the mesh, whose name is kept for a while when it was the last."""
        self._remove(instance)
        if now is not None and instance.service not in self._live:
            self._native.set((instance.service, ""), 0, final=False, now=now)
        if instance.question is not None:
            instance.question.open = False
            instance.question = None

    # -- time

    def _check(self, item: Instance | AnnouncementRequest, due: float) -> None:
        item.due = due
        self._serial += 1  # breaks ties, so that items are never compared
        heappush(self._checks, (due, self._serial, item))

    def _ask(self, question: AnnouncementRequest, now: float) -> Ask:
        self._asks += 1
        self._check(question, question.next(now, self._rng))
        return Ask(question.service, question.id)

    def expire(self, now: float) -> Outcome:
        """What silence means by ``now``: suspicions, losses, repeated asks. Call it about every 100 ms."""
        outcome: Outcome = []
        checks = self._checks
        while checks and checks[0][0] <= now:
            due, _, item = heappop(checks)
            if item.due != due:
                continue
            if isinstance(item, AnnouncementRequest):
                self._expire_question(item, now, outcome)
            elif item.live:
                self._expire_instance(item, now, outcome)
        self._tombstones.expire(now)
        self._native.expire(now)
        return outcome

    def _expire_instance(self, instance: Instance, now: float, outcome: Outcome) -> None:
        lost_at = instance.seen + instance.lost_s
        if lost_at <= now:
            self._end(instance, now)
            self._tombstones.set((instance.service, instance.id), instance.seq, final=False, now=now)
            removed = tuple(sorted(labels(instance.content)))
            outcome.append(self._change(instance, "lost", removed=removed, reason=_silent(instance, now)))
            return
        suspect_at = instance.seen + instance.suspect_s
        if instance.suspect:
            self._check(instance, lost_at)
        elif suspect_at <= now:
            instance.suspect = True
            self._check(instance, lost_at)
            outcome.append(self._change(instance, "suspect", reason=_silent(instance, now)))
        else:
            self._check(instance, suspect_at)

    def _expire_question(self, question: AnnouncementRequest, now: float, outcome: Outcome) -> None:
        if not question.open:
            return
        if question.latest is not None and question.seen + FORGET_S <= now:
            question.open = False
            del self._unknown[question.service, question.id]
            return
        outcome.append(self._ask(question, now))

    def restart(self, now: float) -> None:
        """Begin all waits anew at ``now``, after a time in which nothing could be heard.

        Nothing is judged by a silence before ``now``. Suspicion stays until the instance is heard, since nothing
        speaks against it yet; tombstones keep their time.
        """
        questions = list(self._unknown.values())
        for instance in self:
            instance.seen = now
            if instance.question is not None:
                questions.append(instance.question)
        for question in questions:
            question.restart(now)
            self._check(question, question.next(now, self._rng))


def _highest(known: int, seq: int) -> int:
    """The higher ``seq``, except where it leaps ahead; ``known`` is -1 where nothing is known."""
    return max(known, seq) if known < 0 or seq - known <= MAX_LEAP else known


def _set_intervals(instance: Instance) -> None:
    instance.suspect_s = SUSPECT_AFTER * instance.heartbeat_ms / 1000
    instance.lost_s = LOST_AFTER * instance.heartbeat_ms / 1000


def _silent(instance: Instance, now: float) -> str:
    return f"silent for {now - instance.seen:.1f} s"
