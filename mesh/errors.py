"""The errors of the mesh, as one small tree.

::

    MeshError                    status  reason             executed
    |-- BadRequest               400     bad_request        no
    |-- Unauthorized             401     unauthorized       no
    |-- Forbidden                403     forbidden          no
    |-- NotFound                 404     not_found          -
    |-- Conflict                 409     conflict           -
    |-- TooLarge                 413     too_large          no
    |-- Invalid                  422     invalid            no
    |-- TooManyRequests          429     too_many_requests  no
    |-- RemoteError              as sent as sent            as sent
    |-- BadReply                 502     bad_reply          unknown
    |-- StreamBroken             502     stream_broken      unknown
    |-- Unavailable              503
    |   |-- NoInstances          503     no_instances       no
    |   |-- NoResponders         503     no_responders      no
    |   |-- BusUnavailable       503     bus_unavailable    no | unknown
    |   |   `-- NoConnection     503     bus_unavailable    no
    |   |-- InstanceLost         503     instance_lost      unknown
    |   |-- Overloaded           503     overloaded         no
    |   `-- Starting             503     starting           no
    `-- DeadlineExceeded         504     deadline_exceeded  no | unknown
    DeclarationError             a mistake in a service's code, raised at import
    ConfigError                  every mistake in the configuration, raised at start
    BadSubject                   a subject that must never reach the wire

A handler raises one of the first group to reply with that status; a caller catches the same classes.
Errors of nats-py never leave ``mesh.bus``: they are translated there, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

Executed = Literal["no", "unknown", "yes"]


class MeshError(Exception):
    """Base of every error that has an HTTP status.

    detail: a sentence for people
    reason: a stable word for programs
    executed: ``"no"`` if the handler has not run, so that a retry is safe; ``"yes"`` if it has; else ``"unknown"``
    retry_after: seconds after which a retry makes sense
    headers: headers of the reply
    extra: further members of the problem document
    """

    status: int = 500
    reason: str = "internal"
    title: str = "Internal error"
    executed: Executed = "yes"
    origin: str = "service"
    default_retry_after: ClassVar[float | None] = None

    def __init__(
        self,
        detail: str = "",
        *,
        reason: str | None = None,
        executed: Executed | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        if reason is not None:
            self.reason = reason
        if executed is not None:
            self.executed = executed
        self.retry_after = self.default_retry_after if retry_after is None else retry_after
        self.headers: dict[str, str] = dict(headers or {})
        self.extra: dict[str, Any] = extra
        self.attempts = 0
        """Attempts that a call made before this error ended it; never part of the reply."""
        self.of_call = False
        """True if a call to another service ended with this error; never part of the reply."""

    def raised_by_handler(self) -> None:
        """Note that the error came out of a handler, so the handler has run.

        Only its author can say that it did nothing: by raising an error that refuses a request (400, 401, 403, 413,
        422, 429), or with ``executed="no"``.
        """
        if self.executed == "no" and (self.of_call or (self.status >= 500 and "executed" not in vars(self))):
            self.executed = "yes"

    def problem(self, request_id: str = "") -> dict[str, Any]:
        """This error as an RFC 9457 problem document (a JSON-ready dict)."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "status": self.status,
            "title": self.title,
            "detail": self.detail,
            "reason": self.reason,
            "origin": self.origin,
            "executed": self.executed,
        }
        if request_id:
            document["request_id"] = request_id
        document.update(self.extra)
        return document


class BadRequest(MeshError):
    status, reason, title, executed = 400, "bad_request", "Bad request", "no"


class Unauthorized(MeshError):
    status, reason, title, executed = 401, "unauthorized", "Not authenticated", "no"


class Forbidden(MeshError):
    status, reason, title, executed = 403, "forbidden", "Not allowed", "no"


class NotFound(MeshError):
    status, reason, title = 404, "not_found", "Not found"


class Conflict(MeshError):
    status, reason, title = 409, "conflict", "Conflict"


class TooLarge(MeshError):
    """A body or message over a limit. It was refused before anything was published."""

    status, reason, title, executed = 413, "too_large", "Content too large", "no"


class Invalid(MeshError):
    """Arguments that do not fit the handler's types. ``errors`` names each field."""

    status, reason, title, executed = 422, "invalid", "Invalid arguments", "no"

    def __init__(self, detail: str = "", *, errors: Sequence[Mapping[str, str]] = (), **extra: Any) -> None:
        super().__init__(detail, errors=[dict(e) for e in errors], **extra)


class TooManyRequests(MeshError):
    status, reason, title, executed = 429, "too_many_requests", "Too many requests", "no"
    default_retry_after = 1.0


class RemoteError(MeshError):
    """An error reply of another service with a status for which there is no other class."""

    title = "Remote error"
    executed: Executed = "unknown"

    def __init__(self, detail: str = "", *, status: int, title: str = "", **extra: Any) -> None:
        self.status = status
        if title:
            self.title = title
        super().__init__(detail, **extra)


class BadReply(MeshError):
    """A reply that cannot be used: it has no valid status, or is too large for a message."""

    status, reason, title = 502, "bad_reply", "Unusable reply"
    executed: Executed = "unknown"
    origin = "mesh"


class StreamBroken(MeshError):
    """A stream broke off. The pieces that were read are not the whole."""

    status, reason, title = 502, "stream_broken", "The stream broke"
    executed: Executed = "unknown"
    origin = "mesh"


class Unavailable(MeshError):
    """Base of the errors that invite a retry, with ``Retry-After``."""

    status, reason, title = 503, "unavailable", "Unavailable"
    executed: Executed = "no"
    origin = "mesh"
    default_retry_after = 1.0


class NoInstances(Unavailable):
    """The route or service is known, but no instance of it lives."""

    reason, title = "no_instances", "No live instance"


class NoResponders(Unavailable):
    """NATS reports no responders: nothing subscribes to the subject, so the request was not delivered."""

    reason, title = "no_responders", "No responders"


class BusUnavailable(Unavailable):
    """No connection to NATS. Calls that were in flight have ``executed="unknown"``."""

    reason, title = "bus_unavailable", "The bus is unavailable"


class NoConnection(BusUnavailable):
    """The first connection to NATS failed. ``hint`` says what to do about it; it may be empty."""

    def __init__(self, detail: str, *, hint: str = "") -> None:
        super().__init__(detail)
        self.hint = hint


class InstanceLost(Unavailable):
    """The instance was lost while it had the call."""

    reason, title = "instance_lost", "The instance was lost"
    executed: Executed = "unknown"


class Overloaded(Unavailable):
    """A concurrency limit and its queue are full, or the write buffer to NATS is full."""

    reason, title = "overloaded", "Overloaded"


class Starting(Unavailable):
    """The registry is not synchronised yet."""

    reason, title = "starting", "Starting"


class DeadlineExceeded(MeshError):
    status, reason, title = 504, "deadline_exceeded", "Deadline exceeded"
    executed: Executed = "unknown"
    origin = "mesh"


class DeclarationError(TypeError):
    """A declaration in a service's code that cannot work. Raised at import, with a sentence that names it."""


class ConfigError(ValueError):
    """All mistakes in the configuration. ``problems`` has a sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))


class BadSubject(ValueError):
    """A subject with a character, token or length that NATS or its clients cannot take."""


BY_STATUS: dict[int, type[MeshError]] = {
    cls.status: cls
    for cls in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        TooLarge,
        Invalid,
        TooManyRequests,
        BadReply,
        Unavailable,
        DeadlineExceeded,
    )
}
BY_REASON: dict[str, type[MeshError]] = {
    cls.reason: cls
    for cls in (
        NoInstances,
        NoResponders,
        BusUnavailable,
        InstanceLost,
        Overloaded,
        Starting,
        DeadlineExceeded,
        StreamBroken,
    )
}


def from_problem(status: int, document: Mapping[str, Any], default_detail: str = "") -> MeshError:
    """The typed error for an error reply. Its class follows from ``reason``, else from ``status``.

    status: the status of the reply
    document: the decoded problem document, or an empty mapping if the reply has none
    default_detail: for a document without a detail
    """
    known = {"type", "status", "title", "detail", "reason", "origin", "executed", "request_id"}
    detail = str(document.get("detail") or default_detail)
    reason = document.get("reason")
    executed = document.get("executed")
    if not 400 <= status <= 599:  # it becomes an HTTP status
        status = 502
    extra = {str(k): v for k, v in document.items() if k not in known}
    options: dict[str, Any] = {
        "reason": reason if isinstance(reason, str) else None,
        "executed": executed if executed in ("no", "unknown", "yes") else None,
    }
    cls = BY_REASON.get(reason) if isinstance(reason, str) else None
    if cls is None or cls.status != status:
        cls = BY_STATUS.get(status)
    error: MeshError
    if cls is Invalid:
        errors = extra.pop("errors", [])
        error = Invalid(detail, errors=[e for e in errors if isinstance(e, dict)], **options)
    elif cls is not None:
        error = cls(detail, **options)
    else:
        title = document.get("title")
        error = RemoteError(detail, status=status, title=title if isinstance(title, str) else "", **options)
    error.extra.update(extra)
    if isinstance(document.get("origin"), str):
        error.origin = document["origin"]
    return error
