"""What the micro protocol (NATS ADR-32) asks of a service, read by a client that knows nothing of the mesh."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from mesh import Context, NotFound, Overloaded, Response, Service
from tests.micro.shapes import COUNT, ENDPOINT, RFC3339_UTC, SHAPES, VERBS, asked, figures, misfits, refuses


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
