"""Markers: what stands beside a type in ``Annotated`` and says where a parameter comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Scope = Literal["request", "service"]


class Marker:
    """Base of the markers: equal to another of its own kind that says the same, and to nothing else.

    ``typing`` keeps every ``Annotated[...]`` that it has made and finds it again by equality; before Python 3.11.4 it
    does not look at types. Markers that are tuples would then be taken for each other: a header for a cookie.
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
    """Base of the markers that may give a name."""

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
    """Marks a parameter whose value ``factory`` makes.

    The factory is a function or a generator that yields once; what stands after the ``yield`` is the teardown, run in
    reverse order. With ``scope="service"`` it is made once per instance, before it announces itself ready, and torn
    down after the last handler; otherwise once per request, however often it is asked for. A factory takes what a
    handler may take, but no body, and dependencies of its own.
    """

    __slots__ = ("factory", "scope")

    def __init__(self, factory: Callable[..., Any], scope: Scope = "request") -> None:
        self.factory = factory
        self.scope: Scope = scope

    def _facts(self) -> tuple[Any, ...]:
        return self.factory, self.scope
