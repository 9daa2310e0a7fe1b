"""Load balancing by two random choices, of which the less busy one wins, with a circuit breaker for each instance.

A caller knows only its own calls, and that is enough: of two choices the busier one loses, and callers do not herd
towards the same instance. Ties go to the instance that was picked longest ago, so idle instances take turns.
"""

from __future__ import annotations

import random
from collections.abc import Collection, ValuesView
from typing import Final

from mesh.balancer.peers import FAILURES, Candidate, Outcome, Peer
from mesh.defaults import EJECTION_S, FAILURES_TO_EJECT, LONGEST_EJECTION_S

EJECTIONS_FORGOTTEN_S: Final = 60.0
"""A success this many seconds after the end of an ejection makes the next one short again."""
MOST_REVISION_SETS: Final = 1024
"""Sets of revisions for which candidate lists are kept."""

MAX_NEW_CONNECTIONS: Final = 1000
"""By how much the number of an instance's connection may grow at once: after one forged number without bounds no true
one would ever be higher."""

_NEVER: Final = float("inf")
_ANSWERED: Final = Outcome.ANSWERED  # the outcome of nearly every call: looking it up in the enum takes longer

Tiers = tuple[list[Peer], ...]


class Balancer:
    """Picks instances of one service for one caller.

    Candidates are in three tiers, and a tier is used only if those before it are empty:

    1. ready;
    2. suspect: its heartbeats are late;
    3. skipped or ejected: known to fail.

    An instance that does not declare itself ready is in no tier. ``now`` is the caller's monotonic time in seconds.
    Not thread-safe.
    """

    __slots__ = (
        "_only_revision",
        "_peers",
        "_picks",
        "_prefix",
        "_random",
        "_release_at",
        "_subsets",
        "_tiers",
        "ejections",
        "service",
    )

    def __init__(self, service: str, rng: random.Random, prefix: str = "mesh") -> None:
        """prefix: the prefix of the mesh's subjects."""
        self.service = service
        self.ejections = dict.fromkeys(sorted(FAILURES, key=lambda failure: failure.value), 0)
        """Ejections since the beginning, by the outcome of the call that completed the row of failures."""
        self._random = rng.random
        self._prefix = prefix
        self._peers: dict[str, Peer] = {}
        self._picks = 0
        # Candidate lists, of all instances and by the revisions asked for: dropped at every change, made again by the
        # next pick. Mostly every instance has the same revision; then asking for it is asking for all.
        self._tiers: Tiers | None = None
        self._only_revision = ""
        self._subsets: dict[frozenset[str], Tiers] = {}
        self._release_at = _NEVER  # when the next ejection ends

    def peers(self) -> ValuesView[Peer]:
        """All instances, ready or not."""
        return self._peers.values()

    # -- from the registry

    def update(self, instance: Candidate) -> None:
        """Take over one live instance, new or changed."""
        peer = self._peers.get(instance.id)
        if peer is None:
            address = self._address(instance)
            peer = Peer(self.service, instance.id, address, foreign=instance.foreign, bundles=instance.bundles)
            self._peers[peer.id] = peer
        else:
            peer.bundle_address = peer.address if instance.bundles else b""
            declared, suspect, revision = peer.declared, peer.suspect, peer.revision
            if (declared, suspect, revision) == (instance.state, instance.suspect, instance.revision):
                return
        peer.declared, peer.ready = instance.state, instance.state == "ready"
        peer.suspect, peer.revision = instance.suspect, instance.revision
        if not peer.ready:
            # It gets no calls anyway, and when it declares itself ready again it is worth a try.
            peer.ejected, peer.ejected_until, peer.failures_in_a_row = False, 0.0, 0
        self._release_surplus()
        self._changed()

    def remove(self, id: str) -> None:
        """An instance is gone."""
        if self._peers.pop(id, None) is not None:
            self._release_surplus()
            self._changed()

    def is_skipped(self, id: str) -> bool:
        """True if nothing listened at the address of that instance, and it was not heard since."""
        peer = self._peers.get(id)
        return peer is not None and peer.skipped

    def heard(self, id: str, connection: int = 0) -> Peer | None:
        """A heartbeat or announcement of that instance arrived, so it may listen again.

        connection: the number of its connection to NATS, as it stated last; 0 if it states none.
        Returns the peer if that is higher than ever before: what was on its way over the old one may be lost.
        """
        peer = self._peers.get(id)
        if peer is None:
            return None
        if peer.skipped:
            peer.skipped = False
            self._changed()
        known = peer.connection
        # Two copies of one process, with one id, have a number each: a sign once, and not whenever they take turns.
        if connection <= known or (known and connection - known > MAX_NEW_CONNECTIONS):
            return None
        peer.connection = connection
        return peer if known else None

    def _address(self, instance: Candidate) -> bytes:
        return b"" if instance.foreign else f"{self._prefix}.to.{self.service}.{instance.id}.".encode()

    # -- calls

    def pick(self, now: float, revisions: Collection[str] | None = None, exclude: Collection[Peer] = ()) -> Peer | None:
        """The instance for the next call, or None if none is ready.

        revisions: only instances that announce one of these; None for all.
        exclude: instances that are not picked.
        """
        if now >= self._release_at:
            self._release(now)
        tiers = self._tiers
        if tiers is None:
            tiers = self._sort()
        if revisions is not None and self._only_revision not in revisions:
            tiers = self._subset(frozenset(revisions), tiers)
        if exclude:
            tiers = tuple(rest for tier in tiers if (rest := [peer for peer in tier if peer not in exclude]))
        if not tiers:
            return None
        tier = tiers[0]
        size = len(tier)
        peer = tier[0]
        if size > 1:
            if size == 2:
                other = tier[1]
            else:
                first = int(self._random() * size)
                second = int(self._random() * (size - 1))
                peer = tier[first]
                other = tier[second if second < first else second + 1]
            if other.inflight < peer.inflight or (other.inflight == peer.inflight and other.picked < peer.picked):
                peer = other
        self._picks += 1
        peer.picked = self._picks
        return peer

    def started(self, peer: Peer) -> None:
        """A call to ``peer`` is in flight from now on, until `released` or `finished`."""
        peer.inflight += 1

    def released(self, peer: Peer) -> None:
        """A call to ``peer`` is no longer in flight."""
        peer.inflight -= 1

    def finished(self, peer: Peer, outcome: Outcome, now: float) -> None:
        """A call to ``peer`` ended at ``now``: `released` and `observe` in one."""
        peer.inflight -= 1
        if outcome is not _ANSWERED or peer.failures_in_a_row or peer.ejections:
            self.observe(peer, outcome, now)

    def observe(self, peer: Peer, outcome: Outcome, now: float) -> bool:
        """Learn from the outcome of a call to ``peer``. Returns True if that made it a last resort."""
        if outcome is _ANSWERED:
            peer.failures_in_a_row = 0
            if peer.ejections and now >= peer.ejected_until + EJECTIONS_FORGOTTEN_S:
                peer.ejections = 0
        elif outcome is Outcome.NO_RESPONDERS:
            if not peer.skipped:
                peer.skipped = True
                peer.skipped_at = now
                self._changed()
                return True
        elif outcome in FAILURES and now >= peer.ejected_until:
            # Failures while it is ejected are those of calls sent before, or as a last resort: no new evidence.
            peer.failures_in_a_row += 1
            peer.last_failure = outcome
            if peer.failures_in_a_row >= FAILURES_TO_EJECT and self._peers.get(peer.id) is peer:
                return self._eject(peer, outcome, now)
        return False

    # -- circuit breaker

    def _eject(self, peer: Peer, failure: Outcome, now: float) -> bool:
        """Eject ``peer`` if there is room; if not, its failures stay counted, and the next one tries again.

        Returns True if it was ejected.
        """
        if not peer.ready:
            return False
        if now >= self._release_at:
            self._release(now)
        if sum(other.ejected for other in self._peers.values()) + 1 > self._most_ejected():
            return False
        peer.ejected = True
        peer.ejected_until = now + min(LONGEST_EJECTION_S, EJECTION_S * 2.0**peer.ejections)
        peer.ejections += 1
        peer.failures_in_a_row = 0
        self.ejections[failure] += 1
        self._release_at = min(self._release_at, peer.ejected_until)
        self._changed()
        return True

    def _most_ejected(self) -> int:
        """How many may be ejected: half of the ready ones, so that the others never have more than twice their load."""
        return sum(peer.ready for peer in self._peers.values()) // 2

    def _release(self, now: float) -> None:
        """End the ejections whose time is over."""
        self._release_at = min((p.ejected_until for p in self._peers.values() if p.ejected_until > now), default=_NEVER)
        for peer in self._peers.values():
            if peer.ejected_until <= now:
                peer.ejected = False
        self._changed()

    def _release_surplus(self) -> None:
        """End the ejections that would end first, if more are ejected than the instances that are left allow."""
        if self._release_at == _NEVER:  # none is ejected: instances may come by the thousand
            return
        ejected = sorted((peer for peer in self._peers.values() if peer.ejected), key=lambda peer: peer.ejected_until)
        for peer in ejected[: max(0, len(ejected) - self._most_ejected())]:
            peer.ejected = False
            peer.ejected_until = 0.0

    # -- candidate lists

    def _changed(self) -> None:
        self._tiers = None
        self._subsets.clear()

    def _sort(self) -> Tiers:
        ready: list[Peer] = []
        suspect: list[Peer] = []
        failing: list[Peer] = []
        revisions: set[str] = set()
        for peer in self._peers.values():
            if not peer.ready:
                continue
            revisions.add(peer.revision)
            if peer.skipped or peer.ejected:
                failing.append(peer)
            elif peer.suspect:
                suspect.append(peer)
            else:
                ready.append(peer)
        self._only_revision = revisions.pop() if len(revisions) == 1 else ""
        self._tiers = tuple(tier for tier in (ready, suspect, failing) if tier)
        return self._tiers

    def _subset(self, revisions: frozenset[str], tiers: Tiers) -> Tiers:
        subset = self._subsets.get(revisions)
        if subset is None:
            if len(self._subsets) >= MOST_REVISION_SETS:
                self._subsets.clear()
            subset = tuple(rest for tier in tiers if (rest := [p for p in tier if p.revision in revisions]))
            self._subsets[revisions] = subset
        return subset
