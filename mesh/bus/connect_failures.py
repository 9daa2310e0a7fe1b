"""Why attempts to connect failed: each reason is logged once, and together they say if waiting can help.

With NATS_URL ``nats://a:4222,nats://b:4222``: a refuses the login, which is final, so only b can help. When b refuses
it too, `Failures.hopeless` is set, and ``async with Bus(...)`` raises at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

from mesh.bus.connection_errors import Reason


class Failures:
    """The last reason of each server since the last connection. ``servers``: the configured URLs."""

    def __init__(self, servers: Iterable[str]) -> None:
        self.hopeless = asyncio.Event()
        """Set if each server failed for a final reason, or if something that they all need did."""
        self._configured = {urlsplit(url).netloc for url in servers}
        self._reasons: dict[str, Reason] = {}

    def note(self, where: str, reason: Reason) -> bool:
        """Keep why the server ``where`` failed. Returns True if it is another reason than before.

        where: the server's URL; empty if the failure came before a server was chosen.
        """
        address = urlsplit(where).netloc
        known = self._reasons.get(address)
        self._reasons[address] = reason
        if all(kept.final for kept in self._reasons.values()) and (not address or self.everywhere):
            self.hopeless.set()
        else:
            self.hopeless.clear()
        return known != reason

    def knows(self, where: str) -> bool:
        """True if that server has failed since the last connection."""
        return urlsplit(where).netloc in self._reasons

    def clear(self) -> None:
        """There is a connection."""
        self._reasons.clear()
        self.hopeless.clear()

    @property
    def everywhere(self) -> bool:
        """True if every configured server has failed."""
        return self._configured <= self._reasons.keys()

    def summary(self) -> Reason | None:
        """All reasons as one, each once; None before the first."""
        reasons = list(dict.fromkeys(self._reasons.values()))
        if len(reasons) < 2:
            return reasons[0] if reasons else None
        what = "; ".join(f"{reason.what} ({address})" for address, reason in self._reasons.items())
        return Reason(what, "; ".join(dict.fromkeys(reason.todo for reason in reasons if reason.todo)))
