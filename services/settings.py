"""Reading a service's own settings: from the environment, checked at start, every mistake named at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from mesh.setting_types import whole
from mesh.settings_reader import OWN_PREFIX, Settings, SettingType, read_all, setting
from services.urls import parse_url


def database_url() -> SettingType:
    """The URL of a SQLite or PostgreSQL database, in any of its usual spellings."""

    def parse(raw: object) -> str:
        parse_url(raw)
        return str(raw)

    return SettingType(parse, "a database's URL such as sqlite:///file.db or postgresql://user:password@host/name")


@dataclass(frozen=True, repr=False)
class DatabaseSettings(Settings):
    """What every service with a database is told."""

    section = "database"

    database_url: str = setting(
        "sqlite://", database_url(), env=["DATABASE_URL"], secret=True, doc="Where the data is kept."
    )
    pool_size: int = setting(
        5, whole(1, 100), env=["DATABASE_POOL_SIZE"], doc="Connections that one instance keeps open at most."
    )


S = TypeVar("S", bound=Settings)


def load(kind: type[S], environ: Mapping[str, str] | None = None) -> S:
    """The settings of class ``kind``. Raises `mesh.ConfigError` with every mistake."""
    given = os.environ if environ is None else environ
    own = {name: value for name, value in given.items() if not name.startswith(OWN_PREFIX)}  # the mesh checks its own
    (loaded,) = read_all([kind], environ=own, file=None)
    assert isinstance(loaded, kind)
    return loaded
