"""Path templates: literal segments, ``{name}``, and ``{name:path}`` as the last one.

``"/users/{id}/caf%C3%A9"`` has the segments ``("users", None, "café")``, the names ``("id",)`` and no tail.
A template is checked once, when a service declares or announces it. The result is safe to match, to compare and to
print.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from mesh.routes.segments import BadSegment, decode_segment

MAX_TEMPLATE: Final = 2048
"""Characters of a template at most, as in `mesh.messages.Route`."""

Shape = tuple[tuple[str | None, ...], bool]
"""What a template matches, whatever the names of its parameters: segments (None: a parameter), and True for a tail."""
Capture = Callable[[tuple[str, ...]], tuple[str, ...]]

_PARAMETER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_RESERVED = frozenset("%/\\{}?# ")


class BadTemplate(ValueError):
    """A path that is not a template. The text is one sentence that names the fault."""


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template.

    text: its one spelling, with literals decoded except for characters that would change the meaning
    segments: the decoded text of each literal, None for a parameter; without the tail
    names: the parameters in their order, that of the tail last
    tail: True if it ends with ``{name:path}``

    ``shape`` is equal for templates that match the same paths.
    """

    text: str
    segments: tuple[str | None, ...]
    names: tuple[str, ...]
    tail: bool

    @property
    def shape(self) -> Shape:
        return self.segments, self.tail


def parse_template(path: str) -> Template:
    """The template in ``path``. Raises `BadTemplate`.

    Literals may be percent-encoded or not: ``/caf%C3%A9`` and ``/café`` are the same template. A slash at the end is an
    empty last segment, so it makes another template.
    """
    if not path.startswith("/"):
        raise BadTemplate(f"template {_show(path)} does not start with '/'")
    if len(path) > MAX_TEMPLATE:
        raise BadTemplate(f"template {_show(path)} has {len(path)} characters; at most {MAX_TEMPLATE} are allowed")
    parts = path[1:].split("/")
    last = len(parts) - 1
    segments: list[str | None] = []
    names: list[str] = []
    spelled: list[str] = []
    tail = False
    for place, part in enumerate(parts):
        if "{" not in part and "}" not in part:
            if not part and place < last:
                raise BadTemplate(f"template {_show(path)} has an empty segment before its last one")
            literal = _literal(path, part)
            segments.append(literal)
            spelled.append(_spell(literal))
            continue
        name, converter = _parameter(path, part)
        if name in names:
            raise BadTemplate(f"template {_show(path)} has two parameters called {name!r}")
        names.append(name)
        if converter == "path":
            if place < last:
                raise BadTemplate(f"template {_show(path)} goes on after {part}, which takes the whole rest")
            tail = True
            spelled.append(f"{{{name}:path}}")
        else:
            segments.append(None)
            spelled.append(f"{{{name}}}")
    return Template("/" + "/".join(spelled), tuple(segments), tuple(names), tail)


def mount(prefix: str, path: str) -> str:
    """``path`` below ``prefix``: ``mount("/api/v1", "/metrics") == "/api/v1/metrics"``. Raises `BadTemplate`.

    The prefixes ``""`` and ``"/"`` mean none; a slash at the end of a prefix does not count. ``"/"`` below ``"/api"``
    is ``"/api/"``.
    """
    parse_template(path)
    prefix_segments(prefix)
    joined = prefix.removesuffix("/") + path
    parse_template(joined)
    return joined


def prefix_segments(prefix: str) -> tuple[str, ...]:
    """The decoded segments of a literal path prefix; none for ``""`` and ``"/"``. Raises `BadTemplate`."""
    if prefix in ("", "/"):
        return ()
    template = parse_template(prefix.removesuffix("/"))
    literals = tuple(segment for segment in template.segments if segment is not None)
    if template.names:
        raise BadTemplate(f"prefix {_show(prefix)} has a parameter; a prefix is literal")
    if not literals[-1]:
        raise BadTemplate(f"prefix {_show(prefix)} ends in an empty segment")
    return literals


def capture(shape: Shape) -> Capture:
    """A function from the segments of a matching path to the values of its parameters, that of the tail last."""
    segments, tail = shape
    places = [place for place, segment in enumerate(segments) if segment is None]
    if tail:
        start = len(segments)
        return lambda found: (*[found[place] for place in places], "/".join(found[start:]))
    if not places:
        return lambda _: ()
    if len(places) == 1:
        (only,) = places
        return lambda found: (found[only],)
    return itemgetter(*places)


def _literal(path: str, part: str) -> str:
    if "?" in part or "#" in part:
        raise BadTemplate(f"template {_show(path)} has '?' or '#', which end a path; write %3F or %23")
    try:
        return decode_segment(part.encode())
    except BadSegment as error:
        raise BadTemplate(f"segment {_show(part)} of template {_show(path)} {error}") from None
    except UnicodeEncodeError:
        raise BadTemplate(f"template {_show(path)} has a lone surrogate") from None


def _parameter(path: str, part: str) -> tuple[str, str]:
    found = _PARAMETER.fullmatch(part)
    if found is None:
        raise BadTemplate(
            f"segment {_show(part)} of template {_show(path)} mixes braces and text; a parameter is a whole segment"
        )
    name, converter = found[1], found[2]
    if not name.isidentifier():
        raise BadTemplate(f"parameter {_show(name)} of template {_show(path)} is not an identifier")
    if converter not in (None, "str", "path"):
        raise BadTemplate(
            f"template {_show(path)} has the converter {_show(converter)}; only 'path' is known, "
            "types belong to the handler's annotations"
        )
    return name, converter or "str"


def _spell(literal: str) -> str:
    """A literal as people write it; characters that would change its meaning, or do not show, are percent-encoded."""
    if literal.isprintable() and _RESERVED.isdisjoint(literal):
        return literal
    return "".join(
        character
        if character.isprintable() and character not in _RESERVED
        else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in literal
    )


def _show(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
