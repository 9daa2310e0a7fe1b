"""Services to look at, foreign and hostile ones among them, and a terminal to look through."""

import asyncio
import json
import os
import pty
import re
import sys
import termios

import msgspec

from mesh import Invalid, Response, Service
from mesh.messages import Announcement, Endpoint, Heartbeat, Route, encode, revision_of

HOSTILE = "evil\x1b[2J\x07\x9b31m\u202etxt\r\n"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


class NewUser(msgspec.Struct):
    name: str = ""
    age: int = 0


def users(version="1.0.0") -> Service:
    service = Service("users", version=version, description="who may play", metadata={"team": "core"})

    @service.get("/users/{user_id}", timeout=2.5, idempotent=True)
    async def get_user(user_id: int, full: bool = False) -> dict[str, object]:
        """One user."""
        if user_id == 0:
            raise Invalid("nobody is 0")
        return {"id": user_id, "full": full}

    @service.post("/users", status=201, deprecated=True, retry=False)
    async def create_user(body: NewUser) -> NewUser:
        return body

    @service.endpoint()
    async def greet(name: str, times: int = 1) -> str:
        return " ".join([name] * times)

    @service.get("/users/avatar.bin")
    async def avatar() -> Response:
        return Response(b"\xff\x00\x1b[2J", content_type="application/octet-stream", headers={"x-note": "evil\x9b2J"})

    return service


def responder(bus, answer):
    """A subscription's callback that answers everybody with that document."""
    payload = json.dumps(answer).encode()
    return lambda subject, reply, block, body: bus.publish(reply, payload)


class Foreign:
    """A micro service of another client: answers are as lenient as FACTS allows them to be."""

    def __init__(self, bus, name, answers):
        self.bus, self.name, self.answers = bus, name, answers

    async def start(self):
        for verb, answer in self.answers.items():
            for who in ("", f".{self.name}", f".{self.name}.GoLike1"):
                await self.bus.subscribe(f"$SRV.{verb}{who}", responder(self.bus, answer))
        await self.bus.subscribe(f"{self.name}.add", self._add)
        await self.bus.subscribe(f"{self.name}.divide", self._divide)
        await self.bus.flush()

    def _divide(self, subject, reply, block, payload):
        """An answer of the micro library: its errors are two headers."""
        if b"Mesh-Params: by=0" in block:
            self.bus.publish(
                reply, b"", b"NATS/1.0\r\nNats-Service-Error: by zero\r\nNats-Service-Error-Code: 422\r\n\r\n"
            )
        else:
            self.bus.publish(reply, b"7")

    def _add(self, subject, reply, block, payload):
        self.bus.publish(reply, b"%d" % sum(json.loads(payload).values()))


def go_like(name):
    identity = {"name": name, "id": "GoLike1", "version": "0.3.0", "metadata": None}
    endpoint = {"name": "add", "subject": f"{name}.add", "queue_group": "q"}
    figures = {"num_requests": 7, "num_errors": 1, "processing_time": 14e6, "average_processing_time": 2000000.5}
    return {
        "PING": identity,
        "INFO": {**identity, "description": "adds", "endpoints": [{**endpoint, "metadata": None}, 7]},
        "STATS": {**identity, "started": "2024-05-01T10:11:12.123456789Z", "endpoints": [{**endpoint, **figures}]},
    }


def with_routes(name, *routes, path="/sums"):
    """The same with two routes, and two that cannot be one; ``routes`` are claimed besides."""

    def endpoint(kind, subject, **metadata):
        metadata = {key.replace("_", "."): value for key, value in metadata.items()}
        return {"name": kind, "subject": subject, "queue_group": "q", "metadata": metadata}

    answers = go_like(name)
    answers["INFO"]["endpoints"] = [
        endpoint("add", f"{name}.add", http_method="POST", http_path=path, http_summary="Adds up."),
        endpoint("divide", f"{name}.divide", http_path=f"{path}/{{by}}"),
        endpoint("bare", f"{name}.bare", http_path="no-slash"),
        endpoint("two", f"{name}.two", http_path=f"{path}/two", http_method="GET,POST"),
        *[endpoint(f"more{i}", f"{name}.divide", http_path=route) for i, route in enumerate(routes)],
    ]
    return answers


async def announce_hostile(mesh):
    """An instance that puts control characters wherever the protocol has room for text."""
    bus = mesh.client("hostile")
    await bus.__aenter__()
    endpoints = (Endpoint(name="bad", subject="x.y", metadata={"k" + HOSTILE: HOSTILE}),)
    routes = (
        Route(method="GET", path="/ok", endpoint="bad", summary=HOSTILE),
        Route(method="GET", path="/" + HOSTILE, endpoint="bad"),
    )
    revision = revision_of("hostile", HOSTILE, endpoints, routes)
    message = Announcement(
        name="hostile",
        id=bus.instance,
        version="1" + HOSTILE,
        description=HOSTILE,
        metadata={HOSTILE: HOSTILE},
        endpoints=endpoints,
        routes=routes,
        seq=1,
        revision=revision,
        state="ready",
        started=HOSTILE,
        heartbeat_ms=30_000,
    )

    def announce(*_):
        bus.publish(bus.address(bus.subjects.announce("hostile", bus.instance)), encode(message))
        beat = Heartbeat(name="hostile", id=bus.instance, seq=2, revision=revision, state="ready")
        bus.publish(bus.address(bus.subjects.heartbeat("hostile", bus.instance)), encode(beat))

    await bus.subscribe(bus.subjects.discover(), announce)
    await bus.flush()
    announce()
    return bus


async def on_terminal(shell, *arguments, answer=b"", columns=200, **environment):
    """What a person sees, standard error included."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    without_size = {key: value for key, value in shell.environment.items() if key not in ("COLUMNS", "LINES")}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mesh",
        *arguments,
        env={**without_size, "TERM": "xterm", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    if answer:
        os.write(ours, answer)

    def read():
        chunks = []
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux's word for the end
                break
            if not chunk:
                break
            chunks.append(chunk)
        return b"".join(chunks)

    shown = await asyncio.to_thread(read)
    await asyncio.wait_for(child.wait(), 20)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")
