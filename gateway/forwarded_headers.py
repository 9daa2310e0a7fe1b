"""The headers in which proxies describe their clients: ``Forwarded`` (RFC 7239) and the ``X-Forwarded-*`` family.

Both are lists to which each proxy appends, so they are read from the right: the last entry is of the proxy that is
connected here, and what stands before the first one that is not trusted can have been written by anyone. Pure functions
over bytes; nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from typing import NamedTuple

from gateway.known_headers import FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, KnownHeaders

MOST_HOPS = 32
"""Proxies of a chain that are looked at; no real one is as long."""
MOST_COMMAS = 64
"""Commas that are taken for the beginning of an element, until one is."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# Addresses with ports stand unquoted in many a header, though RFC 7239 section 6 has them quoted.
_VALUE = rb'(?:"(?:[^"\\]|\\.)*+"|[!#$%&\'*+\-.^_`|~0-9A-Za-z:\[\]]*+)'
_ELEMENT = re.compile(rb"(?:[ \t]*+(?:%b=%b)?[ \t]*+(?:;|\Z))*+" % (_TOKEN, _VALUE), re.DOTALL)
_PAIR = re.compile(rb"(%b)=(%b)" % (_TOKEN, _VALUE), re.DOTALL)

# Address and port, the former in brackets if it is IPv6 (RFC 7239 section 6); without port it may also stand bare.
_PORT = r"(?::(?:\d{1,5}|_[A-Za-z0-9._\-]+))?"
_NODE = re.compile(rf"\[([0-9A-Fa-f:.]+)\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)")
_HOST = re.compile(rb"(?:[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}


class Hop(NamedTuple):
    """What one proxy says of a request that it got: its sender's address, scheme (http, https) and host.

    Each is empty if the proxy does not say it, or says it in a form that is not valid.
    """

    address: str = ""
    scheme: str = ""
    host: bytes = b""


def hops(header: str, known: KnownHeaders) -> Iterator[Hop]:
    """The hops that the headers name, the nearest proxy first. ``header``: ``forwarded``, else ``x-forwarded``."""
    if header == "forwarded":
        return _forwarded(known.get(FORWARDED, b""))
    return _x_forwarded(*(known.get(name, b"") for name in (X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST)))


def client_of(chain: Iterable[Hop], trusts: Callable[[str], bool]) -> tuple[Hop, bool]:
    """The client: the first sender, seen from here, that is no trusted proxy; the farthest if all are.

    If a proxy does not know or hides its sender (``unknown``, ``_hidden``), that proxy is the farthest that is
    known. False then: it is not the client.
    """
    client = Hop()
    for number, hop in enumerate(chain):
        if number == MOST_HOPS:
            return client, False
        # What one does not say is as the next one here has it.
        client = Hop(hop.address or client.address, hop.scheme or client.scheme, hop.host or client.host)
        if not hop.address:
            return client, False
        if not trusts(hop.address):
            return client, True
    return client, bool(client.address)


def address_of(node: bytes) -> str:
    """The IP address of a node with or without port, in its shortest form; empty for anything else."""
    found = _NODE.fullmatch(node.decode("latin-1"))
    if found is None:
        return ""
    try:
        address = ip_address(found[1] or found[2] or found[3])
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _hop(address: bytes, scheme: bytes, host: bytes) -> Hop:
    sound = len(host) < 256 and _HOST.fullmatch(host) is not None
    return Hop(address_of(address), _SCHEMES.get(scheme.lower(), ""), host if sound else b"")


def _x_forwarded(senders: bytes, schemes: bytes, hosts: bytes) -> Iterator[Hop]:
    """A proxy appends to all three lists, or sets the last two anew: then what they have is said of the whole chain."""
    senders_, schemes_, hosts_ = map(_from_the_right, (senders, schemes, hosts))
    for at, sender in enumerate(senders_):
        yield _hop(sender, schemes_[min(at, len(schemes_) - 1)], hosts_[min(at, len(hosts_) - 1)])


def _from_the_right(value: bytes) -> list[bytes]:
    """The items of a list, the last first."""
    return [item.strip(b" \t") for item in reversed(value.rsplit(b",", MOST_HOPS))]


def _forwarded(value: bytes) -> Iterator[Hop]:
    """Elements of a ``Forwarded`` header from the right, up to one that is malformed.

    A comma may stand in a quoted string, and a client can send a quote that it does not close. So an element is the
    shortest text up to the end that is one as a whole: nothing to the left of it can change what it says.
    """
    end = len(value)
    for _ in range(2 * MOST_HOPS):  # some may be empty
        start = _start_of_element(value, end)
        if start is None:
            yield Hop()
            return
        pairs = [(name.lower(), _unquoted(given)) for name, given in _PAIR.findall(value, start, end)]
        facts = dict(pairs)
        if len(facts) < len(pairs):  # a parameter that comes twice (section 4)
            yield Hop()
            return
        if facts:
            yield _hop(facts.get(b"for", b""), facts.get(b"proto", b""), facts.get(b"host", b""))
        if not start:
            return
        end = start - 1


def _start_of_element(value: bytes, end: int) -> int | None:
    start = end + 1
    for _ in range(MOST_COMMAS):
        start = value.rfind(b",", 0, start - 1) + 1
        if _ELEMENT.fullmatch(value, start, end):
            return start
        if not start:
            break
    return None


def _unquoted(value: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", value[1:-1], flags=re.DOTALL) if value.startswith(b'"') else value
