"""Two random choices, the less busy one wins; troubled instances are last resorts.

A caller knows only its own calls, and that is enough: with two choices the busier instance of a pair loses, and
no two callers herd towards the same one. Ties go to the least recently picked, so idle instances take turns.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, ValuesView
from typing import Final

from mesh.balancer.peers import FAILURES, Candidate, Outcome, Peer
from mesh.defaults import EJECTION_S, FAILURES_TO_EJECT, LONGEST_EJECTION_S

CALM_S: Final = 60.0
"""A success this long after the end of an ejection makes the next one short again."""
MAX_SETS: Final = 1024
"""Sets of revisions for which candidate lists are kept."""

MAX_NEW_CONNECTIONS: Final = 1000
"""By how much the number of an instance's connection may grow at once: after one forged number without bounds no true
one would ever be higher."""

_NEVER: Final = float("inf")
_ANSWERED: Final = Outcome.ANSWERED  # the outcome of nearly every call: looking it up in the enum takes longer

Tiers = tuple[list[Peer], ...]


class Balancer:
    """Picks instances of one service for one caller.

    Candidates come in tiers, and one is used only when those before it are empty: sound; suspect (maybe silent);
    skipped or ejected (known to fail). An instance that is not ready is in none. ``now`` is the caller's monotonic
    time in seconds. Not thread-safe.
    """

    __slots__ = ("_peers", "_picks", "_prefix", "_random", "_release_at", "_sole", "_subsets", "_tiers", "service")

    def __init__(self, service: str, rng: random.Random, prefix: str = "mesh") -> None:
        self.service = service
        self._random = rng.random
        self._prefix = prefix
        self._peers: dict[str, Peer] = {}
        self._picks = 0
        # Ready-made candidate lists, of all and by the revisions asked for: dropped at every change, made again by the
        # next pick. Mostly every instance has the same revision; then asking for it is asking for all.
        self._tiers: Tiers | None = None
        self._sole = ""
        self._subsets: dict[frozenset[str], Tiers] = {}
        self._release_at = _NEVER  # when the next ejection ends

    def peers(self) -> ValuesView[Peer]:
        """All instances, ready or not."""
        return self._peers.values()

    # -- from the registry

    def sync(self, instances: Iterable[Candidate]) -> None:
        """Take over all live instances: new ones come in, missing ones go, the others are brought up to date."""
        live = {instance.id: instance for instance in instances}
        for id in [id for id in self._peers if id not in live]:
            self.remove(id)
        for instance in live.values():
            self.update(instance)

    def update(self, instance: Candidate) -> None:
        """Take over one live instance, new or changed."""
        peer = self._peers.get(instance.id)
        ready = instance.state == "ready"
        if peer is None:
            address = self._address(instance)
            peer = Peer(self.service, instance.id, address, foreign=instance.foreign, bundles=instance.bundles)
            self._peers[peer.id] = peer
        else:
            peer.place = peer.address if instance.bundles else b""
            if peer.ready == ready and peer.suspect == instance.suspect and peer.revision == instance.revision:
                return
        peer.ready, peer.suspect, peer.revision = ready, instance.suspect, instance.revision
        if not ready:
            # It is out anyway, and when it declares itself ready again that is news worth a try.
            peer.ejected, peer.ejected_until, peer.strikes = False, 0.0, 0
        self._trim()
        self._changed()

    def remove(self, id: str) -> None:
        """An instance is gone."""
        if self._peers.pop(id, None) is not None:
            self._trim()
            self._changed()

    def skips(self, id: str) -> bool:
        """Whether nobody listened at the address of that instance, and it was not heard since."""
        peer = self._peers.get(id)
        return peer is not None and peer.skipped

    def heard(self, id: str, connection: int = 0) -> Peer | None:
        """A heartbeat or announcement of that instance arrived, so somebody may listen again.

        ``connection``: which of its connections it spoke of last, 0 where it does not tell. Gives the peer if the
        number is higher than ever before: what was on its way over the connection before may be lost.
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
        """The instance for the next call, or None where none is ready.

        ``revisions``: only instances that announce one of these; None for all.
        ``exclude``: those already tried for this call.
        """
        if now >= self._release_at:
            self._release(now)
        tiers = self._tiers
        if tiers is None:
            tiers = self._sort()
        if revisions is not None and self._sole not in revisions:
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

    def choose(
        self, now: float, revisions: Collection[str] | None, tried: Collection[Peer], *, again: bool = False
    ) -> Peer | None:
        """The instance for the next attempt of a call: one that was not tried; with ``again``, where there is none,
        one that was. See `pick`."""
        peer = self.pick(now, revisions, tried)
        return self.pick(now, revisions) if peer is None and again else peer

    def started(self, peer: Peer) -> None:
        """A call to ``peer`` is in flight from now on; `finished` ends it."""
        peer.inflight += 1

    def finished(self, peer: Peer, outcome: Outcome, now: float) -> None:
        """A call to ``peer`` ended at ``now``."""
        peer.inflight -= 1
        if outcome is _ANSWERED:
            peer.strikes = 0
            if peer.ejections and now >= peer.ejected_until + CALM_S:
                peer.ejections = 0
        elif outcome is Outcome.NO_RESPONDERS:
            if not peer.skipped:
                peer.skipped = True
                peer.skipped_at = now
                self._changed()
        elif outcome in FAILURES and now >= peer.ejected_until:
            # Failures while it is ejected are those of calls sent before, or as a last resort: no new evidence.
            peer.strikes += 1
            if peer.strikes >= FAILURES_TO_EJECT and self._peers.get(peer.id) is peer:
                self._eject(peer, now)

    # -- ejection

    def _eject(self, peer: Peer, now: float) -> None:
        """Eject ``peer`` if there is room; else its row stays full, and the next failure tries again."""
        if not peer.ready:
            return
        if now >= self._release_at:
            self._release(now)
        if sum(other.ejected for other in self._peers.values()) + 1 > self._room():
            return
        peer.ejected = True
        peer.ejected_until = now + min(LONGEST_EJECTION_S, EJECTION_S * 2.0**peer.ejections)
        peer.ejections += 1
        peer.strikes = 0
        self._release_at = min(self._release_at, peer.ejected_until)
        self._changed()

    def _room(self) -> int:
        """How many may be ejected: half of those that are ready, so that the rest never carries over twice its load."""
        return sum(peer.ready for peer in self._peers.values()) // 2

    def _release(self, now: float) -> None:
        """Let ejections that are over have their effect."""
        self._release_at = min((p.ejected_until for p in self._peers.values() if p.ejected_until > now), default=_NEVER)
        for peer in self._peers.values():
            if peer.ejected_until <= now:
                peer.ejected = False
        self._changed()

    def _trim(self) -> None:
        """Release the ejections that end first while fewer instances are left than allow so many."""
        if self._release_at == _NEVER:  # none is ejected: instances may come by the thousand
            return
        ejected = sorted((peer for peer in self._peers.values() if peer.ejected), key=lambda peer: peer.ejected_until)
        for peer in ejected[: max(0, len(ejected) - self._room())]:
            peer.ejected = False
            peer.ejected_until = 0.0

    # -- candidate lists

    def _changed(self) -> None:
        self._tiers = None
        self._subsets.clear()

    def _sort(self) -> Tiers:
        sound: list[Peer] = []
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
                sound.append(peer)
        self._sole = revisions.pop() if len(revisions) == 1 else ""
        self._tiers = tuple(tier for tier in (sound, suspect, failing) if tier)
        return self._tiers

    def _subset(self, revisions: frozenset[str], tiers: Tiers) -> Tiers:
        subset = self._subsets.get(revisions)
        if subset is None:
            if len(self._subsets) >= MAX_SETS:
                self._subsets.clear()
            subset = tuple(rest for tier in tiers if (rest := [p for p in tier if p.revision in revisions]))
            self._subsets[revisions] = subset
        return subset
