"""Finds contradictions in the messages of an instance: another process speaks in its name, or two have one id.

An instance numbers its messages, and NATS keeps their order on each of its two subjects. So one process alone never
uses a number twice, never goes back, never jumps far ahead, and says nothing after ``stopped``.
"""

from __future__ import annotations

from typing import Final

from mesh.messages import Announcement, Control
from mesh.subjects import Party

JUMP: Final = 1000
"""Messages that an instance can publish between two that are heard, at most."""


class Witness:
    """Takes every announcement and heartbeat in the order of arrival. ``found`` has the contradictions by instance."""

    def __init__(self) -> None:
        self.found: dict[Party, str] = {}
        """The first contradiction of each instance, as a few words."""
        self._last: dict[tuple[Party, bool], Control] = {}  # of announcements (True) and of heartbeats
        self._stopped: dict[Party, int] = {}  # and the seq of that

    def hear(self, message: Control) -> None:
        """Take in a message."""
        party = Party(message.name, message.id)
        announces = isinstance(message, Announcement)
        before = self._last.get((party, announces))
        if before == message:
            return  # a copy: this process changed from one connection to another
        what = self._contradiction(party, message, before, self._last.get((party, not announces)))
        if what:
            self.found.setdefault(party, what)
        self._last[party, announces] = message
        if message.state == "stopped":
            self._stopped[party] = message.seq

    def _contradiction(self, party: Party, message: Control, before: Control | None, other: Control | None) -> str:
        if message.seq > self._stopped.get(party, message.seq):
            return "said 'stopped' and goes on"
        if before is not None:
            if message.seq <= before.seq:
                return f"seq {message.seq} came after {before.seq}"
            if message.seq - max(before.seq, other.seq if other is not None else 0) > JUMP:
                return f"seq jumped from {before.seq} to {message.seq}"
        if other is not None and message.seq == other.seq:
            return f"two messages with seq {message.seq}"
        return ""
