"""A small mesh in simulated time: instances, a bad network, and watchers as `mesh.watcher` drives them.

Everything follows from the seed. The functions named ``check`` hold the invariants, all of them.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

from mesh.messages import Announcement, Control, State
from mesh.registry import Change, DiscoverRequest, Liveness, Registry
from tests.registry.builders import announcement, heartbeat, labels

TICK = 0.1
PATHS = ("/one", "/two", "/three")
INTERVALS = (500, 1000, 2000)
MISHAPS = ("start", "stop", "kill", "freeze", "path", "state", "path", "cut", "silence", "stall")
OF_RECEIVERS = ("cut", "silence", "stall")
CALM_S = 75.0  # longer than the longest wait between two asks


@dataclass
class Node:
    """An instance: what it says, and what it has said."""

    service: str
    id: str
    heartbeat_ms: int
    path: str = PATHS[0]
    state: State = "starting"
    alive: bool = True
    frozen_until: float = 0.0
    beat_at: float = 0.0
    seq: int = 0
    announced: dict[int, str] = field(default_factory=dict)  # seq -> path
    revisions: dict[int, str] = field(default_factory=dict)  # seq -> revision, of every message

    def announce(self) -> Announcement:
        self.seq += 1
        self.announced[self.seq] = self.path
        options = {"id": self.id, "service": self.service, "state": self.state, "heartbeat_ms": self.heartbeat_ms}
        return announcement(self.seq, self.path, **options)  # type: ignore[arg-type]

    def beat(self) -> Control:
        self.seq += 1
        return heartbeat(self.seq, self.path, id=self.id, service=self.service, state=self.state)


class Receiver:
    """A watcher: a registry, its clock, and what a listener makes of the changes alone."""

    def __init__(self, rng: random.Random) -> None:
        self.registry = Registry(rng=rng)
        self.clock = Liveness()
        self.connected = True
        self.silent = False  # connected, and nothing comes through as long as the server is frozen
        self.stalled_until = 0.0
        self.last_bytes = 0.0
        self.turn = 0.0  # when its loop last ran
        self.queue: list[Control] = []  # arrived, not read yet
        self.told: dict[tuple[str, str], tuple[State, set[str], bool]] = {}
        self.stopped: set[str] = set()  # ids whose `stopped` it has read
        self.top: dict[str, tuple[int, float]] = {}  # id -> highest seq read, and the liveness time of it

    @property
    def now(self) -> float:
        return self.clock.now

    def handle(self, outcome: list[Change | DiscoverRequest]) -> list[DiscoverRequest]:
        asks = []
        for item in outcome:
            if isinstance(item, DiscoverRequest):
                asks.append(item)
            else:
                self._follow(item)
        return asks

    def _follow(self, change: Change) -> None:
        """Keep a table from the changes alone; every change must fit what was told before."""
        key = (change.service, change.instance)
        if change.kind == "joined":
            assert key not in self.told
            assert change.instance not in self.stopped
            self.told[key] = (change.state, set(labels(change.added)), False)
            return
        state, routes, suspect = self.told.pop(key)
        assert change.previous == state
        if change.kind in ("left", "lost"):
            assert set(labels(change.removed)) == routes
            return
        assert change.kind != "suspect" or not suspect
        assert change.kind != "recovered" or suspect
        assert not set(labels(change.removed)) - routes
        assert not set(labels(change.added)) & routes
        suspect = {"suspect": True, "recovered": False}.get(change.kind, suspect)
        self.told[key] = (change.state, routes - set(labels(change.removed)) | set(labels(change.added)), suspect)


class World:
    """``mishaps``: what may happen on the way. ``calm``: whether the network delivers everything at once."""

    def __init__(self, seed: int, mishaps: tuple[str, ...] = MISHAPS, *, calm: bool = False) -> None:
        self.rng = random.Random(seed)
        self.time = 0.0
        self.calm = calm
        self.mishaps = mishaps
        self.seen: Counter[str] = Counter()
        self.nodes: list[Node] = []
        self.receivers = [Receiver(random.Random(seed + i)) for i in range(2)]
        self._wire: list[tuple[float, int, Receiver, Control]] = []
        self._asks: list[tuple[float, int, DiscoverRequest | None]] = []
        self._sent = 0
        for _ in range(4):
            self.start()

    # -- instances and network

    def start(self) -> None:
        rng = self.rng
        node = Node(rng.choice(("users", "games")), f"n{len(self.nodes)}", rng.choice(INTERVALS))
        self.nodes.append(node)
        self.publish(node.announce())
        node.state = "ready"
        self.publish(node.announce())
        node.beat_at = self.time + rng.random()

    def publish(self, message: Control) -> None:
        for receiver in self.receivers:
            copies = 1 if self.calm else self.rng.choices((0, 1, 2), (15, 75, 10))[0]
            for _ in range(copies):
                delay = 0.0 if self.calm else self.rng.choice((0.0, 0.0, 0.1, 0.4, 1.5))
                self._sent += 1
                heapq.heappush(self._wire, (self.time + delay, self._sent, receiver, message))

    def ask(self, ask: DiscoverRequest | None) -> None:
        """Send a discover message to one instance, or to all."""
        if self.calm or self.rng.random() > 0.15:
            self._sent += 1
            heapq.heappush(self._asks, (self.time + self.rng.choice((0.0, 0.3)), self._sent, ask))

    def awake(self) -> list[Node]:
        return [n for n in self.nodes if n.alive and n.frozen_until <= self.time]

    # -- time

    def step(self) -> None:
        self.time += TICK
        if self.mishaps and self.rng.random() < 0.08:
            self.mishap()
        asked: list[DiscoverRequest | None] = []
        while self._asks and self._asks[0][0] <= self.time:
            asked.append(heapq.heappop(self._asks)[2])
        for node in self.awake():
            if any(a is None or (a.service, a.instance) == (node.service, node.id) for a in asked):
                self.publish(node.announce())
            if node.beat_at <= self.time:
                node.beat_at = self.time + node.heartbeat_ms / 1000 * self.rng.uniform(0.8, 1)
                self.publish(node.beat())
        while self._wire and self._wire[0][0] <= self.time:
            _, _, receiver, message = heapq.heappop(self._wire)
            if receiver.connected:  # what comes during a silence waits in the connection
                receiver.queue.append(message)
        for receiver in self.receivers:
            if receiver.stalled_until <= self.time:
                self.run(receiver)
            check(self, receiver)

    def run(self, receiver: Receiver) -> None:
        """One turn of the watcher's loop: read what came, then keep time."""
        arrived: list[Control] = []
        if receiver.connected and not receiver.silent:
            receiver.last_bytes = self.time
            arrived, receiver.queue = receiver.queue, []
        asks: list[DiscoverRequest] = []
        for message in arrived:
            outcome = receiver.registry.apply(message, receiver.now)
            if message.state == "stopped":
                receiver.stopped.add(message.id)
            if message.seq > receiver.top.get(message.id, (0, 0.0))[0]:
                receiver.top[message.id] = (message.seq, receiver.now)
            asks += receiver.handle(outcome)
            self.count(outcome)
        stale, before = receiver.clock.stale, receiver.now
        receiver.clock.advance(self.time, receiver.last_bytes, receiver.connected)
        assert receiver.now - before <= self.time - receiver.turn + 1e-9
        receiver.turn = self.time
        if stale and not receiver.clock.stale:
            receiver.registry.restart(receiver.now)
            receiver.top = {id: (seq, receiver.now) for id, (seq, _) in receiver.top.items()}
        if not receiver.clock.stale:
            outcome = receiver.registry.expire(receiver.now)
            check_verdicts(self, receiver, outcome)
            asks += receiver.handle(outcome)
            self.count(outcome)
        for ask in asks:
            if receiver.connected:
                self.ask(ask)

    def count(self, outcome: list[Change | DiscoverRequest]) -> None:
        for item in outcome:
            self.seen[
                "ask" if isinstance(item, DiscoverRequest) else item.reason if item.kind == "joined" else item.kind
            ] += 1

    def mishap(self) -> None:
        rng, receiver = self.rng, self.rng.choice(self.receivers)
        what = rng.choice(self.mishaps)
        if what == "start" and len(self.nodes) < 12:
            self.start()
        elif what == "cut":
            receiver.connected = not receiver.connected
            receiver.queue.clear()
            receiver.clock.advance(self.time, receiver.last_bytes, receiver.connected)
            if receiver.connected:
                self.ask(None)
        elif what == "silence":
            receiver.silent = not receiver.silent
        elif what == "stall":
            receiver.stalled_until = self.time + rng.choice((0.3, 1.0, 12.0))
        elif self.awake():
            node = rng.choice(self.awake())
            if what == "kill":
                node.alive = False
            elif what == "freeze":
                node.frozen_until = self.time + rng.choice((1.0, 5.0, 15.0))
            elif what == "path":
                node.path = rng.choice(PATHS)
                self.publish(node.announce())
            elif what in ("state", "stop"):
                node.state = rng.choice(("ready", "unready", "draining")) if what == "state" else "stopped"
                node.alive = what == "state"
                self.publish(node.announce())

    def settle(self) -> None:
        """End all mishaps. Nothing is lost any more, so everybody must come to know the truth."""
        self.calm, self.mishaps = True, ()
        for receiver in self.receivers:
            receiver.connected, receiver.silent, receiver.stalled_until = True, False, 0.0
        for node in self.nodes:
            node.frozen_until = 0.0
        for _ in range(int(CALM_S / TICK)):
            self.step()
            if self.time % 5 < TICK and self.settled():
                break
        check_end(self)

    def settled(self) -> bool:
        truth = self.truth()
        return all(
            not receiver.clock.stale
            and not any(instance.suspect for instance in receiver.registry)
            and {(i.service, i.id): (i.routes[0].path, i.state) for i in receiver.registry} == truth
            for receiver in self.receivers
        )

    def truth(self) -> dict[tuple[str, str], tuple[str, State]]:
        return {(n.service, n.id): (n.path, n.state) for n in self.nodes if n.alive}


# -- the invariants


def check(world: World, receiver: Receiver) -> None:
    """At every moment, for every receiver."""
    registry = receiver.registry
    nodes = {(n.service, n.id): n for n in world.nodes}
    # What listeners were told is what the table says.
    table = {(i.service, i.id): (i.state, {f"GET {r.path}" for r in i.routes}, i.suspect) for i in registry}
    assert receiver.told == table
    assert len(registry) == len(table)
    for instance in registry:
        node = nodes[instance.service, instance.id]
        # Stopped is final.
        assert instance.id not in receiver.stopped
        # It shows what the instance itself has said, as of the announcement it says it has.
        assert node.announced[instance.announced] == instance.routes[0].path
        assert instance.announced <= instance.seq <= node.seq
        assert instance.seq == receiver.top[instance.id][0]
        assert instance.heartbeat_ms == node.heartbeat_ms
    # Equal contents are one, and none outlives its instances.
    assert len(registry._content_pool) == len({id(i.content) for i in registry})
    assert len(registry._content_pool) == len({(i.service, i.revision) for i in registry})
    assert receiver.now <= world.time + 1e-6


def check_verdicts(world: World, receiver: Receiver, outcome: list[Change | DiscoverRequest]) -> None:
    """Whenever silence was judged: in liveness time since the last news or restart, neither too early nor too late."""
    for change in outcome:
        if isinstance(change, Change):
            node = next(n for n in world.nodes if n.id == change.instance)
            needed = {"suspect": 1.5, "lost": 4.0}[change.kind] * node.heartbeat_ms / 1000
            assert receiver.now - receiver.top[node.id][1] >= needed - 1e-6
    for instance in receiver.registry:
        silence = (receiver.now - receiver.top[instance.id][1]) * 1000 / instance.heartbeat_ms
        assert silence < 4.0 + 1e-6
        assert instance.suspect or silence < 1.5 + 1e-6


def check_end(world: World) -> None:
    """After the calm: every receiver knows exactly the living, as they are."""
    truth = world.truth()
    for receiver in world.receivers:
        view = receiver.registry.converged_state()
        assert {key: (content.routes[0].path, state) for key, (content, state, _) in view.items()} == truth
        assert not receiver.clock.stale
        assert not any(instance.suspect for instance in receiver.registry)
        assert not {key for key in receiver.registry.unknown() if key in truth}
        assert receiver.registry.counters["revision_clashes"] == 0
