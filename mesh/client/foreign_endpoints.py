"""Calls by name to foreign services: NATS micro services outside the mesh.

They announce nothing, so they are asked on which subjects their endpoints listen.
"""

from __future__ import annotations

from mesh.bus import Bus, Reply
from mesh.client.attempt_messages import request_block
from mesh.errors import DeadlineExceeded, NoResponders, NotFound
from mesh.foreign import FIRST_S, MicroInstance, subjects_of, survey

KEEP_S = 60.0
"""Seconds for which the subjects of a service are remembered; a service that replaces it may have others."""


class ForeignEndpoints:
    """Calls endpoints of foreign services, and remembers their subjects for `KEEP_S`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[str, tuple[float, dict[str, str]]] = {}  # until when, and subjects by endpoint

    async def call(self, service: str, endpoint: str, lines: bytes, payload: bytes, deadline: float) -> Reply | None:
        """The reply of an instance that NATS chooses; None if no foreign service has that name.

        lines: header lines, each ending in CRLF.
        deadline: a moment of `Bus.now`.
        Raises `NotFound` if the service has no such endpoint, `DeadlineExceeded`, `BusUnavailable`, `TooLarge`.
        """
        until, subjects = self._known.get(service, (0.0, {}))
        if until < self._bus.now():
            subjects = await self._ask(service, deadline)
        if not subjects:
            return None
        if endpoint not in subjects:
            raise NotFound(f"{service}, a NATS micro service, has no endpoint {endpoint!r}")
        left = deadline - self._bus.now()
        if left <= 0:
            raise DeadlineExceeded(f"the deadline passed while {service} was asked where it listens", executed="no")
        address, block = self._bus.address(subjects[endpoint]), request_block(left, lines)
        try:
            return await self._bus.request(address, payload, block, timeout=left, lenient=True)
        except NoResponders:
            self._known.pop(service, None)
            raise

    async def _ask(self, service: str, deadline: float) -> dict[str, str]:
        """The subjects of a service's endpoints, by name; empty if no foreign service has that name."""

        def has_foreign(micros: list[MicroInstance]) -> bool:
            return any(micro.foreign for micro in micros)

        # The first reply is enough: instances of one service are taken to have the same endpoints.
        timeout = min(FIRST_S, max(0.0, deadline - self._bus.now()))
        micros = await survey(self._bus, "INFO", service, first=timeout, complete=has_foreign)
        subjects = subjects_of((micro for micro in micros if micro.foreign), self._bus.subjects.prefix)
        if subjects:
            self._known[service] = self._bus.now() + KEEP_S, subjects
        else:
            self._known.pop(service, None)
        return subjects
