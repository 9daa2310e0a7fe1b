"""The types of settings: each turns the value of a flag, a variable or a TOML key into a checked one.

Variables are text, values of TOML and of a command line have types. So every type takes both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from mesh.settings_reader import SettingType
from mesh.subjects import is_name

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_SERVER_SCHEMES = frozenset({"nats", "tls", "ws", "wss"})


def _text(raw: object) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(raw)
    return raw.strip()


def _parts(raw: object) -> list[str]:
    """The items of comma-separated text or of a list of texts; blank ones are dropped."""
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise TypeError(raw)
    return [item.strip() for item in items if item.strip()]


def whole(low: int, high: int, unit: str = "") -> SettingType:
    """A whole number from ``low`` to ``high``; ``unit`` is a word for people, such as ``"ms"``."""

    def parse(raw: object) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int | str):
            raise TypeError(raw)
        number = int(raw)
        if not low <= number <= high:
            raise ValueError(raw)
        return number

    return SettingType(parse, f"a whole number from {low} to {high}{f' ({unit})' if unit else ''}")


def number(low: float, high: float, unit: str = "") -> SettingType:
    """A number from ``low`` to ``high``, returned as float."""

    def parse(raw: object) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise TypeError(raw)
        value = float(raw)
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(raw)
        return value

    return SettingType(parse, f"a number from {low:g} to {high:g}{f' ({unit})' if unit else ''}")


def choice(*words: str, aliases: Mapping[str, str] | None = None) -> SettingType:
    """One of ``words``, in any case; ``aliases`` are further spellings."""

    def parse(raw: object) -> str:
        word = _text(raw).lower()
        word = (aliases or {}).get(word, word)
        if word not in words:
            raise ValueError(raw)
        return word

    return SettingType(parse, f"one of {', '.join(words)}")


def switch() -> SettingType:
    """A boolean; text may be true, yes, on or 1 and their opposites."""

    def parse(raw: object) -> bool:
        if isinstance(raw, bool):
            return raw
        word = _text(raw).lower()
        if word not in _TRUE | _FALSE:
            raise ValueError(raw)
        return word in _TRUE

    return SettingType(parse, "true or false")


def text() -> SettingType:
    """Any text that is not blank."""
    return SettingType(_text, "some text")


def secret() -> SettingType:
    """Any text, not stripped: a blank at the end of a password is part of it."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or not raw:
            raise TypeError("not text")
        return raw

    return SettingType(parse, "some text")


def name() -> SettingType:
    """One token as subjects allow it."""

    def parse(raw: object) -> str:
        word = _text(raw)
        if not is_name(word):
            raise ValueError(raw)
        return word

    return SettingType(parse, "1 to 64 letters, digits, '-' or '_'")


def host() -> SettingType:
    """A host name or address to bind, without scheme, port or brackets."""

    def parse(raw: object) -> str:
        word = _text(raw)
        if any(c in word for c in "/[]@ ") or (":" in word and word.count(":") == 1):
            raise ValueError(raw)
        return word

    return SettingType(parse, "a host name or an IP address without a port")


def readable_file() -> SettingType:
    """The path of a file that exists and can be read: better checked now than a failure later."""

    def parse(raw: object) -> Path:
        path = (raw if isinstance(raw, Path) else Path(_text(raw))).expanduser()
        if not path.is_file() or not os.access(path, os.R_OK):
            raise ValueError(raw)
        return path

    return SettingType(parse, "the path of a readable file", is_path=True)


def servers() -> SettingType:
    """URLs of NATS servers: comma-separated text or a list; ``host:port`` alone means ``nats://``."""

    def parse(raw: object) -> tuple[str, ...]:
        urls = tuple(_server(part) for part in _parts(raw))
        if not urls:
            raise ValueError(raw)
        return urls

    return SettingType(parse, "nats://, tls://, ws:// or wss:// URLs of NATS servers, separated by commas")


def _server(part: str) -> str:
    url = part if "://" in part else f"nats://{part}"
    if any(c.isspace() for c in url):
        raise ValueError(part)
    split = urlsplit(url)
    # Reading .port checks it: urlsplit itself takes any text there.
    if split.scheme not in _SERVER_SCHEMES or not split.hostname or split.port == 0:
        raise ValueError(part)
    if split.scheme in ("nats", "tls") and (split.path.strip("/") or split.query or split.fragment):
        raise ValueError(part)
    return url


def owners() -> SettingType:
    """A mapping of path prefix to service: a TOML table, or text such as ``/api=users,/x=y``."""

    def parse(raw: object) -> dict[str, str]:
        pairs = raw.items() if isinstance(raw, Mapping) else (part.partition("=")[::2] for part in _parts(raw))
        result: dict[str, str] = {}
        for path, service in pairs:
            path, service = _text(path), _text(service)
            if not path.startswith("/") or any(c in path for c in " ?#{}") or not is_name(service) or path in result:
                raise ValueError(raw)
            result[path] = service
        return result

    return SettingType(parse, "path prefixes with one service each, such as /api=users,/shop=orders")


def origins() -> SettingType:
    """Web origins as browsers send them, or ``*``: comma-separated text or a list."""

    def parse(raw: object) -> tuple[str, ...]:
        found = tuple(_parts(raw))
        for origin in found:
            if origin not in ("*", "null"):
                split = urlsplit(origin)
                _ = split.port  # reading it checks it
                if not split.hostname or origin != f"{split.scheme}://{split.netloc}" or "@" in origin:
                    raise ValueError(raw)
        return found

    return SettingType(parse, "origins such as https://app.example.com (without a path), separated by commas, or *")


def networks() -> SettingType:
    """Addresses and networks, as their text in its shortest form: comma-separated text or a list."""

    def parse(raw: object) -> tuple[str, ...]:
        found = tuple(ip_network(part) for part in _parts(raw))
        if any(network.prefixlen == 0 for network in found):  # then every client is a trusted proxy
            raise ValueError(raw)
        return tuple(map(str, found))

    return SettingType(
        parse, "IP addresses or networks such as 127.0.0.1 and 10.0.0.0/8, separated by commas, and not all"
    )


def host_names() -> SettingType:
    """Names of hosts without a port, or ``*``, in lower case: comma-separated text or a list."""

    def parse(raw: object) -> tuple[str, ...]:
        found = tuple(part.lower() for part in _parts(raw))
        if any(c in name for name in found for c in "/:[]@ "):
            raise ValueError(raw)
        return found

    return SettingType(parse, "host names without a port, separated by commas, or *")
