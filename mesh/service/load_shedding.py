"""Who runs now, who waits, who is refused: the places and bounded queues of one instance.

A request waits only where it will probably be done in time. One that waited until its caller had given up would
take a place from one that can still be served: under twice the load nearly nothing would be answered in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from mesh.service.endpoints import DeclaredEndpoint

if TYPE_CHECKING:
    from asyncio import Task

    from mesh.service.context import Context

WEIGHT: Final = 0.1
"""Share of the newest duration in the running mean."""
LONGEST_RETRY_AFTER_S: Final = 30.0


class Work(Struct, eq=False):
    """A request as it arrived. ``arrived`` is of the event loop's clock, in seconds.

    ``sender`` is the inbox that its reply goes to, without its last dot; empty where that is none of this mesh.
    ``began`` is a moment of `time.perf_counter`; ``task`` runs the handler, ``context`` is None until it does.
    """

    declared: DeclaredEndpoint
    reply: bytes
    block: bytes
    payload: bytes
    subject: bytes
    sender: bytes
    arrived: float
    received_ms: int
    doubt_ms: int
    began: float = 0.0
    task: Task[None] | None = None
    context: Context | None = None


class _Verdict(Enum):
    ENTERS = auto()
    WAITS = auto()
    REFUSED = auto()


_ENTERS, _WAITS, _REFUSED = _Verdict  # names of a module are found several times as fast as members of an enum


class Gate:
    """Places, a queue before them, and how long a place is taken on average (seconds)."""

    __slots__ = ("mean_s", "places", "queue", "taken", "waiting", "what")

    def __init__(self, what: str, places: int, queue: int) -> None:
        self.what = what
        self.places = places
        self.queue = queue
        self.taken = 0
        self.mean_s = 0.0
        self.waiting: deque[Work] = deque()

    @property
    def wait_s(self) -> float:
        """How long one more would wait."""
        return self.mean_s * (len(self.waiting) + 1) / self.places

    def observe(self, seconds: float) -> None:
        """A place was taken for that long."""
        self.mean_s += (seconds - self.mean_s) * (WEIGHT if self.mean_s else 1.0)


class LoadShedding:
    """Lets work in: first through the gate of its endpoint, where that has one, then through the instance's.

    ``start(work)`` runs it; `ended` must follow. ``refuse(work, detail, retry_after)`` answers it, with seconds after
    which there should be room. ``left(work)`` are the seconds until its caller gives up; asked only where it queues.
    """

    def __init__(
        self,
        places: int,
        queue: int,
        *,
        start: Callable[[Work], None],
        refuse: Callable[[Work, str, float], None],
        left: Callable[[Work], float],
    ) -> None:
        self._instance = Gate("calls", places, queue)
        self._gates: dict[str, Gate] = {}
        self._start = start
        self._refuse = refuse
        self._left = left

    @property
    def running(self) -> int:
        return self._instance.taken

    def offer(self, work: Work) -> None:
        """Start ``work``, or keep it waiting, or refuse it."""
        if not work.declared.concurrency:
            self._admit(work)
            return
        gate = self._gate(work.declared)
        if self._enter(gate, work) is _ENTERS and not self._admit(work):
            self._leave(gate)

    def ended(self, work: Work, seconds: float) -> None:
        """What was started has ended after that many seconds; whoever waited may follow."""
        self._instance.observe(seconds)
        self._leave(self._instance)
        if work.declared.concurrency:
            gate = self._gate(work.declared)
            gate.observe(seconds)
            self._leave(gate)

    def withdraw(self, reply: bytes) -> Work | None:
        """Take the waiting request with that reply subject out of its queue; None where none waits."""
        for gate in (self._instance, *self._gates.values()):
            for work in gate.waiting:
                if work.reply == reply:
                    gate.waiting.remove(work)
                    if gate is self._instance:
                        self._leave_own(work)
                    return work
        return None

    def clear(self) -> list[Work]:
        """Take everything out that waits."""
        cleared: list[Work] = []
        for gate in self._gates.values():
            cleared += gate.waiting
            gate.waiting.clear()
        cleared += self._instance.waiting
        for work in self._instance.waiting:
            if work.declared.concurrency:
                self._gate(work.declared).taken -= 1
        self._instance.waiting.clear()
        return cleared

    # -- the rest

    def _gate(self, declared: DeclaredEndpoint) -> Gate:
        """The gate of an endpoint that has a ``concurrency`` of its own."""
        gate = self._gates.get(declared.name)
        if gate is None:
            what = f"calls of {declared.name}"
            gate = self._gates[declared.name] = Gate(what, declared.concurrency, declared.queue)
        return gate

    def _enter(self, gate: Gate, work: Work) -> _Verdict:
        if gate.taken < gate.places:
            gate.taken += 1
            return _ENTERS
        wait = gate.wait_s
        if len(gate.waiting) >= gate.queue:
            self._overloaded(gate, work, f"{gate.places} {gate.what} run and {gate.queue} wait")
        elif wait + gate.mean_s > self._left(work):
            self._overloaded(gate, work, f"{len(gate.waiting)} {gate.what} wait: its turn would come in {wait:.1f} s")
        else:
            gate.waiting.append(work)
            return _WAITS
        return _REFUSED

    def _admit(self, work: Work) -> bool:
        """Start it, or let it wait for the instance; False where it was refused."""
        verdict = self._enter(self._instance, work)
        if verdict is _ENTERS:
            self._start(work)
        return verdict is not _REFUSED

    def _leave(self, gate: Gate) -> None:
        gate.taken -= 1
        while gate.waiting and gate.taken < gate.places:
            work = gate.waiting.popleft()
            if self._left(work) < gate.mean_s:
                self._overloaded(gate, work, "its turn came too late to be done in time")
                if gate is self._instance:
                    self._leave_own(work)
                continue
            if gate is self._instance:
                gate.taken += 1
                self._start(work)
            elif self._admit(work):
                gate.taken += 1

    def _leave_own(self, work: Work) -> None:
        if work.declared.concurrency:
            self._leave(self._gate(work.declared))

    def _overloaded(self, gate: Gate, work: Work, detail: str) -> None:
        self._refuse(work, detail, min(LONGEST_RETRY_AFTER_S, max(1.0, gate.wait_s)))
