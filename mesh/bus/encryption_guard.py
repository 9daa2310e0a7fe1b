"""Encryption that the settings demand is in place before anything is written on a connection.

nats-py begins TLS if the server's INFO asks for it, whatever the URL's scheme is. INFO comes in the clear, so an
attacker in between could remove that word and read the password. Every transport has a guard, which looks at INFO, and
at every write until the connection is encrypted. With ``tls://`` in NATS_URL:

1. `Guard.begin`: an attempt to connect begins.
2. `first_line` waits for INFO, for `TLS_FIRST_S`; if it does not come, the handshake goes first.
3. `Guard.line`: INFO asks for TLS, so nats-py begins the handshake; or it offers TLS, and is changed to ask for it; or
   it does neither, and the attempt ends with a `Refusal`.
4. `Guard.check_write`: a write before the handshake raises `Refusal`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import ParseResult, urlsplit

from mesh.bus.connection_errors import Failure, Refusal, ServerSaid
from mesh.settings import BusSettings

TLS_FIRST_S = 0.5
"""Seconds to wait for INFO before the handshake begins without it: a server may be set to ``handshake_first``."""
TLS_HANDSHAKE_S = 5
"""Seconds that such a handshake may take."""
JUDGED_S = 0.05
"""Seconds that a server gets to refuse our certificate, which it does after the handshake: if we write meanwhile, its
words are lost."""


class Guard:
    """Watches one connection after another of one transport."""

    def __init__(self, settings: BusSettings, name: str = "") -> None:
        """``name``: the host name for which another connection of the same bus checked a certificate."""
        self.demanded_by = encryption_demanded_by(settings)
        """The setting that demands encryption; empty if none does. One ``tls://`` among the URLs demands it of all
        servers, of those that INFO names too."""
        self.websocket = settings.servers[0].startswith(("ws://", "wss://"))
        self.uri: ParseResult | None = None
        self.encrypted = False
        self.info: dict[str, Any] = {}
        """The server's INFO; empty before it came."""
        self.judges = False
        """True if the server checks our certificate."""
        self._settings = settings
        self._greeted = False
        self.name = name
        self._configured = {urlsplit(url).hostname for url in settings.servers}

    @property
    def where(self) -> str:
        """The server as a URL, without a login; empty before the first attempt."""
        if self.uri is None:
            return ""
        scheme = self.scheme(self.uri)
        return f"{scheme}://{self.uri.netloc.rpartition('@')[2]}"

    def scheme(self, uri: ParseResult) -> str:
        """The scheme with which a server is reached; nats-py takes every server that INFO names for ``nats://``."""
        if self.websocket:
            return "wss" if self.demanded_by or uri.scheme == "wss" else "ws"
        return "tls" if self.demanded_by else uri.scheme

    @property
    def waits_for_info(self) -> bool:
        """True if INFO is still to come and the handshake could go before it."""
        return bool(self.demanded_by) and not self._greeted and not self.encrypted and not self.websocket

    def begin(self, uri: ParseResult) -> None:
        """An attempt to connect to that server begins."""
        self.uri, self.encrypted, self._greeted, self.judges, self.info = uri, False, False, False, {}

    def host(self, given: str | ParseResult | None = None) -> str:
        """The host name that the certificate must have: ``given``, else the server's.

        For a server that INFO names by its address only, it is the name of the server whose INFO that was.
        """
        if not isinstance(given, str):
            uri = given or self.uri
            given = (uri.hostname if uri is not None else "") or ""
        if self.name and given not in self._configured and _is_address(given):
            return self.name
        if not _is_address(given):
            self.name = given
        return given

    def context(self) -> ssl.SSLContext:
        """The TLS context of the settings, from the files as they are now. Raises `Refusal` if one cannot be used."""
        return tls_context(self._settings)

    def line(self, data: bytes) -> bytes:
        """Check a line that the server sends before we are logged in. Returns it as nats-py is to read it.

        Raises `ServerSaid` for an error, `Refusal` for an INFO without the TLS that the settings demand.
        """
        if data.startswith(b"-ERR"):
            raise ServerSaid(data[4:].decode(errors="replace").strip().strip("'"))
        if not data:
            raise self.ended()
        first, self._greeted = not self._greeted, True
        if not first:
            return data
        try:
            info = json.loads(data.partition(b" ")[2])
        except (ValueError, RecursionError):
            info = None
        if not isinstance(info, dict):
            return data  # nats-py says what is wrong with it, and `check_write` holds
        self.info = info
        if self.websocket:
            return data
        required, offered = bool(info.get("tls_required")), bool(info.get("tls_available"))
        self.judges = required and bool(info.get("tls_verify"))
        if self.judges and not self._settings.tls_cert:
            reason = Failure("the server asks for a client certificate", "set NATS_CERT and NATS_KEY")
            raise Refusal(reason)
        if required or not self.demanded_by or self.encrypted:
            return data
        if offered:
            return b"INFO " + json.dumps({**info, "tls_required": True}).encode() + b"\r\n"
        raise self._refusal()

    def ended(self) -> ConnectionResetError:
        """The error for a connection that ended before we were logged in, if nothing else is known of it."""
        how = "during the login" if self._greeted else "without a word"
        return ConnectionResetError(f"the server closed the connection {how}")

    def check_write(self) -> None:
        """Raise `Refusal` if what is written must not leave in the clear."""
        if self.demanded_by and not self.encrypted:
            raise self._refusal()

    def _refusal(self) -> Refusal:
        what = f"the server offers no TLS, which {self.demanded_by} asks for; no login was sent"
        return Refusal(Failure(what, "turn TLS on at the server; if it was on, somebody in between turned it off"))


class GuardedConnection(Protocol):
    """A transport under a guard."""

    @property
    def guard(self) -> Guard: ...

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None: ...


def drop(transport: asyncio.WriteTransport | None) -> None:
    """End a connection now, without what was not written yet; harmless if there is none."""
    if transport is not None:
        try:
            transport.abort()
        except AttributeError:  # Python 3.11.2: a TLS transport that was closed twice has nothing left to abort
            pass


async def first_line(connection: GuardedConnection, read: Callable[[], Awaitable[bytes]]) -> bytes:
    """Read a line before we are logged in.

    If INFO is late and the settings demand TLS, the handshake goes first. Raises what ``read`` raises.
    """
    guard = connection.guard
    if guard.waits_for_info:
        try:
            async with asyncio.timeout(TLS_FIRST_S):
                return await read()
        except TimeoutError:
            await connection.connect_tls(guard.host(), guard.context(), 0, TLS_HANDSHAKE_S)
    return await read()


def encryption_demanded_by(settings: BusSettings) -> str:
    """The setting that demands an encrypted connection; empty if none does."""
    for scheme in ("tls", "wss"):
        if any(url.startswith(f"{scheme}://") for url in settings.servers):
            return f"{scheme}:// in NATS_URL"
    return "NATS_CA" if settings.tls_ca else "NATS_CERT" if settings.tls_cert else ""


def tls_context(settings: BusSettings) -> ssl.SSLContext:
    """The TLS context of the settings, with the system's authorities if they name none. Raises `Refusal`."""
    where = "NATS_CA"
    try:
        context = ssl.create_default_context(cafile=str(settings.tls_ca) if settings.tls_ca else None)
        if settings.tls_cert:
            where = "NATS_CERT and NATS_KEY"
            # Otherwise OpenSSL would ask for a pass phrase at the terminal, for ever.
            key = str(settings.tls_key) if settings.tls_key else None
            context.load_cert_chain(str(settings.tls_cert), key, password=_no_pass_phrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        paths = settings.tls_ca if where == "NATS_CA" else f"{settings.tls_cert} with {settings.tls_key}"
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise Refusal(Failure(f"{paths} cannot be used for TLS ({why})", f"look at {where}")) from None
    return context


def _no_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase; give one without")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
