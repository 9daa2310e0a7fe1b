"""Waiting for the connection to NATS: for the first one, for any, and for the next one after a loss."""

from __future__ import annotations

import asyncio
from typing import Final

from mesh.bus.connect_failures import ConnectFailures
from mesh.bus.connection_errors import NO_NATS, Failure
from mesh.errors import BusUnavailable, NoConnection
from mesh.settings import BusSettings
from mesh.settings_reader import redact

RECONNECT_WAIT_S: Final = 0.045
"""Seconds after a loss for which a request waits for the next connection before it is refused."""
FAILOVER_S: Final = 0.25
"""The same if another server of the cluster is known: that may take a second attempt."""


class ConnectionWait:
    """Lets callers wait until `connected` is called.

    failures: what attempts to connect failed for.
    give_up_s: seconds after which the first connection is given up if every server has failed, for any reason.
    """

    def __init__(self, settings: BusSettings, failures: ConnectFailures, give_up_s: float) -> None:
        self._settings = settings
        self._failures = failures
        self._give_up_s = give_up_s
        self._is_up = asyncio.Event()
        self._lost_at = float("-inf")

    def connected(self) -> None:
        """There is a connection."""
        self._is_up.set()

    def lost(self) -> None:
        """The connection is lost."""
        self._lost_at = asyncio.get_running_loop().time()
        self._is_up.clear()

    async def until_connected(self, timeout: float) -> None:
        """Raise `NoConnection`, with the reason, if there is no connection within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._is_up.wait()
        except TimeoutError:
            raise self._no_connection() from None

    async def until_first(self) -> None:
        """Return with the first connection.

        Raises `NoConnection` after ``connect_timeout_s``, and as soon as every server has refused for a reason that
        stays, or after ``give_up_s`` for any reason.
        """
        failures = self._failures
        up, hopeless = (asyncio.ensure_future(event.wait()) for event in (self._is_up, failures.hopeless))
        left = self._settings.connect_timeout_s
        give_up = min(left, self._give_up_s)
        try:
            done, _ = await asyncio.wait((up, hopeless), timeout=give_up, return_when=asyncio.FIRST_COMPLETED)
            if not done and not failures.everywhere:
                await asyncio.wait((up, hopeless), timeout=left - give_up, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
            hopeless.cancel()
        if not self._is_up.is_set():
            raise self._no_connection()

    async def until_reconnected(self, has_others: bool) -> None:
        """Return when there is a connection, at the latest `RECONNECT_WAIT_S` after the loss of the last one.

        has_others: another server of the cluster is known, so that it may take `FAILOVER_S`.
        """
        left = self._lost_at + (FAILOVER_S if has_others else RECONNECT_WAIT_S) - asyncio.get_running_loop().time()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._is_up.wait()
            except TimeoutError:
                pass

    def _no_connection(self) -> BusUnavailable:
        where = ", ".join(redact(url) for url in self._settings.servers)
        reason = self._failures.summary() or Failure("no answer", NO_NATS, final=False)
        return NoConnection(f"no NATS at {where}: {reason.what}", hint=reason.todo)
