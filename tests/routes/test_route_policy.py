"""What the revisions of one route say together."""

import pytest
from msgspec.structs import fields

from mesh.messages import Route
from mesh.routes import Match, RouteTable, merge_policies
from mesh.routes.route_policy import RULES
from tests.routes.build import Announced


def route(**settings):
    return Route(method="GET", path="/a", endpoint="run", **settings)


@pytest.mark.parametrize(
    ("field", "announced", "merged"),
    [
        ("timeout_ms", [0, 0], 0),
        ("timeout_ms", [500, 0], 500),
        ("timeout_ms", [500, 300], 300),
        ("try_timeout_ms", [500, 0], 0),
        ("try_timeout_ms", [500, 300], 500),
        ("idempotent", [True, False], False),
        ("idempotent", [True, True], True),
        ("retry", [True, False], False),
        ("retry", [True, True], True),
        ("preflight", [True, False], False),
        ("deprecated", [True, False], True),
        ("stream", ["response", ""], ""),
        ("stream", ["response", "response"], "response"),
        ("summary", ["old", "new"], ""),
        ("tags", [("a",), ("b",)], ()),
    ],
)
def test_the_rule_of_each_field(field, announced, merged):
    routes = [route(**{field: value}) for value in announced]
    assert getattr(merge_policies(routes), field) == merged
    assert getattr(merge_policies(reversed(routes)), field) == merged
    assert merge_policies(routes[:1]) is routes[0]


def test_every_field_has_a_rule_that_somebody_chose():
    """A new field is `common` unless `RULES` says otherwise: that must be strict enough for it."""
    names = {field.name for field in fields(Route)}
    common = {"summary", "tags", "auth", "stream"}
    assert names == {*RULES, *common, "method", "path", "endpoint"}


def test_a_table_merges_once_and_a_match_carries_it():
    old, new = route(timeout_ms=500, idempotent=True), route(timeout_ms=900)
    table = RouteTable().replace("users", [Announced("1", (old,)), Announced("2", (new,))], 0.0)
    found = table.match("GET", ("a",))
    assert isinstance(found, Match)
    assert (found.route.policy.timeout_ms, found.route.policy.idempotent) == (500, False)
    assert found.route.policy is found.route.policy
    alone = table.replace("users", [Announced("2", (new,))], 1.0).match("GET", ("a",))
    assert isinstance(alone, Match)
    assert alone.route.policy == new
