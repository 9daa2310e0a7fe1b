"""The login of a bus: what nats-py gets to log in with, and how it is called in a message if the server refuses it.

Files are read at every attempt to connect, so that renewed ones are used without a restart. A login is taken out of its
URL: nats-py would send it with its %-escapes, would not send it to servers that INFO names, and would show it in the
name of the server. ``nats://ada:s%3Acret@host`` becomes ``nats://host:4222`` and the login ``("ada", "s:cret")``.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client

from mesh.bus.connection_errors import Failure, Refusal
from mesh.bus.encryption_guard import Guard
from mesh.bus.nats_contract import Use, require
from mesh.bus.nkeys import BadSeed, UserKey
from mesh.settings import BusSettings

_BLOCK = r"-{3,}\s*BEGIN %s\s*-{3,}\s*(\S+)\s*-{3,}\s*END %s\s*-{3,}"
_JWT = re.compile(_BLOCK % ("NATS USER JWT", "NATS USER JWT"))
_SEED = re.compile(_BLOCK % ("USER NKEY SEED", "USER NKEY SEED"))
LARGEST_FILE = 65_536
"""Characters of a file that are read."""


class Login:
    """The login of one bus. ``servers``: the URLs of the settings, without logins."""

    def __init__(self, settings: BusSettings) -> None:
        self._settings = settings
        self.servers: list[str] = []
        self._in_url: tuple[str, str | None] | None = None
        self._by_server: dict[str, tuple[str, str | None]] = {}
        for url in settings.servers:
            bare, login = split(url)
            self.servers.append(bare)
            if login is not None:
                self._in_url = self._in_url or login
                self._by_server[urlsplit(bare).netloc] = login

    def options(self, client: Client, guard: Guard) -> dict[str, Any]:
        """The arguments for ``client.connect``. ``guard``: knows to which server it connects."""
        settings = self._settings
        if settings.credentials:
            return self._signing(client, settings.credentials, _credentials)
        if settings.nkey:
            return self._signing(client, settings.nkey, _seed)
        if settings.token:
            return {"token": settings.token}
        if settings.user:
            return {"user": settings.user, "password": settings.password or ""}
        first = self._in_url
        if first is None:
            return {}

        def of_server() -> tuple[str, str | None]:
            address = guard.uri.netloc if guard.uri is not None else ""
            return self._by_server.get(address, first)

        if first[1] is None:
            return {"token": lambda: of_server()[0]}
        return {"user": lambda: of_server()[0], "password": lambda: of_server()[1] or ""}

    @staticmethod
    def _signing(client: Client, path: Path, read: Callable[[Path], tuple[UserKey, str]]) -> dict[str, Any]:
        """The two callbacks of nats-py; it calls the one that signs first.

        nats-py's own way needs the package `nkeys`. It has no callback for the public key of a bare key: that is set
        by a private name. Raises `Refusal` if nats-py does not have the name.
        """
        require(Use.SIGNED_LOGIN)
        jwt = ""

        def sign(nonce: str) -> bytes:
            nonlocal jwt
            key, jwt = read(path)
            client._public_nkey = key.public
            return base64.b64encode(key.sign(nonce.encode()))

        client._auth_configured = True
        options: dict[str, Any] = {"signature_cb": sign}
        if read is _credentials:
            options["user_jwt_cb"] = lambda: bytearray(jwt.encode())
        return options

    def described(self) -> tuple[str, str]:
        """What is sent to log in, without a secret, and the setting to look at; both empty without a login."""
        settings = self._settings
        if settings.credentials:
            return _describe_credentials(settings.credentials), "look at NATS_CREDS: unknown, expired or revoked?"
        if settings.nkey:
            try:
                name = f"the nkey {_seed(settings.nkey)[0].public} of {settings.nkey}"
            except Refusal:
                name = f"the nkey of {settings.nkey}"
            return name, "look at NATS_NKEY: does the server know that key?"
        if settings.token:
            return "the token", "look at NATS_TOKEN"
        if settings.user:
            return f"the user {settings.user!r} or its password", "look at NATS_USER and NATS_PASSWORD"
        if self._in_url is not None:
            what = "the token" if self._in_url[1] is None else "the user or the password"
            return f"{what} in NATS_URL", "look at NATS_URL: what is special in a URL is written with %-escapes there"
        return "", ""


def split(url: str) -> tuple[str, tuple[str, str | None] | None]:
    """Split a URL into the URL with its port but without its login, and the login.

    The login is ``(user, password)`` or ``(token, None)``, with escapes decoded, or None if the URL has no login.
    """
    parts = urlsplit(url)
    userinfo, _, address = parts.netloc.rpartition("@")
    if parts.port is None and parts.scheme in ("nats", "tls"):
        address = f"{address.rstrip(':')}:4222"
    user, colon, password = userinfo.partition(":")
    login = (unquote(user), unquote(password) if colon else None)
    return parts._replace(netloc=address).geturl(), login if userinfo else None


def _read(path: Path, setting: str) -> str:
    try:
        with path.open(encoding="ascii") as file:
            return file.read(LARGEST_FILE)
    except OSError as error:
        raise Refusal(Failure(f"{path} cannot be read ({error.strerror})", f"look at {setting}")) from None
    except UnicodeDecodeError:
        raise Refusal(Failure(f"{path} has no login: it is no text", f"look at {setting}")) from None


def _credentials(path: Path) -> tuple[UserKey, str]:
    text = _read(path, "NATS_CREDS")
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        missing = "JWT" if jwt is None else "key"
        todo = "look at NATS_CREDS: it names a file as 'nsc generate creds' makes it"
        raise Refusal(Failure(f"{path} is no credentials file: it has no {missing} of a user", todo))
    return _key(path, seed[1], "NATS_CREDS"), jwt[1]


def _seed(path: Path) -> tuple[UserKey, str]:
    lines = [line.strip() for line in _read(path, "NATS_NKEY").splitlines()]
    seeds = [line for line in lines if line and not line.startswith(("#", "-"))]
    return _key(path, seeds[0] if len(seeds) == 1 else "", "NATS_NKEY"), ""


def _key(path: Path, seed: str, setting: str) -> UserKey:
    try:
        return UserKey(seed)
    except BadSeed as error:
        raise Refusal(Failure(f"the key in {path} cannot be used: {error}", f"look at {setting}")) from None


def _describe_credentials(path: Path) -> str:
    """Name the file, and say if it has expired by its own account: the server only says that it refuses."""
    try:
        _, jwt = _credentials(path)
        claims = json.loads(base64.urlsafe_b64decode(jwt.split(".")[1] + "=="))
        expires = claims.get("exp")
    except (Refusal, ValueError, IndexError, AttributeError, RecursionError):
        return f"the credentials in {path}"
    if isinstance(expires, int) and 0 < expires <= min(time.time(), 1 << 40):
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expires))
        return f"the credentials in {path}, which expired on {when}"
    return f"the credentials in {path}"
