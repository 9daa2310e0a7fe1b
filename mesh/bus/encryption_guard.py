"""What a connection must be before anything is written on it: encrypted, where the settings say so.

nats-py begins TLS when the server's INFO asks for it, whatever the URL's scheme is. INFO comes in the clear, so whoever
sits in between could take that word out and read the password. Every transport of a link has a guard, which looks at
INFO and at every write until the connection is encrypted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import ParseResult, urlsplit

from mesh.bus.connection_errors import Reason, Refusal, ServerSaid
from mesh.settings import BusSettings

TLS_FIRST_S = 0.5
"""How long INFO is waited for before the handshake is begun without it: a server may be set to ``handshake_first``."""
TLS_HANDSHAKE_S = 5
"""How long a handshake may take that is begun so."""
JUDGED_S = 0.05
"""How long a server may take to refuse our certificate, which it does after the handshake: its words are lost to one
who writes meanwhile."""


class Guard:
    """The state of one connection after the other of one transport; ``host`` is the one it was asked to reach.

    ``demanded_by`` names the setting that asks for encryption, and is empty where none does. One ``tls://`` among the
    URLs asks for all servers, those that INFO names too.
    """

    def __init__(self, settings: BusSettings, name: str = "") -> None:
        """``name``: the host name that another connection of the link checked a certificate for."""
        self.demanded_by = encryption_demanded_by(settings)
        self.websocket = settings.servers[0].startswith(("ws://", "wss://"))
        self.uri: ParseResult | None = None
        self.encrypted = False
        self.info: dict[str, Any] = {}
        """The server's INFO, as JSON; empty until it came."""
        self.judges = False
        """Whether the server looks at our certificate."""
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
        """How that server is reached; nats-py thinks that whoever INFO names is ``nats://``."""
        if self.websocket:
            return "wss" if self.demanded_by or uri.scheme == "wss" else "ws"
        return "tls" if self.demanded_by else uri.scheme

    @property
    def waits_for_info(self) -> bool:
        """Whether INFO is still to come and the handshake could go before it."""
        return bool(self.demanded_by) and not self._greeted and not self.encrypted and not self.websocket

    def begin(self, uri: ParseResult) -> None:
        """A connection to that server is made."""
        self.uri, self.encrypted, self._greeted, self.judges, self.info = uri, False, False, False, {}

    def host(self, given: str | ParseResult | None = None) -> str:
        """The name that the certificate must have: ``given``, else the server's.

        For a server that INFO names by its address alone it is the name of the one whose INFO that was.
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
        """The TLS context of the settings, with the files as they are now. Raises `Refusal` where one is of no use."""
        return tls_context(self._settings)

    def line(self, data: bytes) -> bytes:
        """A line of the server's before it has let us in, as nats-py is to read it.

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
            reason = Reason("the server asks for a client certificate", "set NATS_CERT and NATS_KEY")
            raise Refusal(reason)
        if required or not self.demanded_by or self.encrypted:
            return data
        if offered:
            return b"INFO " + json.dumps({**info, "tls_required": True}).encode() + b"\r\n"
        raise self._refusal()

    def ended(self) -> ConnectionResetError:
        """The error for a connection that ended before we were let in, when nothing else is known of it."""
        how = "during the login" if self._greeted else "without a word"
        return ConnectionResetError(f"the server closed the connection {how}")

    def check_write(self) -> None:
        """Raise `Refusal` before a byte would leave in the clear that must not."""
        if self.demanded_by and not self.encrypted:
            raise self._refusal()

    def _refusal(self) -> Refusal:
        what = f"the server offers no TLS, which {self.demanded_by} asks for; no login was sent"
        return Refusal(Reason(what, "turn TLS on at the server; if it was on, somebody in between turned it off"))


class Connection(Protocol):
    """A transport under a guard."""

    @property
    def guard(self) -> Guard: ...

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None: ...


def drop(transport: asyncio.WriteTransport | None) -> None:
    """End a connection now, with what was not written yet; harmless where there is none."""
    if transport is not None:
        try:
            transport.abort()
        except AttributeError:  # Python 3.11.2: of a TLS transport that was closed twice nothing is left to abort
            pass


async def first_line(connection: Connection, read: Callable[[], Awaitable[bytes]]) -> bytes:
    """The next line that ``read`` gives before the server has let us in.

    Where INFO is late and the settings demand TLS, the handshake goes before it. Raises what ``read`` raises.
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
    """The setting that asks for an encrypted connection; empty where none does."""
    for scheme in ("tls", "wss"):
        if any(url.startswith(f"{scheme}://") for url in settings.servers):
            return f"{scheme}:// in NATS_URL"
    return "NATS_CA" if settings.tls_ca else "NATS_CERT" if settings.tls_cert else ""


def tls_context(settings: BusSettings) -> ssl.SSLContext:
    """The TLS context that the settings ask for: the system's authorities where they name none."""
    where = "NATS_CA"
    try:
        context = ssl.create_default_context(cafile=str(settings.tls_ca) if settings.tls_ca else None)
        if settings.tls_cert:
            where = "NATS_CERT and NATS_KEY"
            # No pass phrase: OpenSSL would ask for one at the terminal, for ever.
            key = str(settings.tls_key) if settings.tls_key else None
            context.load_cert_chain(str(settings.tls_cert), key, password=_no_pass_phrase)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        paths = settings.tls_ca if where == "NATS_CA" else f"{settings.tls_cert} with {settings.tls_key}"
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise Refusal(Reason(f"{paths} cannot be used for TLS ({why})", f"look at {where}")) from None
    return context


def _no_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase; give one without")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
