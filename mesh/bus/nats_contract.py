"""The private names of nats-py (and one of asyncio) that this package uses: the whole list, and the check of it.

nats-py is pinned to one minor version. A private name may still be missing, because somebody installed another version
or a patched one. Nothing then fails silently: `check_contract` says what is missing, and its caller either does without
(the fast transport gives way to plain nats-py, with an error in the log) or refuses to connect (ADR 1).

`tests/bus/test_nats_contract.py` searches this package for private names that are not in `PRIVATE_NAMES`.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from importlib.metadata import version
from typing import Final, NamedTuple

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport, Transport, WebSocketTransport

from mesh.bus.connection_errors import Failure, Refusal


class Use(Enum):
    """What needs a private name, and so what is not done without it."""

    CONNECTION = "any connection"
    FAST_TRANSPORT = "the fast transport"
    PLAIN_TCP = "plain nats-py over TCP"
    WEBSOCKET = "NATS over WebSocket"
    SIGNED_LOGIN = "a login with NATS_CREDS or NATS_NKEY"


class PrivateName(NamedTuple):
    """An attribute that ``owner.__init__`` sets. ``purpose``: why we need it."""

    owner: type
    name: str
    use: Use
    purpose: str


PRIVATE_NAMES: Final = (
    PrivateName(Client, "_transport", Use.CONNECTION, "set before connecting: no connection without its guard"),
    PrivateName(Client, "_reading_task", Use.CONNECTION, "its end shows that nats-py no longer reads the connection"),
    PrivateName(Subscription, "_id", Use.FAST_TRANSPORT, "the subscription's number in MSG and HMSG frames"),
    PrivateName(TcpTransport, "_io_reader", Use.PLAIN_TCP, "holds the server's last words"),
    PrivateName(TcpTransport, "_io_writer", Use.PLAIN_TCP, "has the transport to abort"),
    PrivateName(asyncio.StreamReader, "_buffer", Use.PLAIN_TCP, "the server's last words, which a read would not give"),
    PrivateName(WebSocketTransport, "_client", Use.WEBSOCKET, "a new session of aiohttp for each connection"),
    PrivateName(WebSocketTransport, "_pending", Use.WEBSOCKET, "emptied before each connection"),
    PrivateName(WebSocketTransport, "_ws", Use.WEBSOCKET, "forgotten before each connection"),
    PrivateName(Client, "_auth_configured", Use.SIGNED_LOGIN, "set, since we sign and not nats-py"),
    PrivateName(Client, "_public_nkey", Use.SIGNED_LOGIN, "nats-py has no callback for a public key"),
)

_TRANSPORT_METHODS: Final = frozenset(
    [
        "connect",
        "connect_tls",
        "write",
        "writelines",
        "read",
        "readline",
        "drain",
        "wait_closed",
        "close",
        "at_eof",
        "__bool__",
    ]
)


def check_contract(use: Use) -> str:
    """Check the private names for ``use``.

    Returns why ``use`` is impossible with the installed nats-py, as a sentence without its full stop; empty if it is
    possible.
    """
    if use is Use.FAST_TRANSPORT:
        methods = set(getattr(Transport, "__abstractmethods__", ()))
        if methods != _TRANSPORT_METHODS:
            return _reason(use, f"the abstract methods of Transport are others: {sorted(methods ^ _TRANSPORT_METHODS)}")
    if use is Use.CONNECTION and getattr(Client(), "_transport", None) is not None:
        return _reason(use, "Client._transport does not start as None")
    for owner, name, needed_for, _ in PRIVATE_NAMES:
        # Read from the code of __init__: an instance of WebSocketTransport would have a session of aiohttp to close.
        if needed_for is use and name not in owner.__init__.__code__.co_names:  # type: ignore[misc]
            return _reason(use, f"{owner.__name__} has no {name}")
    return ""


def require(use: Use) -> None:
    """`check_contract`, for what cannot be done without. Raises `Refusal`."""
    if why := check_contract(use):
        raise Refusal(Failure(why, "install the nats-py that the mesh asks for: nats-py>=2.16,<2.17"))


def _reason(use: Use, what: str) -> str:
    return f"{use.value} is impossible with nats-py {version('nats-py')}: {what}"
