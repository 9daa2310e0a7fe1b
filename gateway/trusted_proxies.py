"""The client of a request: the connection's other end, or the address that a trusted proxy names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from gateway.forwarded_headers import client_of, hops
from gateway.known_headers import (
    FORWARDED,
    HOST,
    VIA,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    KnownHeader,
    KnownHeaders,
)
from mesh import headers

_READ = (HOST, FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST)
_CACHED = 4096
_SHORT = 512
"""Bytes of headers up to which what they say is remembered."""
_LOCAL_NAME = re.compile(rb"(?:localhost|[a-z0-9.\-]+\.localhost|127(?:\.\d{1,3}){3}|\[::1\])\.?(?::\d*)?", re.I)


class Sender(NamedTuple):
    """A request's client as a trusted proxy has it. ``local``: it runs on this machine."""

    address: str
    scheme: str
    host: bytes
    local: bool


class TrustedProxies:
    """The proxies that are believed. ``networks`` are theirs; ``header`` is the family of headers that they write:
    ``x-forwarded`` or ``forwarded``. The other one is never looked at."""

    def __init__(self, networks: Sequence[str], header: str) -> None:
        self._networks = tuple(map(ip_network, networks))
        self._header = header
        # Both are asked for every request, mostly the same.
        self.trusts = lru_cache(_CACHED)(self._trusts)
        self._remembered = lru_cache(_CACHED)(self._sender)

    def _trusts(self, address: str) -> bool:
        """True if a proxy at that address is believed."""
        parsed = _parsed(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def sender(self, peer: str, scheme: str, known: KnownHeaders) -> Sender:
        """The client of a request from a trusted proxy at ``peer``, over a connection of that scheme (http, https, ws
        or wss). What the proxy does not say, or not in the form of its header, is as if it were the client."""
        given = tuple((name, known[name]) for name in _READ if name in known)
        read = self._remembered if sum(len(value) for _, value in given) <= _SHORT else self._sender
        return read(peer, scheme, given)

    def _sender(self, peer: str, scheme: str, given: tuple[tuple[KnownHeader, bytes], ...]) -> Sender:
        known: KnownHeaders = dict(given)
        client, is_client = client_of(hops(self._header, known), self._trusts)
        host = client.host or known.get(HOST, b"")
        if client.scheme:
            is_socket, is_secure = scheme.startswith("ws"), client.scheme == "https"
            scheme = ("ws" if is_socket else "http") + ("s" if is_secure else "")
        local = is_client and is_loopback(peer) and is_loopback(client.address) and names_this_machine(host)
        return Sender(client.address or peer, scheme, host, local)


def is_local(peer: str, known: KnownHeaders) -> bool:
    """True if the client of a request, of which no trusted proxy tells, runs on this machine.

    It does not if any header says that the connection's other end is a proxy, and not if it names
    another host than this machine: that is a page in a browser which has its name lead here (DNS rebinding).
    """
    if peer and not is_loopback(peer):
        return False
    if VIA in known or any(map(headers.tells_of_client, known)):
        return False
    host = known.get(HOST)
    return host is None or names_this_machine(host)


def is_loopback(address: str) -> bool:
    parsed = _parsed(address)
    return parsed is not None and parsed.is_loopback


def names_this_machine(host: bytes) -> bool:
    """True if a ``Host`` header names this machine as only itself can: ``localhost`` or a loopback address."""
    return _LOCAL_NAME.fullmatch(host) is not None


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    """An address as it is compared: without zone, and IPv4 if it is only mapped to IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed
