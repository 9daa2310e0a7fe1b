"""Markers in ``Annotated`` are never taken for each other, whatever ``typing`` remembers of other annotations."""

from functools import lru_cache
from itertools import combinations
from typing import Annotated

import pytest

import mesh as package
from mesh import Body, Cookie, Depends, Header, Query, Service
from mesh.service.parameter_markers import Marker
from mesh.testing import Mesh

KINDS = [Header, Cookie, Query, Body, Depends]
MARKERS = [
    Header(),
    Cookie(),
    Query(),
    Header("key"),
    Cookie("key"),
    Query("key"),
    Body(),
    Depends("key"),
    ("key",),
    (),
]


def every(kind):
    return {kind, *(found for below in kind.__subclasses__() for found in every(below))}


def test_every_kind_is_looked_at_here():
    public = {value for name in package.__all__ if isinstance(value := getattr(package, name), type)}
    assert public & every(Marker) == set(KINDS)
    assert not [value for value in public if issubclass(value, tuple)], "tuples are equal whatever their class"


@pytest.mark.parametrize(("one", "other"), [*combinations(MARKERS, 2)], ids=repr)
def test_markers_that_differ_are_unequal(one, other):
    assert one != other
    assert hash(one) != hash(other)


@pytest.mark.parametrize("kind", KINDS)
def test_markers_that_say_the_same_are_equal(kind):
    arguments = () if kind is Body else ("key",)
    one, other = kind(*arguments), kind(*arguments)
    assert (one, hash(one), repr(one)) == (other, hash(other), repr(other))


def test_a_cache_that_does_not_look_at_types_keeps_them_apart():
    @lru_cache(typed=False)  # that of typing before Python 3.11.4
    def annotated(kind, marker):
        return kind, marker

    found = [annotated(str, marker)[1] for marker in MARKERS]
    assert [type(marker) for marker in found] == [type(marker) for marker in MARKERS]


async def test_a_value_comes_from_where_its_marker_says(nats_url, prefix):
    made = lru_cache(typed=False)(lambda kind, marker: Annotated[kind, marker])
    annotations = {name: made(str, kind("key")) for name, kind in (("h", Header), ("q", Query), ("c", Cookie))}

    async def where(h="-", q="-", c="-"):
        return f"{h} {q} {c}"

    where.__annotations__ = annotations
    service = Service("conf")
    service.get("/conf")(where)
    async with Mesh(service, nats_url=nats_url, prefix=prefix) as mesh:
        asked = [
            await mesh.http.get("/conf?key=query"),
            await mesh.http.get("/conf", headers={"key": "header"}),
            await mesh.http.get("/conf", headers={"cookie": "key=cookie"}),
        ]
    assert [answer.json() for answer in asked] == ["- query -", "header - -", "- - cookie"]
