"""Endpoints of foreign NATS micro services, by name: they announce nothing, so they are asked where they listen."""

from __future__ import annotations

from mesh.bus import Bus, Reply
from mesh.client.attempts import block_of
from mesh.errors import DeadlineExceeded, NoResponders, NotFound
from mesh.foreign import FIRST_S, MicroInstance, subjects_of, survey

KEEP_S = 60.0
"""For how long an answer counts; a service may be replaced by one whose endpoints listen elsewhere."""


class ForeignEndpoints:
    """Calls endpoints of services that are none of the mesh; remembers for `KEEP_S` what each service has."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: dict[str, tuple[float, dict[str, str]]] = {}  # until when, and subjects by endpoint

    async def call(self, service: str, endpoint: str, carried: bytes, payload: bytes, deadline: float) -> Reply | None:
        """The reply of an instance that NATS chooses, or None where nobody has that name. ``deadline``: `Bus.now`.

        Raises `NotFound` where the service has no such endpoint, `DeadlineExceeded`, `BusUnavailable`, `TooLarge`.
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
        address = self._bus.address(subjects[endpoint])
        try:
            return await self._bus.request(address, payload, block_of(left, b"", carried), timeout=left, lenient=True)
        except NoResponders:
            self._known.pop(service, None)
            raise

    async def _ask(self, service: str, deadline: float) -> dict[str, str]:
        def found(micros: list[MicroInstance]) -> bool:
            return any(micro.foreign for micro in micros)

        # One answer will do: instances of one service are taken to have the same endpoints.
        patience = min(FIRST_S, max(0.0, deadline - self._bus.now()))
        micros = await survey(self._bus, "INFO", service, first=patience, complete=found)
        subjects = subjects_of((micro for micro in micros if micro.foreign), self._bus.subjects.prefix)
        if subjects:
            self._known[service] = self._bus.now() + KEEP_S, subjects
        else:
            self._known.pop(service, None)
        return subjects
