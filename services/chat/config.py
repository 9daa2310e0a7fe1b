"""The settings of `chat`: from the environment, see ``.env.example``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mesh.setting_types import whole
from mesh.settings_reader import SettingType, setting
from services.settings import DatabaseSettings, database_url, load


def _base_url() -> SettingType:
    def parse(raw: object) -> str:
        url = str(raw).rstrip("/")
        if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise ValueError("is no http:// or https:// URL")
        return url

    return SettingType(parse, "a URL such as https://host/v1")


@dataclass(frozen=True, repr=False)
class ChatSettings(DatabaseSettings):
    """Where rooms are kept, and who completes chats."""

    section = "chat"

    database_url: str = setting(
        "sqlite:///chat.db", database_url(), env=["DATABASE_URL"], secret=True, doc="Where the rooms' messages are."
    )
    upstream_url: str = setting(
        "",
        _base_url(),
        env=["CHAT_UPSTREAM_URL"],
        doc="A server of the OpenAI form that completes chats for every model but parrot.",
    )
    upstream_key: str = setting(
        "", SettingType(str, "text"), env=["CHAT_UPSTREAM_KEY"], secret=True, doc="The key for that server."
    )
    token_ms: int = setting(
        30, whole(0, 1000, "milliseconds"), env=["CHAT_TOKEN_MS"], doc="How long parrot takes for a word."
    )


def load_settings(environ: Mapping[str, str] | None = None) -> ChatSettings:
    """Raises `mesh.ConfigError` with every mistake."""
    return load(ChatSettings, environ)
