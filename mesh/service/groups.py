"""Endpoints called by name: their subjects, their queue groups, and groups of them (NATS ADR-32).

A subject that an author gives is used literally, so that micro clients of every language reach it; otherwise it is the
mesh's own. Wildcards are allowed as NATS ADR-32 allows them, except in the first token: a subscriber on ``*`` or ``>``
would get all requests and replies, and NATS would never again report a subject without responders.
"""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any, TypeVar

from mesh.errors import BadSubject, DeclarationError
from mesh.service.declaration_hints import check_called
from mesh.service.endpoints import DeclaredEndpoint, EndpointOptions, declare_endpoint, name_of
from mesh.subjects import check_subject

H = TypeVar("H", bound=Callable[..., Any])
QueueGroup = str | EllipsisType | None
"""A name; None for a plain subscription (every instance hears every request); ``...`` for the enclosing group's."""


class Group:
    """Endpoints below one subject, with one queue group.

    ::

        sensors = service.group("sensors", queue_group="readers")

        @sensors.endpoint()  # listens on sensors.read
        async def read(name: str) -> float: ...

    A service is the group without a subject: its endpoints listen on ``<prefix>.req.<service>.<name>`` unless they
    name a subject. The mesh reaches every endpoint by its name too.
    """

    def __init__(self, add: Callable[[DeclaredEndpoint], None], prefix: str, queue_group: str) -> None:
        self.prefix = prefix
        self.queue_group = queue_group
        self._add = add

    def endpoint(
        self,
        name: str = "",
        *,
        subject: str = "",
        queue_group: QueueGroup = ...,
        metadata: dict[str, str] | None = None,
        cancel: bool = False,
    ) -> Callable[[H], H]:
        """Declare an endpoint without an HTTP route.

        name: its name, unique in its service; the handler's by default
        subject: its subject below the group's; its name by default
        queue_group: its queue group; None for a plain subscription, the group's by default
        metadata: texts that ``$SRV.INFO`` shows
        cancel: True if the handler is cancelled when its caller goes away

        Raises `DeclarationError`.
        """
        check_called(name, "service.endpoint" if not self.prefix else "group.endpoint", "")

        def register(handler: H) -> H:
            options = EndpointOptions(name=name or name_of(handler), metadata=metadata, cancel=cancel)
            declared = declare_endpoint(handler, options)
            where = f"endpoint {declared.name!r}"
            declared.subject = self._below(subject or (declared.name if self.prefix else ""), where)
            declared.queue_group = queue_name(queue_group, self.queue_group, where)
            self._add(declared)
            return handler

        return register

    def group(self, name: str, *, queue_group: QueueGroup = ...) -> Group:
        """A group below this one.

        name: its subject below this group's; empty for a group that differs in its queue group only
        queue_group: the queue group of its endpoints; this group's by default

        Raises `DeclarationError`.
        """
        where = f"group {name!r}"
        if name.split(".")[-1] == ">":
            raise DeclarationError(f"{where} ends in '>'; nothing can be below that")
        return Group(self._add, self._below(name, where), queue_name(queue_group, self.queue_group, where))

    def _below(self, subject: str, where: str) -> str:
        full = ".".join(filter(None, (self.prefix, subject)))
        return listening_subject(full, where) if full else ""


def listening_subject(subject: str, where: str) -> str:
    """``subject``, if an endpoint may listen on it. Raises `DeclarationError`."""
    try:
        check_subject(subject, wildcards=True)
    except BadSubject as error:
        raise DeclarationError(f"{where}: {error}") from error
    tokens = subject.split(".")
    if subject.startswith("$") or tokens[0] == "_INBOX":
        raise DeclarationError(f"{where}: subject {subject!r} lies under {tokens[0]!r}, which belongs to NATS")
    if tokens[0] in ("*", ">"):
        raise DeclarationError(f"{where}: subject {subject!r} begins with a wildcard; it would listen to everything")
    if ">" in tokens[:-1]:
        raise DeclarationError(f"{where}: subject {subject!r} has '>' before its end")
    for token in tokens:
        if len(token) > 1 and ("*" in token or ">" in token):
            raise DeclarationError(f"{where}: subject {subject!r}: {token!r} is no wildcard; one is a token of its own")
    return subject


def queue_name(queue_group: QueueGroup, inherited: str, where: str) -> str:
    """The queue group as announcements have it: empty for none. Raises `DeclarationError`."""
    if queue_group is None:
        return ""
    if isinstance(queue_group, EllipsisType):
        return inherited
    try:
        return check_subject(queue_group)
    except BadSubject:
        raise DeclarationError(
            f"{where}: queue group {queue_group!r} is not visible ASCII without blanks and wildcards; None is for none"
        ) from None
