"""What happens with bundles, and the state that it needs. `mesh.bus.bundles` has their format.

Under load a gateway has many requests for the same instance at once, and the instance many replies for the same
gateway. What they cost in the NATS server is nearly all by the message, not by the byte (ADR 17). The life of a bundle:

1. *Made.* `Bus.send` gives a request for an instance that announces ``bundles`` to `BundleWriter.add` of its
   connection; `Bus.reply` does so with a reply for an inbox in `BundlePeers.inboxes`.
2. *Sent.* `BundleWriter.seal` encodes all that are open (`bundles.encode`), at the end of the event loop's turn
   (`FastTransport._write_out`) or before: when `REQUESTS_PER_WRITE` are together, when one is full, and when another
   message is sent (`FastTransport.send`), so that messages keep their order. `Requests.bundle_sent` notes who was
   together.
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
from collections.abc import Callable, Container, Iterable
from typing import Final

from msgspec import Struct

from mesh.bus.bundles import FRAMING, MARK, MAX_BUNDLE, MAX_MESSAGE, BundledMessage, encode
from mesh.bus.pending import Pending

REQUESTS_PER_WRITE: Final = 32
"""Requests of a bundle that are written without waiting for the end of the turn: the receiver works on them while the
others are still collected."""

_log = logging.getLogger("mesh.bus")


class _OpenBundle(Struct, eq=False):
    """A bundle that still takes messages. ``size``: bytes that its payload has at most."""

    size: int = 0
    messages: list[BundledMessage] = []


class BundleWriter:
    """Collects the bundles of one connection, one for each receiver.

    queue: the parts of commands that the connection writes next; bundles are appended to it when they are sealed.
    begin: called for each new bundle, has the queue written at the end of the turn; False refuses the bundle.
    write: writes the queue now.
    """

    __slots__ = ("_begin", "_max_bundle", "_max_message", "_queue", "_sent", "_write", "messages_out", "open")

    def __init__(self, queue: list[bytes], begin: Callable[[], bool], write: Callable[[], None]) -> None:
        self.open: dict[bytes, _OpenBundle] = {}
        """Bundles that were not sealed yet, by the prefix of their messages' subjects; never another dictionary."""
        self.messages_out = 0
        self._queue = queue
        self._begin = begin
        self._write = write
        self._sent: Callable[[list[Pending]], None] = lambda pending: None
        self._max_bundle = 0
        self._max_message = -1  # of none

    def allow(self, max_payload: int, sent: Callable[[list[Pending]], None]) -> None:
        """Take messages from now on.

        max_payload: bytes that the server takes in one message.
        sent: called with the requests of each bundle of more than one.
        """
        self._max_bundle = min(MAX_BUNDLE, max_payload)
        self._max_message = min(MAX_MESSAGE, self._max_bundle // 4)
        self._sent = sent

    def forbid(self) -> None:
        """Take no more messages."""
        self._max_message = -1

    def add(
        self, prefix: bytes, names: bytes, reply: bytes, block: bytes, payload: bytes, pending: Pending | None
    ) -> bool:
        """Add a message, in its order among all that are sent; see `BundledMessage` for the parameters.

        prefix: the message's subject without its last token, ending in a dot.

        Returns False if the message has to be sent by itself: it is large, or the server reads slowly.
        """
        size = len(block) + len(payload)
        if size > self._max_message:
            return False
        bundle = self.open.get(prefix)
        if bundle is None:
            if not self._begin():
                return False
            bundle = self.open[prefix] = _OpenBundle()
        size += len(names) + FRAMING
        if bundle.size + size > self._max_bundle:
            self.seal()
            bundle = self.open[prefix] = _OpenBundle()
        bundle.size += size
        bundle.messages.append(BundledMessage(names, reply, block, payload, pending))
        if pending is not None and len(bundle.messages) == REQUESTS_PER_WRITE:
            self._write()
        return True

    def seal(self) -> None:
        """Move all open bundles to the queue, in the order in which they were begun."""
        for prefix, bundle in self.open.items():
            messages = bundle.messages
            self._queue += encode(prefix, messages)
            if len(messages) > 1 and messages[0].pending is not None:
                self._sent([message.pending for message in messages if message.pending is not None])
            self.messages_out += 1
        self.open.clear()


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
