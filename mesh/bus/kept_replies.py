"""Replies that wait for a connection: their callers, on another server of the cluster, may still wait for them."""

from __future__ import annotations

from typing import Final

MAX_KEPT: Final = 2 * 1024 * 1024
"""Bytes of replies that are kept while there is no connection."""


class KeptReplies:
    """Replies in the order in which they were given: reply subject, payload and header block of each."""

    __slots__ = ("_replies", "_size", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        """Replies for which there was no room."""
        self._replies: list[tuple[bytes, bytes, bytes]] = []
        self._size = 0

    def keep(self, reply: bytes, payload: bytes, block: bytes) -> None:
        """Keep a reply, or count it as dropped."""
        size = len(payload) + len(block)
        if self._size + size > MAX_KEPT:
            self.dropped += 1
            return
        self._replies.append((reply, payload, block))
        self._size += size

    def release(self) -> list[tuple[bytes, bytes, bytes]]:
        """Return all that were kept, to be sent now, and forget them."""
        replies, self._replies, self._size = self._replies, [], 0
        return replies
