"""Markers for ``Annotated``: they say which part of a request a parameter comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Scope = Literal["request", "service"]


class Marker:
    """Base of the markers: equal to a marker of the same class with the same values, and to nothing else.

    ``typing`` caches every ``Annotated[...]`` and finds it by equality; before Python 3.11.4 it does not compare types.
    With markers that are tuples it would find the wrong one: a header for a cookie.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash((type(self), self._facts()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._facts()))})"

    def _facts(self) -> tuple[Any, ...]:
        return ()


class Named(Marker):
    """Base of the markers that may have a name."""

    __slots__ = ("name",)

    def __init__(self, name: str = "") -> None:
        self.name = name

    def _facts(self) -> tuple[Any, ...]:
        return (self.name,)


class Header(Named):
    """``Annotated[str, Header("X-Api-Key")]``: from a request header; by default the parameter's name with dashes."""

    __slots__ = ()


class Cookie(Named):
    """``Annotated[str, Cookie()]``: from a cookie."""

    __slots__ = ()


class Query(Named):
    """``Annotated[str, Query("page-size")]``: from the query string under another name."""

    __slots__ = ()


class Body(Marker):
    """``Annotated[int, Body()]``: the JSON body, for a type that would be read from the query otherwise."""

    __slots__ = ()


class Depends(Marker):
    """``Annotated[Database, Depends(open_database)]``: a value that a factory makes.

    factory: a function, or a generator that yields once; the code after its ``yield`` is the teardown, and teardowns
        run in reverse order. It takes the parameters of a handler but the body, and dependencies of its own
    scope: ``request`` for one value per request, ``service`` for one per instance, made before it announces itself
        ready and torn down after the last handler
    """

    __slots__ = ("factory", "scope")

    def __init__(self, factory: Callable[..., Any], scope: Scope = "request") -> None:
        self.factory = factory
        self.scope: Scope = scope

    def _facts(self) -> tuple[Any, ...]:
        return self.factory, self.scope
