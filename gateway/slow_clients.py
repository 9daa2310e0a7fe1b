"""Clients that do not take what is sent to them: their connections are ended, not kept with what waits for them."""

from __future__ import annotations

from typing import Any

STALLED_S = 60.0
"""Seconds in which a client takes nothing of what waits for it, after which it is given up."""


class OutgoingBuffer:
    """The bytes that wait to be sent on one connection. Asked regularly: it stalls if their number stays the same."""

    __slots__ = ("_since", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._since = 0.0

    def stalls(self, transport: Any, now: float) -> bool:
        """True if bytes have been waiting for `STALLED_S` and none was taken; ``now`` in seconds."""
        size = transport.get_write_buffer_size()
        if not size or size != self._size:
            self._size, self._since = size, now
            return False
        return now - self._since > STALLED_S
