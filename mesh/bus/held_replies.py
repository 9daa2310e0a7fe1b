"""Replies that wait for a connection: their callers, on another server of the cluster, may still wait too."""

from __future__ import annotations

HELD_REPLIES = 2 * 1024 * 1024
"""Bytes of replies kept while disconnected."""


class HeldReplies:
    """Reply subject, payload and header block of each, in order."""

    __slots__ = ("_replies", "_size", "dropped")

    def __init__(self) -> None:
        self.dropped = 0
        """Replies for which there was no room."""
        self._replies: list[tuple[bytes, bytes, bytes]] = []
        self._size = 0

    def keep(self, reply: bytes, payload: bytes, block: bytes) -> None:
        """Keep one, or count it as dropped."""
        size = len(payload) + len(block)
        if self._size + size > HELD_REPLIES:
            self.dropped += 1
            return
        self._replies.append((reply, payload, block))
        self._size += size

    def release(self) -> list[tuple[bytes, bytes, bytes]]:
        """All that were kept, to be sent now."""
        replies, self._replies, self._size = self._replies, [], 0
        return replies
