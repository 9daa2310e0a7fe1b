"""What came of the attempts to have a connection: said once each, and whether waiting for the first is of use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

from mesh.bus.connection_errors import Reason


class Failures:
    """The last reason of each server since a connection was there. ``servers`` are the URLs that are configured.

    ``hopeless`` is set when each of them, or something before any of them, has failed for a reason that stays.
    """

    def __init__(self, servers: Iterable[str]) -> None:
        self.hopeless = asyncio.Event()
        self._configured = {urlsplit(url).netloc for url in servers}
        self._reasons: dict[str, Reason] = {}

    def note(self, where: str, reason: Reason) -> bool:
        """Keep the reason of the server with that URL, empty for none; whether it is another one than before."""
        address = urlsplit(where).netloc
        known = self._reasons.get(address)
        self._reasons[address] = reason
        if all(kept.final for kept in self._reasons.values()) and (not address or self.everywhere):
            self.hopeless.set()
        else:
            self.hopeless.clear()
        return known != reason

    def knows(self, where: str) -> bool:
        """Whether that server has failed since a connection was there."""
        return urlsplit(where).netloc in self._reasons

    def clear(self) -> None:
        """A connection is there."""
        self._reasons.clear()
        self.hopeless.clear()

    @property
    def everywhere(self) -> bool:
        """Whether every configured server has failed."""
        return self._configured <= self._reasons.keys()

    def summary(self) -> Reason | None:
        """The reasons as one, each once; None before the first."""
        reasons = list(dict.fromkeys(self._reasons.values()))
        if len(reasons) < 2:
            return reasons[0] if reasons else None
        what = "; ".join(f"{reason.what} ({address})" for address, reason in self._reasons.items())
        return Reason(what, "; ".join(dict.fromkeys(reason.todo for reason in reasons if reason.todo)))
