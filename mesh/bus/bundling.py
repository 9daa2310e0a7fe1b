"""What happens with bundles, and the state that it needs. `mesh.bus.bundles` has their format.

Under load a gateway has many requests for the same instance at once, and the instance many replies for the same
gateway. What they cost in the NATS server is nearly all by the message, not by the byte (ADR 17). The life of a bundle:

1. *Made.* `Bus.send` gives a request for an instance that announces ``bundles`` to `WriteQueue.add_to_bundle` of its
   connection; `Bus.reply` does so with a reply for an inbox in `BundlePeers.inboxes`.
2. *Sent.* `WriteQueue` encodes the bundles that are open (`bundles.encode`) at the end of the event loop's turn, or
   before: when `REQUESTS_PER_WRITE` are together, when one is full, and when another message is sent, so that messages
   keep their order. `Requests.bundle_sent` notes who was together.
3. *Unpacked.* At the instance `Dispatcher.receive` knows a bundle by its subject. `Bus.open_bundle` notes that the
   inbox takes bundles of replies (`BundlePeers.inboxes`); each message of `bundles.unpack` is a request like any other.
4. *Answered.* `Requests.deliver` unpacks a bundle of replies, and each goes to its request by its token.
5. *Nobody listens.* NATS says so once, to the first request's reply subject. `Requests` ends all of the bundle. If the
   first has ended by then, `HeadlessBundles` knows the others by its token.
6. *Refused.* An instance cannot answer the requests one by one if NATS maps the reply subject between accounts. It
   begins none and answers `bundles.REFUSAL` (`Bus.open_bundle`). `Requests` then has `Bus` send each again by itself,
   and `BundlePeers.refused` remembers the instance. A server that does not permit the subject of bundles turns them off
   for good (`Bus.refused`).
7. *Cancelled.* A request is cancelled by itself (`Requests.close`), before or after its bundle is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from typing import Final

from mesh.bus.bundles import MARK
from mesh.bus.pending import Pending

_log = logging.getLogger("mesh.bus")


class BoundedSet(set[bytes]):
    """Remembers at most `MAX` subjects; when it is full it forgets all, since instances and callers come and go."""

    MAX: Final = 4096

    def remember(self, subject: bytes) -> None:
        if subject not in self:
            if len(self) >= self.MAX:
                self.clear()
            self.add(subject)


class BundlePeers:
    """What one bus knows about others and bundles."""

    __slots__ = ("_is_said", "inboxes", "refusing")

    def __init__(self) -> None:
        self.inboxes = BoundedSet()
        """Inboxes (reply subjects without their last token) that take bundles of replies: one of requests came from
        each."""
        self.refusing = BoundedSet()
        """Instances, as the prefixes of their subjects, that cannot answer the requests of a bundle one by one."""
        self._is_said = False

    def refused(self, prefix: bytes) -> None:
        """Send that instance no more bundles."""
        self.refusing.remember(prefix)
        if not self._is_said:
            self._is_said = True
            receiver = prefix.decode("ascii", "replace").rstrip(".")
            _log.info("no bundles to %s and its like: NATS maps replies there, as between accounts", receiver)


class HeadlessBundles(dict[bytes, list[Pending]]):
    """Bundles whose first request has ended before anything was heard of them: the other requests, by its token."""

    def keep(self, first: Pending, in_flight: Container[bytes]) -> None:
        """Keep the others of a bundle whose first request ends.

        in_flight: the tokens of all requests in flight; bundles that have none among them are forgotten.
        """
        for token in [token for token, others in self.items() if not any(other.token in in_flight for other in others)]:
            del self[token]
        self[first.token] = first.bundled_with or []


def is_unanswered(bundled: Iterable[Pending]) -> bool:
    """True if no request of a bundle was answered: an instance that has answered one cannot refuse the bundle."""
    return not any(pending.is_answered for pending in bundled)


def bundled_below(prefix: bytes, in_flight: Iterable[Pending], headless: HeadlessBundles) -> list[Pending]:
    """The requests that went in bundles to subjects below ``prefix``, compared in lower case."""
    bundles = [[first, *first.bundled_with] for first in in_flight if first.bundled_with is not None]
    return [
        pending
        for bundle in (*bundles, *headless.values())
        for pending in bundle
        if pending.address.lower().startswith(prefix)
    ]


def prefix_of_bundles(address: bytes) -> bytes:
    """The prefix of the messages' subjects if ``address`` is one for bundles; empty otherwise."""
    return address[: -len(MARK)] if address.endswith(b"." + MARK) else b""
