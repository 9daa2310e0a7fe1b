"""What an instance said of itself, against what is heard in its name."""

from __future__ import annotations

from collections import deque

from mesh.messages import Announcement, Control, Endpoint, Route, State

KEPT = 256
"""Messages by which an instance knows its own ones again: it publishes some in a second and hears them at once."""


class OwnWords:
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


def contradicts(
    message: Control,
    revision: str,
    version: str,
    state: State,
    endpoints: tuple[Endpoint, ...],
    routes: tuple[Route, ...],
) -> bool:
    """Whether watchers that believe ``message`` know something else than is true."""
    if message.state != state or message.revision != revision:
        return True
    if not isinstance(message, Announcement):
        return False
    return message.version != version or message.routes != routes or message.endpoints != endpoints
