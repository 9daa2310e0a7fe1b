"""Finds spellings of other frameworks at declaration, and says how they are written here."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mesh.errors import DeclarationError
from mesh.service.parameter_markers import Marker
from mesh.source_files import short

_NAME = r"([A-Za-z_]\w*)"
P = ParamSpec("P")
T = TypeVar("T")
# A parameter in the spelling of another framework, and in ours; \1 is its name, {rest} is for one without a name.
_SPELLINGS = [
    (re.compile(pattern), spelled)
    for pattern, spelled in (
        (rf":{_NAME}\??", r"{\1}"),  # Express, Sinatra, Rails, Gin
        (rf":{_NAME}[*+]", r"{\1:path}"),
        (rf"<(?:(?!path:)\w+:)?{_NAME}>", r"{\1}"),  # Flask, Django
        (rf"<path:{_NAME}>", r"{\1:path}"),
        (rf"\[{_NAME}\]", r"{\1}"),  # Next.js
        (rf"\[\[?\.\.\.{_NAME}\]?\]", r"{\1:path}"),
        (rf"\{{{_NAME}(?:\?|:(?!path\}}|str\}})[^.]*)\}}", r"{\1}"),  # types and patterns behind the name
        (rf"\{{(?:\*\*?{_NAME})\}}", r"{\1:path}"),  # ASP.NET, axum
        (rf"\{{{_NAME}(?:\.\.\.|:\.[*+])\}}", r"{\1:path}"),  # Go, gorilla/mux
        (rf"\*\*?{_NAME}", r"{\1:path}"),  # Gin, Rails
        (r"\*\*?", "{rest:path}"),
    )
]
_FRAMEWORKS = {"fastapi", "starlette", "litestar", "flask", "django", "aiohttp", "quart"}
_OURS = {
    "ctx": "ctx: Context",
    "context": "context: Context",
    "request": "request: Request",
    "req": "req: Request",
    "ws": "ws: WebSocket",
    "websocket": "websocket: WebSocket",
    "socket": "socket: WebSocket",
}
"""Names that parameters of our types usually have, with their annotations."""
_MARKERS = frozenset({"Header", "Cookie", "Query", "Body", "Depends"})
_BODIES = frozenset({"body", "data", "payload", "json", "item"})


def location_of(handler: Any) -> str:
    """The file and line of a handler, as ``users.py:12``; empty if unknown."""
    code = getattr(inspect.unwrap(handler) if callable(handler) else handler, "__code__", None)
    known = code is not None and Path(code.co_filename).is_file()
    return f"{short(code.co_filename)}:{code.co_firstlineno}" if code is not None and known else ""


def with_location(name: str, handler: Any) -> str:
    """A handler by the name of its endpoint, with its file and line, as ``one (users.py:12)``."""
    found = location_of(handler)
    return f"{name} ({found})" if found else name


def check_called(given: Any, decorator: str, example: str) -> None:
    """Raises `DeclarationError` for a decorator that was used without parentheses.

    given: its first argument, which is the handler then
    decorator: the decorator's name
    example: its arguments, as an example
    """
    if callable(given):
        name = getattr(given, "__qualname__", given)
        raise DeclarationError(f"handler {name!r}: @{decorator} needs parentheses: write @{decorator}({example})")


def explains_wrong_arguments(right: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator: wrong arguments raise a `DeclarationError` that ends in ``right``, the right spelling.

    Python raises a TypeError for them, as if the library had made the mistake.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                known = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
                wrong = next((name for name in kwargs if name not in signature.parameters and known), "")
                near = difflib.get_close_matches(wrong, known, 1)
                if near:
                    raise DeclarationError(f"there is no option {wrong!r}; did you mean {near[0]!r}?") from None
                raise DeclarationError(f"{error}; write {right}") from None
            return function(*args, **kwargs)

        return call

    return decorate


def check_options(given: Iterable[str], taken_by: Callable[..., Any], decorator: str) -> None:
    """Raises `DeclarationError` for an option that a decorator does not have; its text has the nearest one."""
    known = [p.name for p in inspect.signature(taken_by).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise DeclarationError(f"@{decorator} has no option {option!r}; {hint}")


def check_path(path: Any, what: str) -> None:
    """Raises `DeclarationError` for parameters in another framework's spelling: ``:id``, ``<id>``, ``*rest``."""
    if not isinstance(path, str):
        raise DeclarationError(f"{what} {path!r} is a {type(path).__name__}, not a text such as '/users/{{user_id}}'")
    for segment in path.split("/"):
        spelled = _respelled(segment)
        if spelled == segment:
            continue
        text = f"{what} {path!r}: {segment!r} is no parameter here; did you mean {respelled(path)!r}?"
        if ":" in segment[1:] and not spelled.endswith(":path}"):
            text += " Its type is the annotation of the handler's parameter."
        raise DeclarationError(text)


def respelled(path: str) -> str:
    """A path with its parameters in our spelling."""
    return "/".join(map(_respelled, path.split("/")))


def _respelled(segment: str) -> str:
    for pattern, spelled in _SPELLINGS:
        found = pattern.fullmatch(segment)
        if found is not None:
            return found.expand(spelled)
    return segment


def check_unannotated(name: str, default: Any, method: str, path_names: Sequence[str], where: str) -> None:
    """Raises `DeclarationError` for a parameter without annotation that would silently come from the query.

    Text of the path and plain text of the query need no annotation. ``default`` is `inspect.Parameter.empty` for none.
    """
    if name in ("self", "cls"):
        raise DeclarationError(f"{where}: {name!r}: declare functions, or an object's bound methods, not a class's")
    if name in path_names:
        return
    if name in _OURS and default is inspect.Parameter.empty:
        raise DeclarationError(f"{where}: {name!r} has no annotation; did you mean {_OURS[name]}?")
    if method in ("CALL", "EVENT", "DEPENDENCY"):
        return
    if default is not inspect.Parameter.empty and default is not None and not isinstance(default, str | Marker):
        raise DeclarationError(f"{where}: {name!r} has no annotation; write {name}: {type(default).__name__} = ...")
    if method in ("POST", "PUT", "PATCH", "*") or name in _BODIES:
        raise DeclarationError(
            f"{where}: {name!r} has no annotation, so it would come from the query; write {name}: str if it should, "
            f"or the type of the body, as {name}: dict[str, object]"
        )


def check_foreign(name: str, kind: Any, extras: Sequence[Any], default: Any, where: str) -> None:
    """Raises `DeclarationError` for a marker in the wrong place, and for types and markers of another framework."""
    if isinstance(default, Marker):
        raise DeclarationError(
            f"{where}: {name!r} has the default {default!r}; a marker belongs into the annotation, "
            f"as {name}: Annotated[{type_name(kind)}, {type(default).__name__}(...)]"
        )
    for thing in (*extras, default):
        framework = _framework(type(thing))
        if framework:
            theirs = type(thing).__name__
            ours = f"Annotated[{type_name(kind)}, {theirs}(...)]" if theirs in _MARKERS else type_name(kind)
            raise DeclarationError(f"{where}: {name!r} has {theirs} of {framework}; with mesh it is {name}: {ours}")
    framework = _framework(kind)
    if framework:
        raise DeclarationError(
            f"{where}: {name!r} is a {type_name(kind)} of {framework}, which only its applications get: use a type of "
            "mesh's, or run the application itself with mesh serve"
        )


def _framework(kind: Any) -> str:
    module = getattr(kind, "__module__", "")
    root = module.partition(".")[0] if isinstance(module, str) else ""
    return root if root in _FRAMEWORKS else ""


def type_name(annotation: Any) -> str:
    """A type as error texts name it."""
    return getattr(annotation, "__name__", None) or str(annotation)


def check_hook(hook: Callable[..., Any], what: str) -> None:
    """Raises `DeclarationError` for a hook that cannot be awaited."""
    name = getattr(hook, "__qualname__", hook)
    if not callable(hook):
        raise DeclarationError(f"{what} {name!r} is not a function")
    plain = inspect.isfunction(hook) and not inspect.iscoroutinefunction(hook)
    if (plain and hook.__name__ != "<lambda>" and not hasattr(hook, "__wrapped__")) or inspect.isasyncgenfunction(hook):
        raise DeclarationError(f"{what} {name!r} must be an async function")
