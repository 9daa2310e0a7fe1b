"""What an instance said of itself, against what is heard in its name."""

from __future__ import annotations

from collections import deque

from mesh.messages import Announcement, Control

KEPT = 256
"""Messages by which an instance knows its own ones again: it publishes some in a second and hears them at once."""


class OwnMessages:
    """The last messages that an instance published. ``data in words`` tells its own ones from those of others.

    Of each only a hash is kept. It differs from process to process, so nobody can make a message that passes.
    """

    __slots__ = ("_hashes",)

    def __init__(self, kept: int = KEPT) -> None:
        self._hashes: deque[int] = deque(maxlen=kept)

    def add(self, data: bytes) -> None:
        self._hashes.append(hash(data))

    def __contains__(self, data: bytes) -> bool:
        return hash(data) in self._hashes


def contradicts(message: Control, truth: Announcement) -> bool:
    """Whether watchers that believe ``message`` know something else than ``truth``.

    What `details` gives does not count here.
    """
    if message.state != truth.state or message.revision != truth.revision:
        return True
    if not isinstance(message, Announcement):
        return False
    said = (message.version, message.routes, message.endpoints)
    return said != (truth.version, truth.routes, truth.endpoints)


def details(message: Announcement) -> tuple[object, ...]:
    """What two copies of one process may differ in, so that they would correct each other without end.

    They always differ in ``started``, which decides nothing and is put right by the next announcement.
    """
    return (
        message.claimed,
        message.connection,
        message.heartbeat_ms,
        message.bundles,
        message.description,
        message.metadata or {},
    )
