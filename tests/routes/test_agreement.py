"""Any two tables that know the same say the same, and both say what a naive matcher says."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.messages import NEVER
from mesh.routes import RouteTable, parse_template
from tests.routes.build import Announced, content, dump, plain

OWNERS = {"/a": "s1", "/a/b": "s2"}
RESERVED = ("/b", "/c/")
PATHS = st.lists(st.sampled_from(["a", "b", "c", "{x}", "{y}"]), max_size=3, unique=True).flatmap(
    lambda parts: st.sampled_from(["", "/", "/{p:path}", "/a", "/{z}"]).map(
        lambda end: "".join(f"/{part}" for part in parts) + end or "/"
    )
)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "*"])
ROUTES = st.lists(st.builds("{} {}".format, METHODS, PATHS), max_size=6, unique=True)
MOMENTS = st.integers(0, 3)
CLAIMED = ROUTES.flatmap(
    lambda routes: st.tuples(
        st.just(routes),
        st.one_of(
            st.just(()),
            MOMENTS.map(lambda moment: (moment,)),
            st.tuples(*[MOMENTS] * len(routes)) if routes else st.just(()),
        ),
    )
)
CONTENTS = st.lists(CLAIMED, min_size=1, max_size=2).map(
    lambda lists: [
        content(*routes, revision=f"{index} {routes}", claimed=claimed) for index, (routes, claimed) in enumerate(lists)
    ]
)
SERVICES = st.dictionaries(st.sampled_from(["s0", "s1", "s2", "s3"]), CONTENTS, max_size=4)
SEGMENTS = st.lists(st.sampled_from(["a", "b", "c", "other", ""]), min_size=1, max_size=5).map(tuple)
REQUESTS = st.lists(st.tuples(st.sampled_from(["GET", "HEAD", "POST", "PUT"]), SEGMENTS), max_size=12)
RULES = st.sampled_from([({}, ()), (OWNERS, RESERVED)])


def empty(rules: tuple[dict[str, str], tuple[str, ...]]) -> RouteTable:
    return RouteTable(*rules)


@settings(deadline=None, max_examples=150)
@given(st.data(), SERVICES, REQUESTS, RULES)
def test_order_and_history_do_not_matter(
    data: st.DataObject,
    services: dict[str, list[Announced]],
    requests: list[tuple[str, tuple[str, ...]]],
    rules: tuple[dict[str, str], tuple[str, ...]],
) -> None:
    straight = empty(rules)
    for service, contents in services.items():
        straight = straight.replace(service, contents, 0.0)
    winding = empty(rules)
    for service, contents in data.draw(st.lists(st.tuples(st.sampled_from(["s0", "s1", "s2", "s3", "s4"]), CONTENTS))):
        winding = winding.replace(service, contents, 0.0)
        if data.draw(st.booleans()):
            winding = winding.replace(service, [], 0.0)
    for service in winding.services - services.keys():
        winding = winding.replace(service, [], 0.0)
    for service in data.draw(st.permutations(sorted(services))):
        winding = winding.replace(service, services[service][::-1], 0.0)
    # What only the winding history knew is remembered until it is due.
    winding = winding.expire(1e9)
    assert dump(winding) == dump(straight)
    for method, segments in requests:
        assert plain(winding.match(method, segments)) == plain(straight.match(method, segments))


@settings(deadline=None, max_examples=150)
@given(SERVICES, st.sets(st.sampled_from(["s0", "s1", "s2", "s3"])), REQUESTS)
def test_replace_leaves_the_old_table_alone(
    services: dict[str, list[Announced]], left: set[str], requests: list[tuple[str, tuple[str, ...]]]
) -> None:
    tables = [RouteTable(OWNERS, RESERVED)]
    for service, contents in services.items():
        tables.append(tables[-1].replace(service, contents, 0.0))
    seen = [(dump(table), [plain(table.match(*request)) for request in requests]) for table in tables]
    table = tables[-1]
    for service in sorted(left):
        table = table.replace(service, [], 0.0)
    table = table.expire(1e9).replace("s0", [content("GET /a/{x}", "POST /{p:path}")], 0.0)
    assert [(dump(table), [plain(table.match(*request)) for request in requests]) for table in tables] == seen


def naive(services: dict[str, list[Announced]], gone: set[str], method: str, segments: tuple[str, ...]) -> object:
    """The rules in their plainest form: every route that matches, the best first. Without owners or reserved paths."""
    found = []
    known: set[str] = set()
    since: dict[object, int] = {}
    for service, contents in services.items():
        for announced in contents:
            taken: set[object] = set()
            for place, route in enumerate(announced.routes):
                key = (service, parse_template(route.path).shape, route.method)
                if key not in taken:  # what comes twice is rejected
                    taken.add(key)
                    moments = announced.claimed or (NEVER,)
                    moment = moments[place if len(moments) > 1 else 0]
                    since[key] = min(moment, since.get(key, NEVER))
    for service, contents in services.items():
        for route in (route for announced in contents for route in announced.routes):
            template = parse_template(route.path)
            size = len(template.segments)
            if len(segments) <= size if template.tail else len(segments) != size:
                continue
            pairs = list(zip(template.segments, segments, strict=False))
            if not all(value if segment is None else segment == value for segment, value in pairs):
                continue
            known.add(route.method)
            accepted = [method, "GET", "*"] if method == "HEAD" else [method, "*"]
            if route.method in accepted:
                rank = [0 if segment is not None else 1 for segment in template.segments] + [2] * template.tail
                values = [value for segment, value in pairs if segment is None]
                values += ["/".join(segments[size:])] * template.tail
                moment = since[service, template.shape, route.method]
                found.append((service in gone, rank, accepted.index(route.method), moment, service, values))
    if found:
        away, _, accepted_as, _, service, values = min(found)
        served = ([method, "GET", "*"] if method == "HEAD" else [method, "*"])[accepted_as]
        return f"gone {service}" if away else service, served, *values
    if known:
        return known | {"OPTIONS"} | ({"HEAD"} if "GET" in known else set())
    return None


@settings(deadline=None, max_examples=300)
@given(SERVICES, st.sets(st.sampled_from(["s0", "s1", "s2", "s3"])), REQUESTS)
def test_the_trie_agrees_with_a_naive_matcher(
    services: dict[str, list[Announced]], gone: set[str], requests: list[tuple[str, tuple[str, ...]]]
) -> None:
    table = RouteTable()
    for service, contents in services.items():
        table = table.replace(service, contents, 0.0)
    for service in gone:
        table = table.replace(service, [], 0.0)
    for method, segments in requests:
        said = plain(table.match(method, segments))
        if isinstance(said, tuple):
            name, template = said[0].rsplit(" ", 1)
            assert parse_template(template)
            said = (*name.rsplit(" ", 1), *said[1:])
        assert said == naive(services, gone, method, segments)
