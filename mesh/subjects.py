"""Subjects: built from checked names only, parsed back into names.

A subject is never made from bytes of a request. `NAME` is the grammar of services, instances, endpoints and
the mesh's prefix, so that no name can hold a dot, a wildcard, white space or a control character.
"""

from __future__ import annotations

import re
import secrets
from typing import NamedTuple

from mesh.errors import BadSubject

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
GATEWAY = "gateway"
RESERVED = frozenset({GATEWAY, "client"})
"""Names that no service may have; a gateway announces itself, without endpoints."""
QUEUE = "q"
# The server closes a connection on a control line over 4,096 bytes (its default): subject, reply and sizes
# share that line, so each of the two gets less than half of it.
MAX_SUBJECT = 1900
_UNSAFE = re.compile(r"[\x00-\x20\x7f]|^\.|\.\Z|\.\.")
# A subject with other bytes than these disconnects whoever receives it.
_REPLY = re.compile(rb"(?!\$)[!-~]{1,%d}" % MAX_SUBJECT)


class Party(NamedTuple):
    """Who a control subject speaks of."""

    service: str
    instance: str


def is_name(text: str) -> bool:
    """Whether ``text`` may be a token: ``[A-Za-z0-9_-]{1,64}``."""
    return NAME.fullmatch(text) is not None


# Crockford base 32: no two of these look alike in a log.
_LETTERS = bytes(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[byte & 31] for byte in range(256))


def new_id() -> str:
    """A new instance id: 22 characters, 110 random bits, never a leading ``-`` (it would read as a flag)."""
    return secrets.token_bytes(22).translate(_LETTERS).decode()


def check_subject(subject: str, *, wildcards: bool = False) -> str:
    """Return ``subject`` or raise `BadSubject`.

    Refuses what nats-py or the server let through to somebody's harm: control characters (vertical tab and
    form feed disconnect receivers), empty tokens, over-long or non-ASCII subjects, wildcards when publishing.
    """
    if not subject or len(subject) > MAX_SUBJECT:
        raise BadSubject(f"subject has {len(subject)} characters; 1 to {MAX_SUBJECT} are allowed")
    if not subject.isascii() or _UNSAFE.search(subject):
        raise BadSubject(f"subject {subject!r} has a blank, control or non-ASCII character or an empty token")
    if not wildcards and ("*" in subject or ">" in subject):
        raise BadSubject(f"subject {subject!r} has a wildcard; only subscriptions may")
    return subject


def takes_requests(subject: str, prefix: str) -> bool:
    """Whether a request may be sent to an endpoint that somebody outside the mesh with ``prefix`` says listens there.

    Who sends has the permissions of a gateway: a subject of the mesh itself would have it forge announcements or
    stop services, one below ``$`` would have it use NATS's own interfaces. One with wildcards names no place.
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
        """Where one of a service's instances tells since when the service claims its routes."""
        return f"{self.prefix}.claims.{service}"

    def request(self, service: str, endpoint: str) -> str:
        return f"{self.prefix}.req.{service}.{endpoint}"

    def to(self, service: str, instance: str, endpoint: str) -> str:
        """The address of one endpoint of one instance; ``endpoint="*"`` is what the instance subscribes to."""
        return f"{self.prefix}.to.{service}.{instance}.{endpoint}"

    def inbox(self, service: str, instance: str, random: str) -> str:
        """The prefix of an inbox, without its last token."""
        return f"{self.prefix}.inbox.{service}.{instance}.{random}"

    def stream(self, service: str, instance: str, id: str) -> str:
        """Where an instance takes the frames of one stream; ``id="*"`` is what it subscribes to."""
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
        """Whether a reply subject is an inbox of this mesh: it names the service and instance that sent the request."""
        return reply.startswith(self.reply_guard[1])

    def is_stream(self, subject: bytes) -> bool:
        """Whether frames may be sent to that subject: an instance's stream, or a caller's inbox."""
        own = self.reply_guard[0]
        return subject.startswith((own + b"stream.", own + b"inbox.")) and _REPLY.fullmatch(subject) is not None

    def may_reply(self, reply: bytes) -> bool:
        """Whether an instance may answer to that subject.

        A caller chooses the reply subject, and the answer is published with the instance's permissions: one
        under the mesh's own prefix, or under ``$``, would let a caller forge announcements with them.
        """
        own, inbox = self.reply_guard
        if reply.startswith(own) and not reply.startswith(inbox):
            return False
        return _REPLY.fullmatch(reply) is not None
