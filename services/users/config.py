"""The settings of `users`: from the environment, see ``.env.example``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.setting_types import number
from mesh.settings_reader import setting
from services.settings import DatabaseSettings, database_url, load


@dataclass(frozen=True, repr=False)
class UsersSettings(DatabaseSettings):
    """Where the accounts are kept, and how long the wallet may take."""

    section = "users"

    database_url: str = setting(
        "sqlite:///users.db", database_url(), env=["DATABASE_URL"], secret=True, doc="Where accounts are."
    )
    wallet_timeout_s: float = setting(
        2.0,
        number(0.05, 10, "seconds"),
        env=["USERS_WALLET_TIMEOUT_S"],
        doc="How long a profile waits for the wallet before it goes without a balance.",
    )


def load_settings(environ: Mapping[str, str] | None = None) -> UsersSettings:
    """Raises `mesh.ConfigError` with every mistake."""
    return load(UsersSettings, environ)
