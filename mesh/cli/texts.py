"""Sentences of several commands, mostly about what was not found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def counted(number: int, thing: str) -> str:
    """``1 instance``, ``2 instances``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean ...?`` with the nearest known name, or empty."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, 1, 0.5) or [n for n in names if n.lower() == name.lower()]
    return f" Did you mean {near[0]!r}?" if near else ""


def no_service(name: str, known: Iterable[str]) -> str:
    """The sentence for a service that is not there, with the nearest name or some of the others."""
    names = set(known)
    there = f" There are: {', '.join(sorted(names)[:8])}." if names else " Nothing has announced itself."
    return f"no service {name!r}.{nearest(name, names) or there}"


def nothing(prefix: str, servers: Sequence[str]) -> str:
    """Two lines for a mesh without instances: where they were looked for, and what to do. Safe for a terminal."""
    from mesh.printable import clean
    from mesh.settings_reader import redact

    where = clean(redact(", ".join(servers)))
    return (
        f"nothing has announced itself under the prefix {prefix!r} on {where}\n"
        "hint: NATS_URL and MESH_PREFIX say where to look; 'mesh run' starts a service, 'mesh up' a whole mesh"
    )
