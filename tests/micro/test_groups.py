"""Groups and queue groups of NATS micro, and the declarations that they need."""

import asyncio
import json

import pytest

from mesh import Context, DeclarationError, Service
from mesh.service import ServiceInstance
from mesh.settings import BusSettings, ServiceSettings
from mesh.subjects import Subjects
from mesh.testing import Mesh
from tests.micro.shapes import SHAPES, VERBS, asked, figures, misfits, refuses

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
