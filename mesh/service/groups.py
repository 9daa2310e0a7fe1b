"""Endpoints called by name: their subjects, their queue groups, and groups of them (NATS ADR-32).

A subject that an author gives is used literally, so that micro clients of every language reach it; one that nobody
gives is the mesh's own. Wildcards are allowed as NATS ADR-32 allows them, except in the first token: a subscriber on
``*`` or ``>`` would listen to everybody's requests and replies, and nobody would be told any more that nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any, TypeVar

from mesh.errors import BadSubject, DeclarationError
from mesh.service.declaration_hints import check_called
from mesh.service.endpoints import Declared, declare
from mesh.subjects import check_subject

H = TypeVar("H", bound=Callable[..., Any])
QueueGroup = str | EllipsisType | None
"""A name, None for a plain subscription (every instance hears every request), ``...`` for what is around it."""


class Group:
    """Endpoints below one subject, with a queue group of their own where one is given.

    ::

        sensors = service.group("sensors", queue_group="readers")

        @sensors.endpoint()  # listens on sensors.read
        async def read(name: str) -> float: ...

    A service is the group without a subject: an endpoint there listens on ``<prefix>.req.<service>.<name>``, unless
    it names a subject. Whatever its subject, every endpoint has the mesh's addresses by its name too.
    """

    def __init__(self, add: Callable[[Declared], None], prefix: str, queue_group: str) -> None:
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
        """Declare an endpoint that has no HTTP route.

        ``name`` (the handler's by default) is unique in its service; ``subject`` (the name by default) comes after
        the group's. ``cancel`` says whether the handler is cancelled when its caller goes away.
        """

        check_called(name, "service.endpoint" if not self.prefix else "group.endpoint", "")

        def register(handler: H) -> H:
            declared = declare(handler, name=name, metadata=metadata, cancel=cancel)
            where = f"endpoint {declared.name!r}"
            declared.subject = self._below(subject or (declared.name if self.prefix else ""), where)
            declared.queue_group = queue_name(queue_group, self.queue_group, where)
            self._add(declared)
            return handler

        return register

    def group(self, name: str, *, queue_group: QueueGroup = ...) -> Group:
        """A group below this one. An empty name adds no token: it only carries the queue group."""
        where = f"group {name!r}"
        if name.split(".")[-1] == ">":
            raise DeclarationError(f"{where} ends in '>'; nothing can be below that")
        return Group(self._add, self._below(name, where), queue_name(queue_group, self.queue_group, where))

    def _below(self, subject: str, where: str) -> str:
        full = ".".join(filter(None, (self.prefix, subject)))
        return listening_subject(full, where) if full else ""


def listening_subject(subject: str, where: str) -> str:
    """``subject`` as an endpoint may listen on it. Raises `DeclarationError`."""
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
    """The queue group as the wire has it: empty for none. Raises `DeclarationError`."""
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
