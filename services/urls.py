"""Database URLs as people and platforms write them, translated to what SQLAlchemy wants."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}
_OPTIONS = {"sqlite+aiosqlite": set[str](), "postgresql+asyncpg": {"host", "port", "ssl"}}


def parse_url(raw: object) -> URL:
    """``raw`` with the asynchronous driver; ``sslmode`` becomes the driver's ``ssl``. Raises ValueError."""
    try:
        url = make_url(raw) if isinstance(raw, str) else None
    except (ArgumentError, ValueError) as error:
        raise ValueError("not a URL") from error  # the text may hold a password, so it is not repeated
    if url is None or url.drivername not in _DRIVERS:
        raise ValueError("not a SQLite or PostgreSQL URL")
    url = url.set(drivername=_DRIVERS[url.drivername])
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    unknown = query.keys() - _OPTIONS[url.drivername]
    if unknown:
        raise ValueError(f"unknown options {', '.join(sorted(unknown))}")
    if url.drivername == "postgresql+asyncpg" and not url.database:
        raise ValueError("no database is named")
    return url.set(query=query)
