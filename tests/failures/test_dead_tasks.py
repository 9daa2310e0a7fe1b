"""Every long-lived task of a gateway and an instance, made to fail once: it is told, and everything works again."""

import asyncio
import contextlib
import logging

import pytest

from gateway.server import Gateway
from mesh import Service, tasks
from mesh.announcer import Announcer
from mesh.bus import plain_client
from mesh.bus.jetstream import DurableEvents
from mesh.bus.supervised_connection import SupervisedConnection
from mesh.foreign import ForeignWatch
from mesh.live_routes import LiveRoutes
from mesh.service.readiness import Readiness
from mesh.streams import Streams
from mesh.testing import Mesh
from mesh.watcher import Watcher
from tests.conditions import eventually

TASKS = [
    (Watcher, "_tick"),
    (Announcer, "_send_heartbeats"),
    (ForeignWatch, "_run"),
    (SupervisedConnection, "_supervise"),
    (SupervisedConnection, "_watch_silence"),
    (Gateway, "_become_ready"),
    (Gateway, "_expire"),
    (Readiness, "_repeat"),
    (Streams, "_watch"),
    (DurableEvents, "_keep"),
    (plain_client, "ping_self"),
]


def service():
    made = Service("made")

    @made.get("/made")
    async def get() -> str:
        return "yes"

    @made.get("/ticks")
    async def ticks():
        yield b"tick"

    @made.on("heard", durable=True)
    async def heard(data: int) -> None:
        pass

    @made.readiness("check", every=0.05)
    async def check() -> bool:
        return True

    return made


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.01)


@pytest.mark.parametrize(("owner", "name"), TASKS, ids=lambda value: getattr(value, "__name__", value))
async def test_each_of_them_starts_again(quick, monkeypatch, caplog, nats_url, prefix, owner, name):
    real, failed = getattr(owner, name), []

    def failing(*arguments):
        key = id(arguments[0])
        if key not in failed:
            failed.append(key)

            async def fail():
                raise RuntimeError("on purpose")

            return fail()
        return real(*arguments)

    monkeypatch.setattr(owner, name, failing)
    options = {"bus": {"lane": "plain"}} if owner is plain_client else {}
    async with Mesh(service(), nats_url=nats_url, prefix=prefix, gateway={"foreign_s": 0.3}, **options) as mesh:
        assert (await mesh.http.get("/made")).json() == "yes"
        assert (await mesh.http.get("/ticks")).content == b"tick"
        await eventually(lambda: failed and "on purpose" in caplog.text)
        await eventually(lambda: mesh.gateway.health.status() == "ok")
        # Heartbeats go on, and what has died is noticed.
        instance = mesh.gateway.watcher.registry.instances("made")[0]
        seq = instance.seq
        await eventually(lambda: instance.seq > seq + 1)
    said = [record for record in caplog.records if record.name == "mesh.tasks"]
    assert len(said) == len(failed)
    assert {record.levelno for record in said} == {logging.ERROR}


async def test_a_gateway_whose_listener_fails_ends_with_a_code(nats_url, prefix, monkeypatch, caplog):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        listener = mesh.gateway._listeners[0]

        async def broken(number):
            raise RuntimeError("on purpose")

        monkeypatch.setattr(listener, "on_tick", broken)
        await asyncio.wait_for(mesh.gateway.stop_requested.wait(), 10)
        assert mesh.gateway.failed
    assert "cannot go on without it" in caplog.text


async def test_a_service_whose_routes_cannot_be_taken_in_holds_up_no_other(nats_url, prefix, monkeypatch, caplog):
    real = LiveRoutes._build_table

    def build(self):
        steps = real(self)
        while True:
            try:
                next(steps)
            except StopIteration:
                return
            if self._service == "poison":
                raise RuntimeError("on purpose")
            yield

    monkeypatch.setattr(LiveRoutes, "_build_table", build)
    poison = Service("poison")

    @poison.get("/poison")
    async def get() -> str:
        return "no"

    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        await mesh.start(poison)
        await mesh.start(service())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(mesh.gateway.live_routes.caught_up(), 5)
        assert not mesh.gateway.live_routes.behind
        assert (await mesh.http.get("/made")).json() == "yes"
        assert (await mesh.http.get("/poison")).status_code == 404
    assert "the routes of 'poison' could not be taken in" in caplog.text
