"""Which server to connect to next, and after which pause."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final
from urllib.parse import ParseResult

from nats.aio.client import Server

FIRST_PAUSE_S: Final = 0.02
"""Seconds of the longest pause before a server that was not tried yet; each further attempt doubles it."""
LONGEST_PAUSE_S: Final = 0.5


class Backoff:
    """The ``reconnect_to_server_handler`` of one client of nats-py.

    Servers are chosen at random and pauses have jitter, so that the clients of a restarted server do not all come at
    once. The server that was lost comes last, and every server is tried once before pauses grow. With three servers,
    after the loss of A::

        B or C after up to 20 ms, the other one after up to 20 ms, A, B or C after up to 40 ms, ...

    nats-py's own counts of attempts are not used: they are kept from one outage to the next.
    """

    def __init__(self) -> None:
        self._tried: Counter[str] = Counter()

    def connected(self, url: ParseResult | None) -> None:
        """There is a connection, to the server with that URL: attempts before it no longer count."""
        self._tried = Counter([url.netloc] if url is not None else [])

    def __call__(self, servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
        """Choose one of ``servers``. Returns it, and the seconds to wait before the attempt."""
        tried = self._tried
        fewest = min(tried[server.uri.netloc] for server in servers)
        choice = random.choice([server for server in servers if tried[server.uri.netloc] == fewest])
        tried[choice.uri.netloc] += 1
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(fewest, 8))
        return choice, random.uniform(0, longest)
