"""Values as commands show them: ages, durations, figures, lists, states."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.registry import Instance


def age(started: str) -> float | None:
    """Seconds since an RFC 3339 time with any number of digits; negative in the future, None for any other text."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (datetime.now(UTC) - moment).total_seconds()


def span(seconds: float | None) -> str:
    """A duration for people: ``4s``, ``3m12s``, ``2h05m``, ``8d4h``."""
    if seconds is None:
        return "-"
    if seconds < 0:
        return "future"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def number(value: float | None, unit: str = "") -> str:
    """A figure with three significant digits, such as ``1.25ms``; ``-`` for None."""
    if value is None:
        return "-"
    text = f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return text + unit


def as_list(values: Iterable[str]) -> str:
    """The values with commas between them; ``-`` without any."""
    return ", ".join(values) or "-"


def state_of(instance: Instance) -> str:
    """The state to show: the declared one, or ``suspect`` while the instance is silent."""
    return "suspect" if instance.suspect else instance.state


def builtins(value: Any) -> Any:
    """A struct, or anything made of structs, as dicts, lists and texts that JSON has."""
    import msgspec

    return msgspec.to_builtins(value)
