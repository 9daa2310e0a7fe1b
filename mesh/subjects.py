"""Subjects: built from checked names only, parsed back into names.

A subject is never made from bytes of a request. `NAME` is the grammar for names of services, instances and endpoints
and for the mesh's prefix. So no name has a dot, a wildcard, white space or a control character.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from mesh.errors import BadSubject

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
GATEWAY = "gateway"
RESERVED = frozenset({GATEWAY, "client"})
"""Names that no service may have. A gateway announces itself, without endpoints."""
QUEUE = "q"
# The server closes a connection on a control line over 4,096 bytes (its default): subject, reply and sizes
# share that line, so each of the two gets less than half of it.
MAX_SUBJECT = 1900
_UNSAFE = re.compile(r"[\x00-\x20\x7f]|^\.|\.\Z|\.\.")
# A subject with other bytes than these disconnects its receivers.
_REPLY = re.compile(rb"(?!\$)[!-~]{1,%d}" % MAX_SUBJECT)


class Party(NamedTuple):
    """The instance that a control subject is about."""

    service: str
    instance: str


def is_name(text: str) -> bool:
    """True if ``text`` may be a token: ``[A-Za-z0-9_-]{1,64}``."""
    return NAME.fullmatch(text) is not None


# Crockford base 32: no two of these look alike in a log.
_LETTERS = bytes(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[byte & 31] for byte in range(256))


def new_id() -> str:
    """A new instance id: 22 characters, 110 random bits, never a leading ``-`` (it would read as a flag)."""
    return secrets.token_bytes(22).translate(_LETTERS).decode()


def check_subject(subject: str, *, wildcards: bool = False) -> str:
    """Return ``subject``, or raise `BadSubject`.

    wildcards: True allows them, for a subscription

    Refuses subjects that nats-py or the server let through and that do harm: with control characters (vertical tab and
    form feed disconnect receivers) or empty tokens, too long, not ASCII.
    """
    if not subject or len(subject) > MAX_SUBJECT:
        raise BadSubject(f"subject has {len(subject)} characters; 1 to {MAX_SUBJECT} are allowed")
    if not subject.isascii() or _UNSAFE.search(subject):
        raise BadSubject(f"subject {subject!r} has a blank, control or non-ASCII character or an empty token")
    if not wildcards and ("*" in subject or ">" in subject):
        raise BadSubject(f"subject {subject!r} has a wildcard; only subscriptions may")
    return subject


def takes_requests(subject: str, prefix: str) -> bool:
    """True if requests may be sent to a subject that a foreign service named.

    prefix: that of this mesh

    The sender has the permissions of a gateway. On a subject of the mesh it would forge announcements or stop services,
    on one below ``$`` it would use NATS's own interfaces. A subject with wildcards cannot be published to.
    """
    try:
        check_subject(subject)
    except BadSubject:
        return False
    return not subject.startswith(("$", "_")) and subject.partition(".")[0] != prefix


class Subjects:
    """The subjects of one mesh. ``prefix`` is one token and separates meshes on a NATS account."""

    __slots__ = ("announce_all", "heartbeat_all", "prefix", "reply_guard")

    def __init__(self, prefix: str = "mesh") -> None:
        if not is_name(prefix):
            raise BadSubject(f"mesh prefix {prefix!r} is not one token of letters, digits, '-' and '_'")
        self.prefix = prefix
        self.announce_all = f"{prefix}.announce.*.*"
        self.heartbeat_all = f"{prefix}.heartbeat.*.*"
        self.reply_guard = (f"{prefix}.".encode(), f"{prefix}.inbox.".encode())

    def announce(self, service: str = "*", instance: str = "*") -> str:
        return f"{self.prefix}.announce.{service}.{instance}"

    def heartbeat(self, service: str = "*", instance: str = "*") -> str:
        return f"{self.prefix}.heartbeat.{service}.{instance}"

    def discover(self, service: str = "", instance: str = "") -> str:
        return ".".join(filter(None, (self.prefix, "discover", service, instance)))

    def claims(self, service: str) -> str:
        """Where an instance replies with the times since which its service claims its routes."""
        return f"{self.prefix}.claims.{service}"

    def request(self, service: str, endpoint: str) -> str:
        return f"{self.prefix}.req.{service}.{endpoint}"

    def to(self, service: str, instance: str, endpoint: str) -> str:
        """The address of one endpoint of one instance. The instance subscribes to ``endpoint="*"``."""
        return f"{self.prefix}.to.{service}.{instance}.{endpoint}"

    def inbox(self, service: str, instance: str, random: str) -> str:
        """The prefix of an inbox, without its last token."""
        return f"{self.prefix}.inbox.{service}.{instance}.{random}"

    def stream(self, service: str, instance: str, id: str) -> str:
        """Where an instance takes the frames of one stream. It subscribes to ``id="*"``."""
        return f"{self.prefix}.stream.{service}.{instance}.{id}"

    def control(self, verb: str, service: str, instance: str = "") -> str:
        return ".".join(filter(None, (self.prefix, "ctl", service, instance, verb)))

    def event(self, name: str) -> str:
        return f"{self.prefix}.event.{name}"

    def party(self, subject: bytes) -> Party | None:
        """The service and instance of an announce or heartbeat subject; None for any other text."""
        tokens = subject.split(b".")
        if len(tokens) != 4 or not subject.isascii():
            return None
        return Party(tokens[2].decode(), tokens[3].decode())

    def is_inbox(self, reply: bytes) -> bool:
        """True if a reply subject is an inbox of this mesh: it names the service and instance that sent the request."""
        return reply.startswith(self.reply_guard[1])

    def is_stream(self, subject: bytes) -> bool:
        """True if frames may be sent to that subject: an instance's stream, or a caller's inbox."""
        own = self.reply_guard[0]
        return subject.startswith((own + b"stream.", own + b"inbox.")) and _REPLY.fullmatch(subject) is not None

    def may_reply(self, reply: bytes) -> bool:
        """True if an instance may reply to that subject.

        The caller chooses it, and the reply is published with the permissions of the instance: a subject below the
        mesh's prefix, or below ``$``, would let callers forge announcements.
        """
        own, inbox = self.reply_guard
        if reply.startswith(own) and not reply.startswith(inbox):
            return False
        return _REPLY.fullmatch(reply) is not None
