"""Messages that another process publishes in the name of an instance: how the instance recognises them."""

from __future__ import annotations

from collections import deque
from typing import Final

from mesh.messages import Announcement, Control

REMEMBERED: Final = 256
"""Messages by which an instance recognises its own: it publishes a few a second, and hears them at once."""


class PublishedMessages:
    """The last messages that an instance published: ``data in published`` is True for its own ones.

    Only a hash of each is kept. It differs from process to process, so no other process can make a message that passes.
    """

    __slots__ = ("_hashes",)

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._hashes: deque[int] = deque(maxlen=remembered)

    def add(self, data: bytes) -> None:
        """Remember a message."""
        self._hashes.append(hash(data))

    def __contains__(self, data: bytes) -> bool:
        return hash(data) in self._hashes


def misleads(message: Control, current: Announcement) -> bool:
    """True if watchers that believe ``message`` know something other than ``current``, apart from `details`."""
    if message.state != current.state or message.revision != current.revision:
        return True
    if not isinstance(message, Announcement):
        return False
    said = (message.version, message.routes, message.endpoints)
    return said != (current.version, current.routes, current.endpoints)


def details(message: Announcement) -> tuple[object, ...]:
    """The fields in which two copies of one process may differ, so that they would correct each other without end.

    They always differ in ``started``, too. It decides nothing, and the next announcement corrects it.
    """
    return (
        message.claimed,
        message.connection,
        message.heartbeat_ms,
        message.bundles,
        message.description,
        message.metadata or {},
    )
