"""Why attempts to connect failed: each reason is logged once, and together they say if waiting can help.

With NATS_URL ``nats://a:4222,nats://b:4222``: a refuses the login, which is final, so only b can help. When b refuses
it too, `ConnectFailures.hopeless` is set, and ``async with Bus(...)`` raises at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from urllib.parse import urlsplit

from mesh.bus.connection_errors import Failure


class ConnectFailures:
    """The last reason of each server since the last connection. ``servers``: the configured URLs."""

    def __init__(self, servers: Iterable[str]) -> None:
        self.hopeless = asyncio.Event()
        """Set if each server failed for a final reason, or if something that they all need did."""
        self._configured = {urlsplit(url).netloc for url in servers}
        self._failures: dict[str, Failure] = {}

    def note(self, where: str, failure: Failure) -> bool:
        """Keep why the server ``where`` failed. Returns True if it is another failure than before.

        where: the server's URL; empty if the failure came before a server was chosen.
        """
        address = urlsplit(where).netloc
        known = self._failures.get(address)
        self._failures[address] = failure
        if all(kept.final for kept in self._failures.values()) and (not address or self.everywhere):
            self.hopeless.set()
        else:
            self.hopeless.clear()
        return known != failure

    def knows(self, where: str) -> bool:
        """True if that server has failed since the last connection."""
        return urlsplit(where).netloc in self._failures

    def clear(self) -> None:
        """There is a connection."""
        self._failures.clear()
        self.hopeless.clear()

    @property
    def everywhere(self) -> bool:
        """True if every configured server has failed."""
        return self._configured <= self._failures.keys()

    def summary(self) -> Failure | None:
        """All failures as one, each once; None before the first."""
        failures = list(dict.fromkeys(self._failures.values()))
        if len(failures) < 2:
            return failures[0] if failures else None
        what = "; ".join(f"{failure.what} ({address})" for address, failure in self._failures.items())
        return Failure(what, "; ".join(dict.fromkeys(failure.todo for failure in failures if failure.todo)))
