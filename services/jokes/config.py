"""The settings of `jokes`: from the environment, see ``.env.example``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.settings_reader import setting
from services.settings import DatabaseSettings, database_url, load


@dataclass(frozen=True, repr=False)
class JokesSettings(DatabaseSettings):
    """Where the jokes are kept."""

    section = "jokes"

    database_url: str = setting(
        "sqlite:///jokes.db", database_url(), env=["DATABASE_URL"], secret=True, doc="Where the jokes are."
    )


def load_settings(environ: Mapping[str, str] | None = None) -> JokesSettings:
    """Raises `mesh.ConfigError` with every mistake."""
    return load(JokesSettings, environ)
