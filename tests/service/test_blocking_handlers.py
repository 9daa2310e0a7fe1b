"""Who holds up the event loop is named: the handler, and the line that runs."""

import asyncio
import logging
import re
import time

import pytest

from mesh import Service
from mesh.bus.connection_errors import failure_of
from mesh.service import ServiceInstance
from mesh.service.blocking_handlers import BlockingWatch
from mesh.service.run import watch_blocking
from mesh.settings import ServiceSettings
from tests.conditions import eventually

LINE = r"at (tests/service/)?test_blocking_handlers\.py:\d+"


def wait(seconds):
    time.sleep(seconds)


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(100))


def sleepy():
    service = Service("sleepy")

    @service.get("/block")
    async def block(seconds: float) -> None:
        wait(seconds)

    @service.get("/compute")
    async def compute(seconds: float) -> None:
        busy(seconds)

    @service.get("/patient")
    async def patient(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @service.get("/thread")
    def thread(seconds: float) -> None:
        time.sleep(seconds)

    @service.on("block.please")
    async def blocks(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251

    return service


@pytest.fixture
async def watched(mesh):
    instance = await mesh.start(sleepy())
    watch = watch_blocking(instance, 0.1)
    yield instance, watch
    watch.aclose()


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "mesh.service" and r.levelno == logging.WARNING]


@pytest.mark.parametrize(("path", "what"), [("block", r"time\.sleep\(seconds\).*"), ("compute", "")])
async def test_a_handler_that_blocks_is_named(mesh, watched, caplog, path, what):
    await mesh.http.get(f"/{path}?seconds=0.5")
    await eventually(lambda: warnings(caplog))
    found = re.match(rf"handler {path} {LINE} \({what}.*\) held up the event loop for (\d\.\d+) s", warnings(caplog)[0])
    assert found, warnings(caplog)
    assert 0.3 < float(found[2]) < 5


async def test_an_event_handler_too(mesh, client, watched, caplog):
    await client.emit("block.please", 0.5)
    await eventually(lambda: warnings(caplog))
    assert re.match(rf"event handler blocks {LINE} \(time\.sleep", warnings(caplog)[0])


async def test_one_place_is_reported_once_in_a_while(mesh, watched, caplog):
    for _ in range(3):
        await mesh.http.get("/block?seconds=0.3")
    await eventually(lambda: warnings(caplog))
    assert len(warnings(caplog)) == 1


async def test_what_waits_or_has_a_thread_is_not(mesh, watched, caplog):
    await asyncio.gather(*(mesh.http.get(f"/{path}?seconds=0.5") for path in ("patient", "thread")))
    assert not [text for text in warnings(caplog) if "patient" in text or "handler thread" in text]


async def test_many_quick_ones_are_not_taken_for_one_that_blocks(caplog):
    ended = 0
    watch = BlockingWatch(0.1, {}, lambda: ended)
    watch.start()

    async def quick():
        nonlocal ended
        busy(0.005)
        ended += 1

    await asyncio.gather(*(quick() for _ in range(100)))  # one turn of the loop
    await asyncio.sleep(0.2)
    watch.aclose()
    assert (ended, warnings(caplog)) == (100, [])


async def test_one_that_goes_on_is_said_at_once(caplog):
    watch = BlockingWatch(0.1, {}, lambda: 0)
    watch.start()
    said = []
    end = time.perf_counter() + 20
    while not said and time.perf_counter() < end:
        time.sleep(0.01)  # noqa: ASYNC251 - that is the point
        said = warnings(caplog)
    assert re.search(rf"{LINE} .* has held up the event loop for 1\.\d s and still does", said[0])
    assert "held up the event loop for" in watch.recent()
    watch.aclose()


async def test_nobody_is_named_where_no_code_of_the_users_runs(mesh, watched, caplog):
    asyncio.get_running_loop().call_soon(time.sleep, 0.4)
    await asyncio.sleep(0.6)
    assert not [text for text in warnings(caplog) if "handler" in text]


async def test_the_connections_end_names_the_handler(mesh, watched, caplog):
    instance, _ = watched
    assert instance.bus.loop_blocked_by() == ""
    await mesh.http.get("/block?seconds=0.5")
    await eventually(instance.bus.loop_blocked_by)
    instance.bus._connection._note(Exception("nats: 'Stale Connection'"), None)
    (said,) = [record.getMessage() for record in caplog.records if "heard nothing" in record.getMessage()]
    assert re.search(rf"from this process for too long; trying again \(handler block {LINE} .* for \d\.\d s\)", said)
    assert "was it stopped" in failure_of(Exception("nats: 'Stale Connection'")).todo


async def test_none_is_wanted(mesh):
    instance = ServiceInstance(sleepy(), mesh.bus_settings, ServiceSettings())
    assert watch_blocking(instance, 0) is None
