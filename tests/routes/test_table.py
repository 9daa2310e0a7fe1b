from __future__ import annotations

import pytest

from mesh.defaults import ROUTE_MEMORY_S
from mesh.messages import RouteConflict
from mesh.routes import BadTemplate, Match, RouteTable
from tests.routes.build import content, dump, outcome, table_of


def test_replace_with_the_same_gives_the_same_table() -> None:
    both = [content("GET /a"), content("GET /a", "GET /b", revision="two")]
    table = RouteTable().replace("s", both, 1.0)
    assert table.replace("s", both[::-1], 2.0) is table
    assert table.replace("other", [], 2.0) is table
    gone = table.replace("s", [], 3.0)
    assert gone.replace("s", [], 4.0) is gone
    assert table.expire(1e9) is table
    idle = table.replace("idle", [content()], 1.0)
    assert idle.services == {"s", "idle"}
    assert idle.replace("idle", [content()], 2.0) is idle
    assert idle.replace("idle", [], 2.0).services == {"s"}


def test_entries_stay_the_same_objects_while_nothing_about_them_changes() -> None:
    table = table_of({"s": ["GET /a", "GET /b"]})
    first, second = table.routes()
    changed = table.replace("s", [content("GET /a", "GET /c")], 1.0)
    assert next(changed.routes()) is first
    assert table.match("GET", ("b",)) == Match(second, ())
    back = table.replace("s", [], 1.0).replace("s", [content("GET /a", "GET /b")], 2.0)
    assert list(back.routes()) == [first, second]


def test_an_old_table_is_unchanged() -> None:
    table = table_of({"a": ["GET /x", "GET /x/{y}", "GET /{p:path}"], "b": ["GET /x"]})
    before = dump(table)
    after = table.replace("a", [content("POST /x", "GET /x/z")], 1.0).replace("b", [], 1.0).expire(1e9)
    assert dump(table) == before
    assert dump(after) != before


def test_revisions_side_by_side_keep_their_own_names_and_endpoints() -> None:
    old = content("GET /u/{user_id}", "GET /old", revision="1", endpoint="one")
    new = content("GET /u/{id}", "GET /new", revision="2", endpoint="two")
    table = RouteTable().replace("s", [old, new], 0.0)
    found = table.match("GET", ("u", "7"))
    assert isinstance(found, Match)
    assert found.route.template == "/u/{id}"
    assert {revision: (b.endpoint, b.names) for revision, b in found.route.revisions.items()} == {
        "1": ("one", ("user_id",)),
        "2": ("two", ("id",)),
    }
    assert found.route.revisions["1"].announced is old.routes[0]
    (only_old,) = (entry for entry in table.routes() if entry.template == "/old")
    assert set(only_old.revisions) == {"1"}
    # The last instance of the old revision leaves: its own route vanishes, nothing is remembered.
    table = table.replace("s", [new], 1.0)
    assert outcome(table, "GET /old") is None
    assert list(table.remembered()) == []
    (entry,) = (entry for entry in table.routes() if entry.template == "/u/{id}")
    assert set(entry.revisions) == {"2"}


def test_a_route_without_instances_is_remembered_for_ten_minutes() -> None:
    table = table_of({"s": ["GET /a/{x}"]}).replace("s", [], 100.0)
    assert outcome(table, "GET /a/1") == ("gone s GET /a/{x}", "1")
    assert outcome(table, "HEAD /a/1") == ("gone s GET /a/{x}", "1")
    assert (len(table), table.services) == (0, frozenset())
    assert [entry.template for entry in table.remembered()] == ["/a/{x}"]
    assert table.expire(99.9 + ROUTE_MEMORY_S) is table
    assert dump(table.expire(100.0 + ROUTE_MEMORY_S)) == dump(RouteTable())
    assert outcome(table.expire(100.0 + ROUTE_MEMORY_S), "GET /a/1") is None
    # A later report of the same absence does not start the time anew.
    assert outcome(table.replace("s", [], 500.0).expire(100.0 + ROUTE_MEMORY_S), "GET /a/1") is None


def test_the_oldest_remembered_routes_go_first_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.routes.table.REMEMBERED_ROUTES", 5)
    services = {name: [f"GET /{name}/one", f"GET /{name}/two"] for name in ("a", "b", "c")}
    table = table_of({**services, "live": ["GET /live"]})
    for now, name in enumerate(("b", "a", "c")):
        table = table.replace(name, [], float(now))
    assert sorted({route.service for route in table.remembered()}) == ["a", "c"]
    assert outcome(table, "GET /b/one") is None
    # One that was there again meanwhile is the newest.
    table = table.replace("a", [content(*services["a"])], 5.0).replace("a", [], 6.0)
    table = table.replace("d", [content("GET /d/one", "GET /d/two")], 7.0).replace("d", [], 7.0)
    assert sorted({route.service for route in table.remembered()}) == ["a", "d"]
    # More than the limit by itself.
    table = table.replace("e", [content(*(f"GET /e/{i}" for i in range(6)))], 8.0).replace("e", [], 8.0)
    assert dump(table) == dump(table_of({"live": ["GET /live"]}))
    assert not table._remembered
    assert table._claims_of.keys() == {"live"}


def test_a_live_revision_that_lacks_a_remembered_route_ends_it() -> None:
    table = table_of({"s": ["GET /a", "GET /b"]}).replace("s", [], 1.0)
    table = table.replace("s", [content("GET /b")], 2.0)
    assert outcome(table, "GET /a") is None
    assert outcome(table, "GET /b") == ("s GET /b",)
    assert list(table.remembered()) == []
    assert table.expire(1e9) is table


def test_remembered_routes_come_after_live_ones_and_before_405() -> None:
    table = table_of({"a": ["GET /x/y", "DELETE /x/{z}"], "b": ["GET /x/{z}"], "c": ["PUT /x/y"]}).replace("a", [], 1.0)
    assert outcome(table, "GET /x/y") == ("b GET /x/{z}", "y")
    assert outcome(table, "DELETE /x/y") == ("gone a DELETE /x/{z}", "y")
    # The path is known, so it is no 404 while the service that would say 405 is away.
    assert outcome(table, "PATCH /x/y") == {"GET", "HEAD", "DELETE", "PUT", "OPTIONS"}
    away = table_of({"a": ["GET /only", "* /any"]}).replace("a", [], 1.0)
    assert outcome(away, "POST /only") == {"GET", "HEAD", "OPTIONS"}
    assert outcome(away, "POST /any") == ("gone a * /any",)


def test_the_smaller_name_wins_at_the_same_moment_and_the_other_serves_when_it_leaves() -> None:
    table = table_of({"b": ["GET /x/{b}"], "a": ["GET /x/{a}"], "c": ["GET /x/{c}", "POST /x/{c}"]})
    assert outcome(table, "GET /x/1") == ("a GET /x/{a}", "1")
    assert outcome(table, "POST /x/1") == ("c POST /x/{c}", "1")
    assert table.conflicts == (RouteConflict("GET", "/x/{a}", "a", ("b", "c"), "earlier"),)
    assert len(table) == 2
    table = table.replace("a", [], 1.0)
    assert outcome(table, "GET /x/1") == ("b GET /x/{b}", "1")
    assert table.conflicts == (RouteConflict("GET", "/x/{b}", "b", ("c",), "earlier"),)
    table = table.replace("b", [content("GET /other")], 1.0)
    assert outcome(table, "GET /x/1") == ("c GET /x/{c}", "1")
    assert table.conflicts == ()
    table = table.replace("c", [], 2.0)
    assert outcome(table, "GET /x/1") == ("gone a GET /x/{a}", "1")
    assert table.conflicts == ()


def test_the_earlier_claim_keeps_a_route_whoever_is_heard_first() -> None:
    early, late = content("GET /x/{b}", claimed=(10,)), content("GET /x/{a}", "GET /only", claimed=(20,))
    for order in (("b", early), ("a", late)), (("a", late), ("b", early)):
        table = RouteTable()
        for service, announced in order:
            table = table.replace(service, [announced], 0.0)
        assert outcome(table, "GET /x/1") == ("b GET /x/{b}", "1")
        assert outcome(table, "GET /only") == ("a GET /only",)
        assert table.conflicts == (RouteConflict("GET", "/x/{a}", "b", ("a",), "earlier"),)


def test_each_route_has_its_own_claim() -> None:
    """A service that was there first takes nothing with a route that it adds later."""
    table = table_of({})
    table = table.replace("b", [content("GET /x", claimed=(15,))], 0.0)
    table = table.replace("a", [content("GET /a", "GET /x", claimed=(10, 20))], 0.0)
    assert outcome(table, "GET /x") == ("b GET /x",)
    # An earlier moment that a sibling knew of arrives with another announcement of the same content.
    table = table.replace("a", [content("GET /a", "GET /x", claimed=(10, 12))], 0.0)
    assert outcome(table, "GET /x") == ("a GET /x",)


def test_of_two_revisions_the_earlier_claim_is_the_services() -> None:
    old, new = (
        content("GET /x/{old}", revision="1", claimed=(10,)),
        content("GET /x/{new}", revision="2", claimed=(30,)),
    )
    table = RouteTable().replace("a", [content("GET /x/{a}", claimed=(20,))], 0.0)
    assert outcome(table.replace("b", [new], 0.0), "GET /x/1") == ("a GET /x/{a}", "1")
    assert outcome(table.replace("b", [new, old], 0.0), "GET /x/1") == ("b GET /x/{new}", "1")


def test_a_claim_without_a_moment_comes_last() -> None:
    table = table_of({"b": ["GET /x"]}).replace("a", [content("GET /x", claimed=())], 0.0)
    assert outcome(table, "GET /x") == ("b GET /x",)


def test_an_owner_rejects_others_even_where_it_claims_nothing() -> None:
    table = table_of(
        {"a": ["GET /api/x", "GET /api/y/{z}", "GET /apix", "GET /{v}/x"], "zoe": ["GET /api/x", "GET /api/inner/q"],
         "ann": ["GET /api/inner/q"]},
        owners={"/api": "zoe", "/api/inner/": "ann"},
    )  # fmt: skip
    assert outcome(table, "GET /api/x") == ("zoe GET /api/x",)
    assert outcome(table, "GET /api/y/1") is None
    assert outcome(table, "GET /apix") == ("a GET /apix",)
    assert outcome(table, "GET /other/x") == ("a GET /{v}/x", "other")
    assert outcome(table, "GET /api/inner/q") == ("ann GET /api/inner/q",)
    assert table.conflicts == (
        RouteConflict("GET", "/api/inner/q", "ann", ("zoe",), "owner"),
        RouteConflict("GET", "/api/x", "zoe", ("a",), "owner"),
        RouteConflict("GET", "/api/y/{z}", "zoe", ("a",), "owner"),
    )
    # A rejected claim never served, so it is not remembered either.
    away = table.replace("a", [], 1.0).replace("zoe", [], 1.0)
    assert outcome(away, "GET /api/y/1") is None
    assert outcome(away, "GET /api/x") == ("gone zoe GET /api/x",)


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/{x}", "/api/{p:path}"])
def test_a_prefix_covers_itself_and_all_below(path: str) -> None:
    (conflict,) = table_of({"a": [f"GET {path}"]}, owners={"/api": "o"}).conflicts
    assert conflict == RouteConflict("GET", path, "o", ("a",), "owner")


def test_the_root_may_be_owned() -> None:
    table = table_of({"a": ["GET /x", "GET /{p:path}"], "o": []}, owners={"/": "o"})
    assert [conflict.why for conflict in table.conflicts] == ["owner", "owner"]


def test_the_gateways_own_paths_win() -> None:
    table = table_of(
        {"a": ["GET /health", "* /docs/x", "GET /docs", "GET /docs/{p:path}", "GET /healthy", "GET /{x}", "GET /",
               "GET /{p:path}"], "b": ["GET /health", "GET /docs/"]},
        reserved=("/health", "/docs/", "/"), owners={"/health": "b"},
    )  # fmt: skip
    assert [entry.template for entry in table.routes()] == ["/docs", "/healthy", "/{p:path}", "/{x}"]
    assert table.conflicts == (
        RouteConflict("GET", "/", "gateway", ("a",), "reserved"),
        RouteConflict("GET", "/docs/", "gateway", ("b",), "reserved"),
        RouteConflict("*", "/docs/x", "gateway", ("a",), "reserved"),
        RouteConflict("GET", "/docs/{p:path}", "gateway", ("a",), "reserved"),
        RouteConflict("GET", "/health", "gateway", ("a", "b"), "reserved"),
    )


def test_a_reserved_path_leaves_what_is_below_it() -> None:
    table = table_of({"a": ["GET /health/{p:path}", "GET /health/", "GET /health/x"]}, reserved=("/health",))
    assert (len(table), table.conflicts) == (3, ())


@pytest.mark.parametrize(
    ("owners", "reserved"),
    [({"api": "a"}, ()), ({"/{x}": "a"}, ()), ({"/a": "x", "/a/": "y"}, ()), ({}, ("health",)), ({}, ("/{x}",)),
     ({}, ("/{x:path}",)), ({}, ("/a//",))],
)  # fmt: skip
def test_wrong_rules_are_refused(owners: dict[str, str], reserved: tuple[str, ...]) -> None:
    with pytest.raises(BadTemplate):
        RouteTable(owners, reserved)


def test_what_is_no_route_is_left_out_and_listed() -> None:
    table = table_of({"s": ["GET /a", "GET /a/{x:int}", "POST nope", "GET /b/{x}", "GET /b/{y}", "GET /%zz"]})
    assert [entry.template for entry in table.routes()] == ["/a", "/b/{x}"]
    assert [(r.service, r.method, r.path) for r in table.rejected] == [
        ("s", "GET", "/%zz"),
        ("s", "GET", "/a/{x:int}"),
        ("s", "GET", "/b/{y}"),
        ("s", "POST", "nope"),
    ]
    assert "handler's annotations" in table.rejected[1].why
    assert "'/b/{x}'" in table.rejected[2].why
    assert table.replace("s", [], 1.0).rejected == ()


def test_replace_copies_only_what_changes() -> None:
    table = table_of({f"s{number}": [f"GET /s{number}/{{x}}"] for number in range(20)})
    changed = table.replace("s3", [content("GET /s3/{x}", "GET /s3/y")], 1.0)
    for number in range(20):
        mine, its = (t._root.literals[f"s{number}"] for t in (table, changed))
        assert (mine is its) == (number != 3)


def test_no_empty_nodes_stay_behind() -> None:
    table = table_of({"a": ["GET /a/b/{c}/d", "GET /a/{p:path}", "GET /x"]})
    table = table.replace("a", [content("GET /x")], 1.0)
    assert set(table._root.literals) == {"x"}
    assert table.replace("a", [content()], 1.0)._root.is_empty()
