"""What a request costs, counted and not timed: calls, tasks and garbage do not depend on the machine.

What happens less often than every second request is left out: the more of it the slower the machine.

The bounds are a little above what is true now. Whoever makes a request dearer finds out here, and either makes it
cheaper again or says why it is worth it.
"""

import asyncio
import gc
import sys
from collections import Counter
from pathlib import Path

import pytest

import gateway
import mesh as library
from mesh import Service
from mesh.service.run import settle
from mesh.testing import Mesh
from tests.conditions import eventually
from tests.gateway.memory import Client
from tests.gateway.test_framing import get

ROOTS = tuple(str(Path(package.__file__).parent) + "/" for package in (gateway, library))
REQUESTS = 200
HEADERS = ["accept: application/json", "accept-language: en", "user-agent: x", "cookie: a=b", "x-client: web"]


def items():
    service = Service("items")

    @service.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, int]:
        return {"id": item_id}

    return service


class Counted:
    """Calls of our own functions while it lasts, by function, and the tasks that were made."""

    def __init__(self):
        self.calls = Counter()
        self.tasks = 0

    def __enter__(self):
        loop = asyncio.get_running_loop()

        def factory(loop, coroutine, **options):
            self.tasks += 1
            return asyncio.Task(coroutine, loop=loop, **options)

        def profile(frame, event, argument):
            if event == "call" and frame.f_code.co_filename.startswith(ROOTS):
                self.calls[f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"] += 1

        loop.set_task_factory(factory)
        gc.collect()
        gc.disable()
        sys.setprofile(profile)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        gc.enable()
        asyncio.get_running_loop().set_task_factory(None)


@pytest.fixture
def young_heap():
    """Nothing but what comes from now on is looked through by the collector: a short pause."""
    settle()


@pytest.fixture
async def mesh(young_heap, nats_url, prefix, request):
    settings = {"http_lane": request.param, "foreign_s": 0, "access_log": True}
    async with Mesh(items(), nats_url=nats_url, prefix=prefix, gateway=settings) as mesh:
        yield mesh


async def exchange(mesh, number, at_once):
    """So many requests on connections in memory, ``at_once`` of them at a time."""
    raw, clients = get("/items/42", *HEADERS), [Client(mesh) for _ in range(at_once)]
    connections, wires = [client.connection for client in clients], [client.wire for client in clients]
    for count in range(1, number // at_once + 1):
        for connection in connections:
            connection.data_received(raw)
        await eventually(lambda count=count: all(wire.sent.count(b"HTTP/1.1 200 OK") == count for wire in wires))
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("mesh", "at_once", "calls", "tasks"),
    [("direct", 1, 114, 1), ("direct", 20, 100, 1), ("asgi", 1, 139, 2)],
    indirect=["mesh"],
    ids=["direct", "direct, many at once", "asgi"],
)
async def test_calls_tasks_and_garbage_of_a_request(mesh, at_once, calls, tasks, figures):
    await exchange(mesh, 20, at_once)  # what is remembered from then on
    with Counted() as counted:
        await exchange(mesh, REQUESTS, at_once)
    unreachable = gc.collect()
    made = sum(round(count / REQUESTS) for count in counted.calls.values())
    figures("a request's calls, tasks and garbage", calls=made, tasks=round(counted.tasks / REQUESTS, 2))
    often = [f"{name} {count / REQUESTS:.1f}" for name, count in counted.calls.most_common(12)]
    assert made <= calls, often
    assert counted.tasks / REQUESTS <= tasks + 0.1
    assert unreachable < REQUESTS / 2  # no circle for each request, only what the connection and timers leave
