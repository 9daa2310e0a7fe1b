"""Why there is no connection, for people: the words of a server, of TLS or of a file, with the setting to look at.

``-ERR 'Authorization Violation'`` becomes "the server refused the token", with the hint "look at NATS_TOKEN". nats-py
often reports only what followed from the server's words, and does not know our settings.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from msgspec import Struct

NO_NATS = "set NATS_URL, or start a mesh with 'mesh up'"


class Failure(Struct, frozen=True):
    """Why a connection failed.

    what: what is wrong, as a sentence without its full stop.
    todo: what to do about it; empty if nothing is known.
    final: True if it stays so until a setting or the server is changed, so that waiting does not help.
    """

    what: str
    todo: str = ""
    final: bool = True


class Refusal(ConnectionError):
    """The mesh itself ends an attempt to connect.

    It is an OSError, because only after those nats-py goes on to the next attempt.
    """

    def __init__(self, reason: Failure) -> None:
        super().__init__(reason.what)
        self.reason = reason


class ServerSaid(ConnectionError):
    """An ``-ERR`` line of the server; the text is the server's."""


def _no_login() -> tuple[str, str]:
    return "", ""


def failure_of(
    error: BaseException,
    login: Callable[[], tuple[str, str]] = _no_login,
    scheme: str = "",
    loop_blocked_by: str = "",
) -> Failure:
    """The reason for an error of a connection, or of the attempt to connect.

    login: returns what was sent to log in, such as "the token", and what to look at if it is refused.
    scheme: the URL's.
    loop_blocked_by: what has blocked the event loop of late; empty if that is not known.
    """
    if isinstance(error, Refusal):
        return error.reason
    if isinstance(error, ssl.SSLError):
        return _of_tls(error)
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return Failure("the connection is refused", NO_NATS, final=False)
    if isinstance(error, socket.gaierror):
        return Failure("the host's name is unknown", "look at NATS_URL and at the name service", final=False)
    if isinstance(error, asyncio.TimeoutError):
        return Failure("no answer in time", _silent(scheme), final=False)
    text = str(error).removeprefix("nats: ").strip().strip("'") or type(error).__name__
    if text == "unexpected EOF":
        return Failure("the connection was lost", final=False)
    if text.endswith("without a word"):
        return Failure(text, _silent(scheme), final=False)
    said = _of_server(text, login, loop_blocked_by)
    if said is not None:
        return said
    if isinstance(error, ConnectionResetError | BrokenPipeError) and error.errno:
        text = "the connection was cut"
    return Failure(text, final=False)


def _silent(scheme: str) -> str:
    begins = " Does it begin with TLS? Then give tls:// in NATS_URL" if scheme == "nats" else ""
    return f"is it NATS that listens there?{begins}"


def _of_server(text: str, login: Callable[[], tuple[str, str]], loop_blocked_by: str) -> Failure | None:
    """The reason that the server's own words give (nats-server's ``errors.go``); None for other words."""
    lower = text.lower()
    if "authorization violation" in lower:
        sent, todo = login()
        if not sent:
            todo = "set NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"
            return Failure("the server asks for a login and none is set", todo)
        return Failure(f"the server refused {sent}", todo)
    if "authentication expired" in lower or "authentication revoked" in lower:
        sent, todo = login()
        how = "expired" if "expired" in lower else "was revoked"
        return Failure(f"the server ended the connection: its login {how}; it was {sent}", todo)
    if "authentication timeout" in lower:
        return Failure("the login took too long", "is its machine, or this one, overloaded?", final=False)
    if "maximum account active connections exceeded" in lower:
        todo = "raise the account's limit of connections, or end some"
        return Failure("the account has as many connections as it may have", todo, final=False)
    if "maximum connections exceeded" in lower:
        todo = "raise max_connections at the server, or end some connections"
        return Failure("the server has as many connections as it takes", todo, final=False)
    if "maximum control line exceeded" in lower:
        return Failure("what logs in is too long for the server", "raise max_control_line there, or shorten the JWT")
    if "secure connection - tls required" in lower:
        return Failure("the server takes TLS only", "give tls:// in NATS_URL")
    if "stale connection" in lower:
        what = "the server heard nothing from this process for too long"
        return Failure(what, loop_blocked_by or "was it stopped, or its event loop kept busy?", final=False)
    return None


def _of_tls(error: ssl.SSLError) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        if "mismatch" in why or "not valid for" in why:
            return Failure(f"the server's certificate is another host's ({why})", "give a name in NATS_URL that it has")
        if "expired" in why:
            return Failure("the server's certificate has expired", "renew it at the server")
        return Failure(
            f"the server's certificate is not trusted ({why})", "set NATS_CA to the authority's certificates"
        )
    text = str(error).lower().replace("_", " ")
    if "certificate required" in text:
        return Failure("the server asks for a client certificate", "set NATS_CERT and NATS_KEY")
    if "alert" in text and "expired" in text:
        return Failure("the server refused our certificate: it has expired", "renew what NATS_CERT names")
    if "alert" in text and ("unknown ca" in text or "certificate" in text):
        return Failure("the server refused our certificate", "look at NATS_CERT: is its authority known to the server?")
    if "wrong version number" in text or "record layer failure" in text:
        return Failure("what answers does not speak TLS", "look at the address in NATS_URL")
    return Failure(f"TLS failed: {error.reason or error}", "look at NATS_CA, NATS_CERT and NATS_KEY")
