"""The settings of `wallet`: from the environment, see ``.env.example``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.setting_types import whole
from mesh.settings_reader import setting
from services.settings import DatabaseSettings, database_url, load


@dataclass(frozen=True, repr=False)
class WalletSettings(DatabaseSettings):
    """Where the ledger is kept, and what a day is worth."""

    section = "wallet"

    database_url: str = setting(
        "sqlite:///wallet.db", database_url(), env=["DATABASE_URL"], secret=True, doc="Where the ledger is."
    )
    daily_amount: int = setting(
        100,
        whole(1, 1_000_000_000, "minor units"),
        env=["WALLET_DAILY_AMOUNT"],
        doc="What a user may claim once per UTC day.",
    )


def load_settings(environ: Mapping[str, str] | None = None) -> WalletSettings:
    """Raises `mesh.ConfigError` with every mistake."""
    return load(WalletSettings, environ)
