"""What the micro protocol (ADR-32) asks of a service, read by a client that knows nothing of the mesh."""

import asyncio
import json
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from nats.errors import NoRespondersError

from mesh import Context, DeclarationError, NotFound, Overloaded, Response, Service
from mesh.config import BusSettings, ServiceSettings
from mesh.service import ServiceInstance
from mesh.subjects import Subjects
from mesh.testing import Mesh

VERBS = ("PING", "INFO", "STATS")
NAME = r"[A-Za-z0-9_-]+"
SEMVER = r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?"
RFC3339_UTC = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"
COUNT = range(2**63)
TEXT = r"[^\0]*"
STRINGS = {TEXT: TEXT}

IDENTITY = {"name": NAME, "id": NAME, "version": SEMVER, "metadata": STRINGS}
ENDPOINT = {"name": NAME, "subject": r"[!-~]+", "queue_group": r"[!-~]*"}
FIGURES = {
    "num_requests": COUNT,
    "num_errors": COUNT,
    "last_error": r"|\d+:.+",
    "processing_time": COUNT,
    "average_processing_time": COUNT,
}
SHAPES = {
    "PING": {"type": r"io\.nats\.micro\.v1\.ping_response", **IDENTITY},
    "INFO": {
        "type": r"io\.nats\.micro\.v1\.info_response",
        **IDENTITY,
        "description": TEXT,
        "endpoints": [{**ENDPOINT, "metadata": STRINGS}],
    },
    "STATS": {
        "type": r"io\.nats\.micro\.v1\.stats_response",
        **IDENTITY,
        "started": RFC3339_UTC,
        "endpoints": [{**ENDPOINT, **FIGURES}],
    },
}
OPTIONAL = {"data"}  # what a statistics handler gives; any JSON


def misfits(value, shape, where="response"):
    """Every way in which a decoded JSON value is not of a shape; lists hold values of one shape."""
    if isinstance(shape, str):
        if not isinstance(value, str):
            return [f"{where} is {value!r}, no string"]
        return [] if re.fullmatch(shape, value) else [f"{where} is {value!r}, not {shape}"]
    if isinstance(shape, range):
        return [] if type(value) is int and value in shape else [f"{where} is {value!r}, no integer of {shape}"]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where} is {value!r}, no array"]
        return [m for i, item in enumerate(value) for m in misfits(item, shape[0], f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{where} is {value!r}, no object"]
    if shape is STRINGS:
        return [m for key in value for m in misfits(value[key], TEXT, f"{where}.{key}")]
    differing = (set(value) ^ set(shape)) - OPTIONAL
    found = [f"{where} {'has' if key in value else 'lacks'} {key!r}" for key in sorted(differing)]
    return found + [m for key in shape if key in value for m in misfits(value[key], shape[key], f"{where}.{key}")]


def failing() -> Service:
    """Endpoints that succeed and fail in every way."""
    service = Service("calc", version="1.2.3-rc.1+build.5", description="adds", metadata={"team": "sums"})

    @service.endpoint(metadata={"unit": "apples"})
    async def add(a: int, b: int = 1) -> int:
        return a + b

    @service.endpoint()
    async def fail(how: str, ctx: Context) -> Response:
        if how == "response":
            return Response({"why": "own"}, status=409)
        if how == "odd":
            return Response(status=599)
        raise {
            "missing": NotFound("no such sum"),
            "wide": NotFound("\u4e0d\u660e"),
            "lines": NotFound("one\r\nNats-Service-Error-Code: 1"),
            "busy": Overloaded("later", retry_after=2),
            "crash": ZeroDivisionError("a secret"),
        }[how]

    return service


async def asked(outsider, verb, instance):
    reply = await outsider.call(f"$SRV.{verb}.{instance.service.name}.{instance.id}", b"")
    return json.loads(reply.data)


async def figures(outsider, instance, endpoint):
    stats = await asked(outsider, "STATS", instance)
    return next(e for e in stats["endpoints"] if e["name"] == endpoint)


async def refuses(outsider, subject):
    """Whether nobody at all listens there."""
    try:
        await outsider.call(subject)
    except NoRespondersError:
        return True
    return False


# -- responses


@pytest.mark.parametrize("verb", VERBS)
async def test_every_field_has_its_type_and_pattern(start, outsider, verb):
    bare = await start(Service("bare"))
    full = await start(failing())
    await outsider.call(full.announced[0].subject, b'{"a": 1}')
    await outsider.call(full.announced[1].subject, b'{"how": "missing"}')
    for instance in (bare, full):
        assert misfits(await asked(outsider, verb, instance), SHAPES[verb]) == []


def test_the_shapes_tell_right_from_wrong():
    good = {"type": "io.nats.micro.v1.ping_response", "name": "a", "id": "b", "version": "1.0.0", "metadata": {}}
    assert misfits(good, SHAPES["PING"]) == []
    for wrong in (
        {"metadata": None},
        {"metadata": {"a": 1}},
        {"version": "1.0"},
        {"id": "a.b"},
        {"type": "x"},
        {"x": 1},
    ):
        assert len(misfits({**good, **wrong}, SHAPES["PING"])) == 1
    assert misfits(1.0, COUNT)
    assert misfits(True, COUNT)
    assert misfits("2024-01-01T00:00:00+01:00", RFC3339_UTC)


async def test_what_the_fields_say(start, outsider, prefix):
    before = datetime.now(UTC) - timedelta(milliseconds=1)  # `started` has milliseconds
    instance = await start(failing())
    ping, info, stats = [await asked(outsider, verb, instance) for verb in VERBS]
    identity = {
        "name": "calc",
        "id": instance.id,
        "version": "1.2.3-rc.1+build.5",
        "metadata": {"team": "sums", "mesh.prefix": prefix},
    }
    for response in (ping, info, stats):
        assert {key: response[key] for key in identity} == identity
    assert info["description"] == "adds"
    assert info["endpoints"] == [
        {"name": "add", "subject": f"{prefix}.req.calc.add", "queue_group": "q", "metadata": {"unit": "apples"}},
        {"name": "fail", "subject": f"{prefix}.req.calc.fail", "queue_group": "q", "metadata": {}},
    ]
    for told, counted in zip(info["endpoints"], stats["endpoints"], strict=True):
        assert {key: counted[key] for key in ENDPOINT} == {key: told[key] for key in ENDPOINT}
    assert before <= datetime.fromisoformat(stats["started"]) <= datetime.now(UTC)


async def test_declared_metadata_does_not_change_afterwards(start, outsider):
    given = {"team": "sums"}
    service = Service("frozen", metadata=given)
    instance = await start(service)
    given["team"] = service.metadata["team"] = "others"
    assert (await asked(outsider, "INFO", instance))["metadata"]["team"] == "sums"


# -- control subjects


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("address", ["", ".calc", ".calc.{id}"])
async def test_control_subjects_reach_every_instance_that_they_name(start, outsider, verb, address):
    instances = [await start(failing()) for _ in range(3)]
    other = await start(Service("other"))
    named = instances[:1] if "{id}" in address else instances
    subject = f"$SRV.{verb}{address}".replace("{id}", instances[0].id)
    replies = await outsider.gather(subject, [*instances, other])
    found = [json.loads(reply.data)["id"] for reply in replies]
    expected = {i.id for i in named} | (set() if address else {other.id})
    assert expected <= set(found)
    assert len(found) == len(set(found))
    if address:
        assert set(found) == expected


@pytest.mark.parametrize(
    "subject", ["$SRV.ping", "$SRV.Info.calc", "$srv.PING", "$SRV.PING.CALC", "$SRV.STATS.calc.nobody"]
)
async def test_nobody_answers_other_spellings(start, outsider, subject):
    await start(failing())
    assert await refuses(outsider, subject)


async def test_control_requests_are_answered_while_every_handler_is_busy(start, outsider):
    service = Service("busy")
    running, release = asyncio.Event(), asyncio.Event()

    @service.endpoint()
    async def hold() -> str:
        running.set()
        await release.wait()
        return "done"

    instance = await start(service, concurrency=1, queue=1)
    held = [asyncio.ensure_future(outsider.call(instance.announced[0].subject)) for _ in range(2)]
    await running.wait()
    refused = await outsider.call(instance.announced[0].subject)
    assert refused.headers["Nats-Service-Error-Code"] == "503"
    for verb in VERBS:
        assert misfits(await asked(outsider, verb, instance), SHAPES[verb]) == []
    counted = await figures(outsider, instance, "hold")
    assert (counted["num_requests"], counted["num_errors"]) == (1, 1)  # those that run or wait are not over yet
    assert not any(call.done() for call in held)
    release.set()
    assert [reply.data for reply in await asyncio.gather(*held)] == [b'"done"'] * 2
    assert (await figures(outsider, instance, "hold"))["num_requests"] == 3


async def test_a_control_request_for_a_forged_subject_is_not_answered(start, outsider, prefix):
    instance = await start(failing())
    forged = f"{prefix}.announce.calc.{instance.id}"
    heard = []

    async def hear(message):
        heard.append(json.loads(message.data)["type"])

    await outsider.client.subscribe(forged, cb=hear)
    await outsider.client.publish("$SRV.INFO", b"", reply=forged)
    await outsider.gather("$SRV.PING", [instance])
    assert set(heard) <= {"mesh.v1.announcement"}


# -- errors


@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ("missing", "404", "no such sum"),
        ("wide", "404", "Not Found"),
        ("lines", "404", "one  Nats-Service-Error-Code: 1"),
        ("busy", "503", "later"),
        ("crash", "500", "the service failed; the request id leads to its log"),
        ("response", "409", "Conflict"),
        ("odd", "599", "status 599"),
    ],
)
async def test_error_replies_have_both_headers_and_are_counted(start, outsider, how, code, text):
    instance = await start(failing())
    reply = await outsider.call(instance.announced[1].subject, json.dumps({"how": how}).encode())
    assert reply.headers["Nats-Service-Error-Code"] == code
    assert reply.headers["Nats-Service-Error"] == text
    assert b"secret" not in reply.data
    counted = await figures(outsider, instance, "fail")
    assert (counted["num_requests"], counted["num_errors"]) == (1, 1)
    assert counted["last_error"].startswith(f"{code}:")


@pytest.mark.parametrize(("payload", "code"), [(b"{", "400"), (b'{"a": "x"}', "422"), (b"{}", "422")])
async def test_unusable_requests_are_errors(start, outsider, payload, code):
    instance = await start(failing())
    reply = await outsider.call(instance.announced[0].subject, payload)
    assert reply.headers["Nats-Service-Error-Code"] == code
    assert (await figures(outsider, instance, "add"))["last_error"].startswith(f"{code}:")


async def test_a_good_reply_has_no_error_headers(start, outsider):
    instance = await start(failing())
    reply = await outsider.call(instance.announced[0].subject, b'{"a": 1}')
    assert reply.data == b"2"
    assert not [name for name in reply.headers if name.lower().startswith("nats-service-error")]


# -- statistics


async def test_statistics_after_known_calls_and_after_a_reset(start, outsider):
    service = Service("counted")

    @service.endpoint()
    async def work(ms: int) -> int:
        if ms < 0:
            raise NotFound(f"no time {ms}")
        await asyncio.sleep(ms / 1000)  # what is measured
        return ms

    @service.endpoint()
    async def idle() -> None: ...

    instance = await start(service)
    began = time.perf_counter_ns()
    for ms in (20, -1, 0, -2, 10):
        await outsider.call(instance.announced[0].subject, json.dumps({"ms": ms}).encode())
    elapsed = time.perf_counter_ns() - began
    counted = await figures(outsider, instance, "work")
    assert (counted["num_requests"], counted["num_errors"], counted["last_error"]) == (5, 2, "404:no time -2")
    assert 29_000_000 <= counted["processing_time"] <= elapsed
    assert counted["average_processing_time"] == counted["processing_time"] // 5
    zero = {"num_requests": 0, "num_errors": 0, "last_error": "", "processing_time": 0, "average_processing_time": 0}
    untouched = await figures(outsider, instance, "idle")
    assert {key: untouched[key] for key in zero} == zero

    started = (await asked(outsider, "STATS", instance))["started"]
    instance.reset_statistics()
    cleared = await figures(outsider, instance, "work")
    assert {key: cleared[key] for key in zero} == zero
    await outsider.call(instance.announced[0].subject, b'{"ms": 0}')
    assert (await figures(outsider, instance, "work"))["num_requests"] == 1
    assert (await asked(outsider, "STATS", instance))["started"] == started


# -- subjects and groups


def grouped() -> Service:
    service = Service("house", queue_group="all")
    sensors = service.group("sensors", queue_group="readers")
    cellar = sensors.group("cellar")

    async def where(ctx: Context) -> str:
        return ctx.subject.decode()

    service.endpoint("plain")(where)
    service.endpoint("named", subject="house.door")(where)
    service.endpoint("alone", subject="house.bell", queue_group=None)(where)
    sensors.endpoint("read")(where)
    sensors.endpoint("write", subject="set.value", queue_group="writers")(where)
    sensors.group("attic", queue_group=None).endpoint("loud")(where)
    cellar.endpoint("damp")(where)
    cellar.group("", queue_group="unnamed").endpoint("dark")(where)
    service.group("").endpoint("ungrouped")(where)
    service.group("any").endpoint("any", subject="*.level")(where)
    service.group("rest").endpoint("rest", subject=">")(where)
    return service


@pytest.mark.parametrize(
    ("endpoint", "subject", "queue_group", "example"),
    [
        ("plain", "{prefix}.req.house.plain", "all", ""),
        ("named", "house.door", "all", ""),
        ("alone", "house.bell", "", ""),
        ("read", "sensors.read", "readers", ""),
        ("write", "sensors.set.value", "writers", ""),
        ("loud", "sensors.attic.loud", "", ""),
        ("damp", "sensors.cellar.damp", "readers", ""),
        ("dark", "sensors.cellar.dark", "unnamed", ""),
        ("ungrouped", "{prefix}.req.house.ungrouped", "all", ""),
        ("any", "any.*.level", "all", "any.7.level"),
        ("rest", "rest.>", "all", "rest.a.b.c"),
    ],
)
async def test_subjects_and_queue_groups(start, outsider, prefix, endpoint, subject, queue_group, example):
    instance = await start(grouped())
    subject = subject.replace("{prefix}", prefix)
    told = next(e for e in (await asked(outsider, "INFO", instance))["endpoints"] if e["name"] == endpoint)
    assert (told["subject"], told["queue_group"]) == (subject, queue_group)
    subjects = Subjects(prefix)
    addresses = [example or subject, subjects.request("house", endpoint), subjects.to("house", instance.id, endpoint)]
    for address in addresses:
        replies = await outsider.gather(address, [instance], b"{}")
        assert [json.loads(reply.data) for reply in replies] == [address]
    counted = await figures(outsider, instance, endpoint)
    assert (counted["subject"], counted["num_requests"]) == (subject, 3)


def shared(queue_group) -> Service:
    service = Service("shared", queue_group=queue_group)

    @service.endpoint(subject="shared.work")
    async def work() -> str:
        return "done"

    @service.get("/work")
    async def by_http() -> str:
        return "done"

    return service


async def test_instances_of_one_queue_group_share_the_work(start, outsider):
    instances = [await start(shared("workers")) for _ in range(2)]
    for _ in range(40):
        assert len(await outsider.gather("shared.work", instances, b"{}")) == 1
    counts = [(await figures(outsider, instance, "work"))["num_requests"] for instance in instances]
    assert sum(counts) == 40
    assert all(counts)


async def test_instances_of_one_service_object_are_counted_apart(start, outsider):
    service = shared("workers")
    instances = [await start(service) for _ in range(2)]
    for _ in range(20):
        await outsider.call("shared.work")
    counts = [(await figures(outsider, instance, "work"))["num_requests"] for instance in instances]
    assert sum(counts) == 20


async def test_instances_of_different_queue_groups_each_get_every_request(start, outsider):
    instances = [await start(shared(name)) for name in ("one", "two", "two")]
    for _ in range(10):
        assert len(await outsider.gather("shared.work", instances, b"{}")) == 2


async def test_without_a_queue_group_every_instance_gets_every_request(start, outsider):
    instances = [await start(shared(None)) for _ in range(2)]
    for _ in range(5):
        assert len(await outsider.gather("shared.work", instances, b"{}")) == 2
    for instance in instances:
        assert (await figures(outsider, instance, "work"))["num_requests"] == 5


async def test_without_a_queue_group_calls_inside_the_mesh_still_run_once(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        instances = [await mesh.start(shared(None)) for _ in range(2)]
        for _ in range(10):
            assert (await mesh.http.get("/work")).json() == "done"
        async with mesh.client() as bus:
            address = bus.address(bus.subjects.request("shared", "work"))
            for _ in range(10):
                assert (await bus.request(address, b"{}", timeout=5)).payload == b'"done"'
        for endpoint in ("work", "by_http"):
            assert sum(instance.endpoints[endpoint].statistics.num_requests for instance in instances) == 10


# -- stopping


async def test_a_stop_drains_and_leaves_nothing_behind(start, outsider, prefix):
    service = grouped()
    running, release = asyncio.Event(), asyncio.Event()

    @service.endpoint("slow", subject="house.slow", queue_group=None)
    async def slow() -> str:
        running.set()
        await release.wait()
        return "done"

    instance = await start(service)
    calls = [asyncio.ensure_future(outsider.call("house.slow")) for _ in range(30)]
    await running.wait()
    stopping = asyncio.ensure_future(instance.drain())
    async with asyncio.timeout(5):
        while not await refuses(outsider, "house.door"):
            pass
    assert misfits(await asked(outsider, "STATS", instance), SHAPES["STATS"]) == []  # as long as handlers run
    assert not stopping.done()
    release.set()
    assert [reply.data for reply in await asyncio.gather(*calls)] == [b'"done"'] * 30
    await stopping
    subjects = [e.subject.replace("*", "x").replace(">", "x") for e in instance.announced]
    subjects += [f"{prefix}.req.house.{e.name}" for e in instance.announced]
    subjects += [f"{prefix}.to.house.{instance.id}.slow"]
    subjects += [f"$SRV.{verb}.house{rest}" for verb in VERBS for rest in ("", f".{instance.id}")]
    for subject in subjects:
        assert await refuses(outsider, subject), subject


# -- declarations


async def handler() -> None: ...


@pytest.mark.parametrize(
    ("declare", "why"),
    [
        (lambda s: s.endpoint(subject="$SRV.PING"), r"'\$SRV.PING' lies under '\$SRV', which belongs to NATS"),
        (lambda s: s.endpoint(subject="_INBOX.x"), "belongs to NATS"),
        (lambda s: s.group("$JS"), "group '\\$JS': subject '\\$JS' lies under"),
        (lambda s: s.endpoint(subject=">"), "begins with a wildcard"),
        (lambda s: s.endpoint(subject="*.x"), "begins with a wildcard"),
        (lambda s: s.group("*"), "begins with a wildcard"),
        (lambda s: s.endpoint(subject="a.>.b"), "'>' before its end"),
        (lambda s: s.group("a.>"), "group 'a.>' ends in '>'"),
        (lambda s: s.endpoint(subject="a.b*"), r"'b\*' is no wildcard"),
        (lambda s: s.endpoint(subject="a..b"), "empty token"),
        (lambda s: s.endpoint(subject="a b"), "blank"),
        (lambda s: s.endpoint(subject="a\x0bb"), "control"),
        (lambda s: s.endpoint(subject="a" * 2000), "2000 characters"),
        (lambda s: s.group("a.", queue_group="q"), "empty token"),
        (lambda s: s.endpoint(queue_group=""), "queue group '' is not"),
        (lambda s: s.endpoint(queue_group="a b"), "queue group 'a b' is not"),
        (lambda s: s.group("a", queue_group="*"), r"queue group '\*' is not"),
        (lambda s: s.endpoint("a.b"), "cannot be an endpoint's name"),
        (lambda s: s.endpoint(metadata={"a": 1}), "metadata 'a'=1"),
        (lambda s: s.endpoint(metadata={"mesh.x": "1"}), "reserved"),
        (lambda s: s.endpoint("other", subject="taken"), "'there' and 'other' both listen on 'taken'"),
        (lambda s: s.group("g").endpoint("there"), "two endpoints named 'there'"),
    ],
)
def test_wrong_declarations(declare, why):
    service = Service("wrong")
    service.endpoint("there", subject="taken")(handler)
    with pytest.raises(DeclarationError, match=why):
        declare(service)(handler)


def test_a_service_with_a_wrong_queue_group():
    with pytest.raises(DeclarationError, match="service 'wrong': queue group 'a b' is not"):
        Service("wrong", queue_group="a b")


async def test_a_subject_under_the_mesh_itself_is_refused_at_the_start(prefix):
    service = Service("wrong")
    service.endpoint("steal", subject=f"{prefix}.announce.a.b")(handler)
    service.endpoint("free", subject="announce.a.b")(handler)
    with pytest.raises(DeclarationError, match=f"'steal': .* lies under '{prefix}', the mesh's own"):
        ServiceInstance(service, BusSettings(servers=("",), prefix=prefix), ServiceSettings())
